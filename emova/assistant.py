"""Assistant: the public face of emova."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emova.checkpoint.loading import Parts, find_checkpoint, load_parts
from emova.checkpoint.registry import REPLY_FORMATS
from emova.conversation import Conversation
from emova.core.errors import InputError, TooLongError
from emova.core.tokens import Frame, TokenIds
from emova.decoding.protocol import Context, DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.decoding.word_search import SearchConfig, WordSearch
from emova.engine.backend import resolve_backend
from emova.engine.decoder import best_decoder
from emova.engine.engine import EngineConfig
from emova.events import Reply, Speech
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyFormat, ReplyLimits, speech_piece, text_grammar
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.guard import ReplyGuard
from emova.reply.parser import PieceReader
from emova.session.long_speech import SpeechWindow
from emova.session.takes import Sentence, TakesConfig, read_sentence
from emova.session.transcripts import better_transcript
from emova.speech.audio import AudioLimits
from emova.speech.spelling import phone_letters, sounds
from emova.speech.style import Style, StyleSet
from emova.speech.tokenizer.protocol import HearsPhones, SpeechTokenizer
from emova.speech.tokenizer.streaming import Audio, listen
from emova.vision.image import ImageLimits

if TYPE_CHECKING:
    from emova.vision.image import Picture

DEFAULT_CHECKPOINT = "emova-nano"
_LONGEST_SPELLING = 600
"""Characters, of a sentence of 160 letters some 400."""
_SPEECH_SHARE = 9 / 16
"""Of the positions that dialogues were trained with; the rest is for what stands around the speech, and the words."""


@dataclass(frozen=True)
class AssistantConfig:
    """How an assistant listens and answers.

    Attributes:
        admit_doubt: say that it does not know, where the checkpoint says when (``Doubt``).
    """

    audio_limits: AudioLimits = field(default_factory=AudioLimits)
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    reply_limits: ReplyLimits = field(default_factory=ReplyLimits)
    reply_guard: ReplyGuard = field(default_factory=ReplyGuard)
    admit_doubt: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    takes: TakesConfig = field(default_factory=TakesConfig)
    words: SearchConfig = field(default_factory=SearchConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    max_text_characters: int = 2000


class Assistant:
    """A model, its speech tokenizer, and its voice.

    Args:
        parts: the model and what belongs to it; ``from_pretrained`` loads them.
        config: limits, sampling and decoding.
        reply_format: how a spoken reply is written, of those that the model was trained on; its usual one if None.
    """

    def __init__(
        self, parts: Parts, config: AssistantConfig = AssistantConfig(), reply_format: ReplyFormat | None = None
    ) -> None:
        self.parts = parts
        self.config = config
        self.reply_format: ReplyFormat = reply_format or parts.reply_format
        self.table = TokenTable.from_tokenizer(parts.processor.tokenizer)
        self.decoder: DecodingBackend[Any] = best_decoder(parts.model, config.engine)
        self.reading_decoder: DecodingBackend[Any] = self.decoder
        """Of the language model that reads aloud; the same one, where the checkpoint has no other."""
        if parts.reading_model is not None:
            self.reading_decoder = best_decoder(parts.reading_model, config.engine)
        self.spell = (parts.reading_model or parts.model).config.spell
        self.voice = parts.voice
        self.word_search: WordSearch | None = None
        """For the words of ordinary speech, where the checkpoint has them and its tokenizer tells phones."""
        if parts.words is not None and (reader := self.phone_reader) is not None:
            self.word_search = WordSearch(parts.words, reader.inventory, config.words)

    @property
    def speech_tokenizer(self) -> SpeechTokenizer:
        """What turns speech into units."""
        return self.parts.speech_tokenizer

    @property
    def phone_reader(self) -> HearsPhones | None:
        """The speech tokenizer, if it tells which phones its units stand for."""
        tokenizer = self.parts.speech_tokenizer
        return tokenizer if isinstance(tokenizer, HearsPhones) and tokenizer.reads_phones else None

    @property
    def trained_context(self) -> int:
        """Positions before an answer up to which dialogues were trained; a dialogue stays within them."""
        return min(self.parts.model.config.trained_context or self.decoder.max_length, self.decoder.max_length)

    @property
    def speech_window(self) -> int:
        """Units of speech that the model reads at once (``emova.session.long_speech``): a part of the positions that
        dialogues were trained with, or all where CTC does not tell where words lie."""
        config = self.parts.model.config
        if not config.trained_context or not config.ctc_layer:
            return self.decoder.max_length
        return int(_SPEECH_SHARE * self.trained_context)

    @property
    def trained_pictures(self) -> int:
        """How many pictures of a dialogue the model keeps apart; 0: any number."""
        return self.parts.model.config.trained_pictures

    @property
    def doubt(self) -> Doubt | None:
        """When it admits that it does not know, in place of an answer that it is not sure of."""
        return self.parts.model.config.doubts if self.config.admit_doubt else None

    @property
    def token_ids(self) -> TokenIds:
        """The control tokens and units of the vocabulary."""
        return self.parts.processor.token_ids

    @property
    def frame(self) -> Frame:
        """What stands around the parts of a conversation."""
        return self.parts.processor.frame

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
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``: one that torch can use here.
            reply_format: ``json``, ``interleaved`` or a registered kind, of those that the model was taught; the one
                that the checkpoint names if None.

        Raises:
            InputError: the checkpoint or a part of it is missing, damaged, or does not fit the others; there is no
                such device, or no such backend here.
        """
        if reply_format is not None:
            REPLY_FORMATS.find(reply_format)  # a wrong name is told before the parts are loaded
        config = dataclasses.replace(config, engine=resolve_backend(config.engine, find_checkpoint(name)))
        parts = load_parts(name, device, layers=config.engine.holds_layers)
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
        return self.transcribe_units(self.listen(audio))

    def transcribe_units(self, units: Sequence[int]) -> str:
        """What is said in speech units. Raises: InputError: they are too many."""
        window = SpeechWindow.of(self, units)
        written = window.lead + self.read_text(self._write(*self.transcribing(window.units))).strip()
        return better_transcript(self, units, written)

    def answer_text(self, messages: Sequence[Mapping[str, object]], max_tokens: int | None = None) -> str:
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
        return tuple(unit for each in self.reading(text) for unit in read_sentence(self, each, self._write_aloud))

    def tokenize(self, audio: Audio) -> tuple[int, ...]:
        """The speech units of ``audio``. Raises: InputError: the audio is unusable."""
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
        content = self.reply_format.transcription(units, self.table)
        return self._text_task([{"role": "user", "content": content}], transcribes=True)

    def reading(self, text: str) -> list[Sentence]:
        """What to ask, and what may come, to read each sentence of ``text`` aloud.

        Raises:
            InputError: no text, or too much of it.
        """
        tasks, unit_rate = [], self.voice.detokenizer.unit_rate
        for sentence, spelled in self._spelled(split_sentences(self.check_text(text))):
            asked = self.reply_format.speak_prompt + spelled
            prompt = self.prompt([{"role": "user", "content": [{"type": "text", "text": asked}]}])
            max_units = min(self.config.reply_limits.max_units, self._room(len(prompt.ids), 32) - 3)
            whole = partial(self.reply_format.reading, self.table, sentence, max_units, unit_rate)
            piece = partial(speech_piece, self.table, sentence, max_units, unit_rate)
            known = sounds(sentence) if self.spell is phone_letters else ""
            tasks.append(Sentence(known, prompt, whole, piece))
        return tasks

    def _spelled(self, sentences: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Sentences with their spellings; cut between words where a spelling is longer than any that was learnt."""
        for sentence in sentences:
            spelled, cut = self.spell(sentence), sentence.find(" ", len(sentence) // 2)
            if len(spelled) > _LONGEST_SPELLING and cut > 0:
                yield from self._spelled([sentence[:cut], sentence[cut + 1 :]])
            else:
                yield sentence, spelled

    def read_text(self, tokens: Iterable[int]) -> str:
        """The text of a plain answer's tokens."""
        reader = PieceReader(self.table)
        return "".join(piece for token in tokens for piece in reader.read(token) if isinstance(piece, str))

    def _text_task(
        self, messages: Sequence[Mapping[str, object]], max_tokens: int | None = None, transcribes: bool = False
    ) -> tuple[Prompt, Grammar]:
        prompt = self.prompt(messages)
        room = self._room(len(prompt.ids), 32)
        limit = min(max_tokens or self.config.reply_limits.max_text_tokens, room - 4)
        return prompt, text_grammar(self.table, limit, transcribes)

    def _write(self, prompt: Prompt, grammar: Grammar) -> Iterator[int]:
        written = self.decoder.write(self.decoder.new_context(), prompt, grammar, self.config.sampling)
        return chain.from_iterable(written)

    def _write_aloud(
        self, prompt: Prompt, grammar: Grammar, sampling: Sampling, context: Context[Any]
    ) -> Iterator[int]:
        return chain.from_iterable(self.reading_decoder.write(context, prompt, grammar, sampling))

    # --- what the parts share -----------------------------------------------------------------------------------------
    def listen(self, audio: Audio, *, reject_silence: bool = True) -> list[int]:
        """The units of a file, of samples ``[T]`` at 16 kHz, or of chunks of samples as they come in.

        Raises:
            InputError: the audio is unusable, or silent where it should not be.
        """
        return listen(self.parts.speech_tokenizer, audio, self.config.audio_limits, reject_silence)

    def check_text(self, text: str) -> str:
        """A user's text as the model takes it. Raises: InputError: it is empty, too long, or no text."""
        if not isinstance(text, str) or not text.strip():
            raise InputError("the text: it is empty; write what to say")
        if len(text) > self.config.max_text_characters:
            raise InputError(f"the text: longer than {self.config.max_text_characters} characters; shorten it")
        # A lone surrogate cannot be written as UTF-8, so no tokenizer can take it.
        return text.strip().encode("utf-8", "replace").decode()

    def prompt(self, messages: Sequence[Mapping[str, object]]) -> Prompt:
        """Messages in the processor's form (role and content parts), up to where the assistant answers.

        Raises:
            InputError: a role or a part is unknown, or an input is unusable.
        """
        rendered = self.parts.processor.render_prompt(messages)
        return Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)

    def _room(self, length: int, needed: int) -> int:
        """How many tokens are left after a prompt of ``length``. Raises: TooLongError: fewer than ``needed``."""
        room = self.decoder.max_length - length
        if room < needed:
            readable = max(0, self.decoder.max_length - needed)
            raise TooLongError(f"the question: {length} tokens, and the model reads {readable}; make it shorter")
        return room


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
