"""A question that is still being asked: sound becomes units as it comes in, a picture waits for its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from numpy.typing import ArrayLike
from PIL import Image

from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.tools import Toolbox, ToolResult, results_text
from emova.session.long_speech import SpeechWindow
from emova.session.protocol import DialogueModel
from emova.speech.tokenizer.streaming import StreamingTokenizer


def check_question(
    model: DialogueModel,
    text: str | None,
    emotion: str | None,
    pitch: str | None,
    spoken: bool,
    limits: ReplyLimits | None = None,
    tools: Toolbox | None = None,
    told: bool = False,
) -> tuple[str | None, ReplyConstraints]:
    """The text of a question, cleaned, and what it fixes of the reply.

    Args:
        spoken: whether there is sound too; only then must the model write a transcript.
        limits: of the reply; the model's if None.
        tools: what the reply may call.
        told: whether there are results of tools; they need no question beside them.

    Raises:
        InputError: nothing was asked, the text is unusable, or a style word is unknown.
    """
    emotion = None if emotion is None else model.styles.check_emotion(emotion)
    pitch = None if pitch is None else model.styles.check_pitch(pitch)
    text = None if text is None else model.check_text(text)
    if text is None and not spoken and not told:
        raise InputError("no question: give audio or text; a picture alone asks nothing")
    transcript = None if spoken else text or ""
    limits, unit_rate = limits or model.config.reply_limits, model.voice.detokenizer.unit_rate
    return text, ReplyConstraints(transcript, emotion, pitch, limits, tools, unit_rate=unit_rate)


class Question:
    """The parts of one question, and the prompt that they make.

    Args:
        heard: speech units that stand before what will be heard.

    Attributes:
        picture: its tokens and tiles.
        sound: the recording so far.
        results: what tools gave back for the calls before it; it stands before the question, or in its place.
    """

    def __init__(
        self,
        model: DialogueModel,
        picture: Prompt | None = None,
        heard: Sequence[int] = (),
        results: tuple[ToolResult, ...] = (),
    ) -> None:
        self._model = model
        self.picture, self.results = picture, results
        self.sound: StreamingTokenizer | None = None
        self._heard = tuple(heard)
        self._window = SpeechWindow.of(model, self._heard)

    def tell(self, results: Sequence[ToolResult]) -> None:
        """Take what tools gave back. Raises: InputError: it is too long."""
        cleaned = [replace(each, content=each.content and self._model.check_text(each.content)) for each in results]
        self.results = (*self.results, *cleaned)

    def show(self, image: Image.Image) -> None:
        """Take a loaded picture; it replaces an earlier one of this question."""
        prompt = self._model.prompt([{"role": "user", "content": [{"type": "image", "image": image}]}])
        # Without the start of the text and the role before it, the turn's end and the next role after it.
        frame = self._model.frame
        behind = len(frame.user_end) + len(frame.assistant)
        inside = slice(len(frame.begin_user) + len(frame.user), len(prompt.ids) - behind)
        self.picture = Prompt(prompt.ids[inside], prompt.pixel_values, prompt.image_grids)

    def hear(self, samples: ArrayLike) -> None:
        """Take the next samples ``[T]``. Raises: InputError."""
        if self.sound is None:
            self.sound = StreamingTokenizer(self._model.speech_tokenizer, self._model.config.audio_limits)
        self._window.step(self.sound.step(samples))
        self._window.prepare()

    def end(self) -> None:
        """Nothing more will be heard. Raises: InputError: what was heard is too short, or silence."""
        if self.sound is not None:
            self._window.step(self.sound.finish())

    @property
    def shed(self) -> int:
        """How many positions more long speech took before its beginning left."""
        return self._window.shed

    @property
    def lead(self) -> str:
        """What long speech said before what the model still hears of it."""
        return self._window.lead

    @property
    def spoken(self) -> bool:
        """Whether there is sound."""
        return self.sound is not None or bool(self._heard)

    @property
    def silent(self) -> bool:
        """Whether somebody listened and nothing was to be heard."""
        return self.sound is not None and self.sound.silent and not self._heard

    @property
    def units(self) -> tuple[int, ...]:
        """The speech units that are certain so far."""
        return self._heard if self.sound is None else (*self._heard, *self.sound.units)

    @property
    def empty(self) -> bool:
        """Whether nothing was said or shown, and no tool gave anything back."""
        return self.picture is None and not self.spoken and not self.results

    def so_far(self) -> Prompt:
        """What is certain already: the beginning of ``prompt``, but for speech that is longer than the model reads."""
        if self.picture is None and not self.spoken:
            return Prompt(self._told())
        ids, frame = self._model.token_ids, self._model.frame
        spoken = (*frame.heard, *ids.from_units(self._window.units)) if self.spoken else ()
        return self._behind_picture((*frame.user, *spoken))

    def prompt(self, text: str | None) -> Prompt:
        """The whole question, as training renders it."""
        content: list[dict[str, object]] = []
        if self.spoken:
            content.append({"type": "audio", "units": list(self._window.units)})
        if text is not None:
            content.append({"type": "text", "text": text})
        if self.results and not content and self.picture is None:
            return Prompt((*self._told(), *self._model.frame.assistant))
        return self._behind_picture(self._turn([{"role": "user", "content": content}]))

    def _behind_picture(self, ids: tuple[int, ...]) -> Prompt:
        if self.picture is None:
            return Prompt((*self._told(), *ids))
        role = len(self._model.frame.user)
        shown = (*self._told(), *ids[:role], *self.picture.ids, *ids[role:])
        return Prompt(shown, self.picture.pixel_values, self.picture.image_grids)

    def _told(self) -> tuple[int, ...]:
        """The results as a system message; nothing without any."""
        if not self.results:
            return ()
        message = {"role": "system", "content": results_text(self.results)}
        turn = self._turn([message])
        return turn[: len(turn) - len(self._model.frame.assistant)]

    def _turn(self, messages: Sequence[Mapping[str, object]]) -> tuple[int, ...]:
        """Messages without the start of the text."""
        return self._model.prompt(messages).ids[len(self._model.frame.opening(messages[0]["role"])) :]

    def close(self) -> None:
        """Drop the recording's state."""
        if self.sound is not None:
            self.sound.close()
