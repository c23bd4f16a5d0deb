"""Conversation: several turns with an assistant, each asked as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emova.core.errors import UnfitReplyError
from emova.decoding.protocol import Prompt
from emova.events import Done, Event, Reply
from emova.reply.grammar import Grammar
from emova.session.another import Another, in_place_of
from emova.session.history import TurnContext
from emova.session.input import check_question
from emova.session.long_speech import SpeechWindow
from emova.session.output import ReplyAssembler
from emova.session.protocol import DialogueModel
from emova.speech.tokenizer.streaming import Audio
from emova.vision.image import load_image

if TYPE_CHECKING:
    from emova.vision.image import Picture


class Conversation:
    """Several turns. Questions, pictures and answers stay in the context; the oldest leave when it is full.

    Not for several threads at once. A turn that fails or is not listened to to its end leaves no trace.

    Args:
        voice: who answers; the checkpoint's first voice if None.

    Attributes:
        history: the turns that are remembered.

    Raises:
        InputError: the voice is unknown.
    """

    def __init__(self, assistant: DialogueModel, voice: str | None = None) -> None:
        self.assistant = assistant
        self.voice = assistant.styles.parse(voice).gender
        self.history = TurnContext(assistant)

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self.history)

    def chat(
        self,
        *,
        audio: Audio | None = None,
        image: Picture | None = None,
        text: str | None = None,
        emotion: str | None = None,
        pitch: str | None = None,
    ) -> Reply:
        """Answer a question whole.

        Args:
            audio: the spoken question: a file, its bytes, samples ``[T]`` at 16 kHz, or chunks of samples.
            image: a picture for this turn.
            text: a written question, or a written addition to the spoken one.
            emotion, pitch: how to answer; the model chooses what is None.

        Raises:
            InputError: an input is unusable, or there is no question.
        """
        for event in self._answer(audio, image, text, emotion, pitch, in_chunks=False):
            if isinstance(event, Done):
                return event.reply
        raise AssertionError("a reply without an end")

    def stream(
        self,
        *,
        audio: Audio | None = None,
        image: Picture | None = None,
        text: str | None = None,
        emotion: str | None = None,
        pitch: str | None = None,
    ) -> Iterator[Event]:
        """Answer while the reply is being written: TranscriptDelta, TextDelta, StyleChosen, AudioChunk, Done.

        Takes what ``chat`` takes and raises what it raises, at the first event.
        """
        return self._answer(audio, image, text, emotion, pitch, in_chunks=True)

    def _answer(
        self,
        audio: Audio | None,
        image: Picture | None,
        text: str | None,
        emotion: str | None,
        pitch: str | None,
        in_chunks: bool,
    ) -> Iterator[Event]:
        assistant, history, started = self.assistant, self.history, time.perf_counter()
        text, constraints = check_question(assistant, text, emotion, pitch, audio is not None)
        window = SpeechWindow.of(assistant, () if audio is None else assistant.listen(audio))
        question = self._question(None if audio is None else window.units, image, text)
        listened = time.perf_counter()

        def assemble(another: Another, before: ReplyAssembler | None = None) -> ReplyAssembler:
            grammar = history.asking.grammar(question, another.constraints, window.shed)
            sees, behind = image is not None or history.asking.sees, len(history) > 0
            return ReplyAssembler(
                assistant, self.voice, in_chunks, started, listened, grammar, sees, another.doubt,
                guarded=before is not None or behind, distractible=before is None and behind, before=before,
                lead=window.lead,
            )  # fmt: skip

        assembler = assemble(Another(constraints, history.doubt))
        try:
            written = self._write(question, assembler.grammar)
            first: tuple[ReplyAssembler, Iterator[list[int]]] | None = None  # it waits while another one is tried
            while True:
                try:
                    yield from self._speak(written, assembler)
                    break
                except UnfitReplyError as error:
                    if first is not None:
                        (assembler, written), first = first, None
                        history.bring_back()
                        assembler.stand()
                        continue
                    another = in_place_of(assembler, error, history, question, constraints)
                    if another is None:
                        raise
                    if another.read:
                        history.reask(question)
                    first = (assembler, written) if history.alone else None
                    assembler = assemble(another, assembler)
                    written = self._write(question, assembler.grammar)
        except BaseException:
            history.rewind()
            raise
        history.add(question, assembler.tokens)
        yield Done(assembler.reply())

    def _write(self, question: Prompt, grammar: Grammar) -> Iterator[list[int]]:
        history, assistant = self.history.asking, self.assistant
        return assistant.decoder.write(history.context, history.rest(question), grammar, assistant.config.sampling)

    def _speak(self, written: Iterator[list[int]], assembler: ReplyAssembler) -> Iterator[Event]:
        yield from assembler.step(())  # what it was stopped at, if it was
        for tokens in written:
            if assembler.tokens:  # the first tokens are forced, they come before the model is asked
                assembler.choosing()
            yield from assembler.step(tokens)
        yield from assembler.finish()

    def _question(self, units: Sequence[int] | None, image: Picture | None, text: str | None) -> Prompt:
        """This turn alone, without what stands before a conversation's first turn. Raises: InputError."""
        content: list[dict[str, object]] = []
        if image is not None:
            content.append({"type": "image", "image": load_image(image, self.assistant.config.image_limits)})
        if units is not None:
            content.append({"type": "audio", "units": list(units)})
        if text is not None:
            content.append({"type": "text", "text": text})
        prompt = self.assistant.prompt([{"role": "user", "content": content}])
        begin = len(self.assistant.frame.begin_user)
        return Prompt(prompt.ids[begin:], prompt.pixel_values, prompt.image_grids)
