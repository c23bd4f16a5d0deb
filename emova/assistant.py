"""Assistant and Conversation: the public face of emova."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emova.checkpoint.loading import Parts, load_parts
from emova.checkpoint.registry import REPLY_FORMATS
from emova.core.errors import InputError
from emova.decoding.protocol import Context, DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.engine import EngineConfig, best_decoder
from emova.events import Done, Event, Reply, Speech
from emova.reply.format import (
    SPEAK_PROMPT,
    TRANSCRIBE_PROMPT,
    ReplyConstraints,
    ReplyFormat,
    ReplyLimits,
    speech_grammar,
    text_grammar,
)
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.parser import PieceReader
from emova.session.history import Turn, newest
from emova.session.output import ReplyAssembler
from emova.speech.audio import AudioLimits
from emova.speech.style import Style, StyleSet
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.streaming import Audio, listen
from emova.vision.image import ImageLimits, load_image

if TYPE_CHECKING:
    from PIL import Image

    from emova.core.io import Source

    Picture = Source | Image.Image

DEFAULT_CHECKPOINT = "emova-nano"


@dataclass(frozen=True)
class AssistantConfig:
    """How an assistant listens and answers."""

    audio_limits: AudioLimits = field(default_factory=AudioLimits)
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    reply_limits: ReplyLimits = field(default_factory=ReplyLimits)
    sampling: Sampling = field(default_factory=Sampling)
    engine: EngineConfig = field(default_factory=EngineConfig)
    max_text_characters: int = 2000


class Assistant:
    """A model with its ears, eyes and voice.

    Args:
        parts: the model and what belongs to it; ``from_pretrained`` loads them.
        config: limits, sampling and decoding.
        reply_format: how a spoken reply is written, of those that the model was taught; its usual one if None.
    """

    def __init__(
        self, parts: Parts, config: AssistantConfig = AssistantConfig(), reply_format: ReplyFormat | None = None
    ) -> None:
        self.parts = parts
        self.config = config
        self.reply_format: ReplyFormat = reply_format or parts.reply_format
        self.table = TokenTable.from_tokenizer(parts.processor.tokenizer)
        self.decoder: DecodingBackend[Any] = best_decoder(parts.model, config.engine)
        self.voice = parts.voice

    @property
    def speech_tokenizer(self) -> SpeechTokenizer:
        """What turns speech into units."""
        return self.parts.speech_tokenizer

    @property
    def styles(self) -> StyleSet:
        """The voices, emotions and pitches of the checkpoint."""
        return self.voice.styles

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT_CHECKPOINT,
        *,
        device: str = "cpu",
        config: AssistantConfig = AssistantConfig(),
        reply_format: str | None = None,
    ) -> Assistant:
        """Load a checkpoint by its shipped name or its folder; nothing is downloaded.

        Args:
            reply_format: ``json``, ``interleaved`` or a registered kind, of those that the model was taught; the one
                that the checkpoint names if None.

        Raises:
            InputError: the checkpoint or a part of it is missing, damaged, or does not fit the others.
        """
        if reply_format is not None:
            REPLY_FORMATS.find(reply_format)  # a wrong name is told before the parts are loaded
        parts = load_parts(name, device)
        return cls(parts, config, parts.model.config.reply_format(reply_format))

    # --- dialogue -----------------------------------------------------------------------------------------------------
    def conversation(self, voice: str | None = None) -> Conversation:
        """Several turns that remember what was said and shown, answered in ``voice`` (the checkpoint's first if None).

        Raises:
            InputError: the voice is unknown.
        """
        return Conversation(self, voice)

    def chat(
        self,
        *,
        audio: Audio | None = None,
        image: Picture | None = None,
        text: str | None = None,
        voice: str | None = None,
        emotion: str | None = None,
        pitch: str | None = None,
    ) -> Reply:
        """Answer one question; see ``Conversation.chat``."""
        return self.conversation(voice).chat(audio=audio, image=image, text=text, emotion=emotion, pitch=pitch)

    # --- single tasks -------------------------------------------------------------------------------------------------
    def transcribe(self, audio: Audio) -> str:
        """What is said in ``audio``. Raises: InputError: the audio is unusable or silent."""
        prompt, grammar = self.transcribing(self.listen(audio))
        tokens = self._write(prompt, grammar)
        return self.read_text(tokens).strip()

    def answer_text(self, messages: list[dict[str, Any]], max_tokens: int | None = None) -> str:
        """A plain text answer to a conversation in the processor's form (role and content parts).

        Raises:
            InputError: the conversation is longer than the model's context.
        """
        return self.read_text(self._write(*self._text_task(messages, max_tokens))).strip()

    def speak(self, text: str, style: Style | None = None) -> Speech:
        """Read ``text`` aloud, sentence by sentence. Raises: InputError: no text, or too much of it."""
        return self.render(self.pronounce(text), style)

    def pronounce(self, text: str) -> tuple[int, ...]:
        """The speech units in which the model reads ``text`` aloud. Raises: InputError: no text, or too much of it."""
        tokens = [token for prompt, grammar in self.reading(text) for token in self._write(prompt, grammar)]
        return tuple(unit for token in tokens if (unit := int(self.table.unit_of[token])) >= 0)

    def tokenize(self, audio: Audio) -> tuple[int, ...]:
        """The speech units of ``audio``, 25 a second. Raises: InputError: the audio is unusable."""
        return tuple(self.listen(audio, reject_silence=False))

    def resynthesize(self, audio: Audio, style: Style | None = None) -> Speech:
        """Say what is said in ``audio`` in another style: same units, new voice. Raises: InputError."""
        return self.render(self.tokenize(audio), style)

    def render(self, units: Iterable[int], style: Style | None = None) -> Speech:
        """Speak ``units`` in a style. Raises: InputError: a unit lies outside of the codebook."""
        style = self.styles.default if style is None else self.styles.check(style)
        spoken = tuple(int(unit) for unit in units)
        return Speech(spoken, style, self.voice.synthesize(spoken, style), self.voice.sample_rate)

    # --- single tasks as prompts --------------------------------------------------------------------------------------
    def transcribing(self, units: list[int]) -> tuple[Prompt, Grammar]:
        """What to ask, and what may come, to write down speech units. Raises: InputError: too many units."""
        content = [{"type": "audio", "units": units}, {"type": "text", "text": TRANSCRIBE_PROMPT}]
        return self._text_task([{"role": "user", "content": content}], transcribes=True)

    def reading(self, text: str) -> list[tuple[Prompt, Grammar]]:
        """What to ask, and what may come, to read each sentence of ``text`` aloud.

        Raises:
            InputError: no text, or too much of it.
        """
        tasks = []
        for sentence in split_sentences(self._check_text(text)):
            prompt = self._prompt([{"role": "user", "content": [{"type": "text", "text": SPEAK_PROMPT + sentence}]}])
            max_units = min(self.config.reply_limits.max_units, self._room(len(prompt.ids), 32) - 3)
            tasks.append((prompt, speech_grammar(self.table, sentence, max_units)))
        return tasks

    def read_text(self, tokens: Iterable[int]) -> str:
        """The text of a plain answer's tokens."""
        reader = PieceReader(self.table)
        return "".join(piece for token in tokens for piece in reader.read(token) if isinstance(piece, str))

    def _text_task(
        self, messages: list[dict[str, Any]], max_tokens: int | None = None, transcribes: bool = False
    ) -> tuple[Prompt, Grammar]:
        prompt = self._prompt(messages)
        room = self._room(len(prompt.ids), 32)
        limit = min(max_tokens or self.config.reply_limits.max_text_tokens, room - 4)
        return prompt, text_grammar(self.table, limit, transcribes)

    def _write(self, prompt: Prompt, grammar: Grammar) -> Iterator[int]:
        for tokens in self.decoder.write(self.decoder.new_context(), prompt, grammar, self.config.sampling):
            yield from tokens

    # --- what the parts share -----------------------------------------------------------------------------------------
    def listen(self, audio: Audio, *, reject_silence: bool = True) -> list[int]:
        """The units of a file, of samples ``[T]`` at 16 kHz, or of chunks of samples as they come in.

        Raises:
            InputError: the audio is unusable, or silent where it should not be.
        """
        return listen(self.parts.speech_tokenizer, audio, self.config.audio_limits, reject_silence)

    def _check_text(self, text: str) -> str:
        if not isinstance(text, str) or not text.strip():
            raise InputError("the text: it is empty; write what to say")
        if len(text) > self.config.max_text_characters:
            raise InputError(f"the text: longer than {self.config.max_text_characters} characters; shorten it")
        # A lone surrogate cannot be written as UTF-8, so no tokenizer can take it.
        return text.strip().encode("utf-8", "replace").decode()

    def _prompt(self, messages: list[dict[str, Any]]) -> Prompt:
        rendered = self.parts.processor.render_prompt(messages)
        return Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)

    def _room(self, length: int, needed: int) -> int:
        """How many tokens are left after a prompt of ``length``. Raises: InputError: fewer than ``needed``."""
        room = self.decoder.max_length - length
        if room < needed:
            readable = max(0, self.decoder.max_length - needed)
            raise InputError(f"the question: {length} tokens, and the model reads {readable}; make it shorter")
        return room


class Conversation:
    """Several turns. Questions, pictures and answers stay in the context; the oldest leave when it is full.

    Not for several threads at once. A turn that fails or is not listened to to its end leaves no trace.
    """

    def __init__(self, assistant: Assistant, voice: str | None = None) -> None:
        self.assistant = assistant
        self.voice = assistant.styles.parse(voice).gender
        self._turns: list[Turn] = []
        self._context: Context[Any] = assistant.decoder.new_context()

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self._turns)

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
        assistant, started = self.assistant, time.perf_counter()
        emotion = None if emotion is None else assistant.styles.check_emotion(emotion)
        pitch = None if pitch is None else assistant.styles.check_pitch(pitch)
        text = None if text is None else assistant._check_text(text)
        if audio is None and text is None:
            raise InputError("no question: give audio or text; a picture alone asks nothing")
        content: list[dict[str, Any]] = []
        if image is not None:
            content.append({"type": "image", "image": load_image(image, assistant.config.image_limits)})
        if audio is not None:
            content.append({"type": "audio", "units": assistant.listen(audio)})
        if text is not None:
            content.append({"type": "text", "text": text})
        listened = time.perf_counter()
        question = self._question(content)
        # A question that is only written need not be understood first.
        wish = ReplyConstraints(text if audio is None else None, emotion, pitch)
        overhead = assistant.reply_format.overhead(assistant.table, wish)
        prompt, room = self._make_room(question, overhead)
        wish = dataclasses.replace(wish, limits=assistant.config.reply_limits.within(room - overhead))
        grammar = assistant.reply_format.grammar(assistant.table, wish)
        parser, reader = assistant.reply_format.parser(self.voice), PieceReader(assistant.table)
        state = ReplyAssembler(assistant.voice, self.voice, in_chunks)
        mark = self._context.mark()
        answer: list[int] = []
        try:
            for tokens in assistant.decoder.write(self._context, prompt, grammar, assistant.config.sampling):
                if answer and not state.prefilled:  # the first tokens are forced, they come before the model is asked
                    state.prefilled = time.perf_counter()
                answer += tokens
                for event in [event for token in tokens for p in reader.read(token) for event in parser.feed(p)]:
                    yield from state.take(event)
            yield from state.finish()
        except BaseException:
            self._context.rewind(mark)
            raise
        self._turns.append(Turn(question, tuple(answer)))
        yield Done(state.reply(started, listened))

    def _question(self, content: list[dict[str, Any]]) -> Prompt:
        """This turn alone, without what stands before a conversation's first turn."""
        prompt = self.assistant._prompt([{"role": "user", "content": content}])
        return Prompt(prompt.ids[1:], prompt.pixel_values, prompt.image_grids)

    def _opening(self) -> Prompt:
        """What stands before the first turn: the start of the text, and the wish for a spoken reply."""
        rendered = self.assistant._prompt([{"role": "system", "content": self.assistant.reply_format.system_prompt}])
        return Prompt(rendered.ids[:-1])  # without the generation prompt

    def _make_room(self, question: Prompt, overhead: int) -> tuple[Prompt, int]:
        """What to feed, and the tokens left for the reply; forgets the oldest turns if there are too few.

        Raises:
            InputError: the question alone is longer than the model's context.
        """
        decoder = self.assistant.decoder
        limits = self.assistant.config.reply_limits
        wanted = min(overhead + limits.usual, decoder.max_length // 2)
        kept = list(self._turns)
        if self._context.length:
            used = self._context.length + len(self._context.waiting) + len(question.ids)
            if used + wanted <= decoder.max_length:
                return question, decoder.max_length - used
            kept = kept[1:]
        prompt = self._opening()
        kept = newest(kept, decoder.max_length - wanted - len(prompt.ids) - len(question.ids))
        for turn in kept:
            prompt = prompt + turn.question + Prompt(turn.answer)
        prompt = prompt + question
        room = self.assistant._room(len(prompt.ids), overhead + limits.least)
        self._turns, self._context = kept, decoder.new_context()
        return prompt, room


def split_sentences(text: str, longest: int = 160) -> list[str]:
    """``text`` cut after its sentences, and where a sentence has more than ``longest`` characters, between words."""
    sentences: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", " ".join(text.split())):
        while len(sentence) > longest:
            cut = sentence.rfind(" ", 1, longest)
            cut = longest if cut < 0 else cut
            sentences.append(sentence[:cut].strip())
            sentence = sentence[cut:].strip()
        if sentence:
            sentences.append(sentence)
    return sentences
