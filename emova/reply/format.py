"""How a spoken reply is written as tokens: the protocol of reply formats, and what all of them share.

A format writes replies for training, builds the grammar that the model's decoding obeys, and hands out the parser that
turns the stream into events while it is being written. ``emova.checkpoint.registry`` knows the formats by their kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from emova.reply.grammar import USUAL_RATE, Fixed, FreeText, Grammar, TokenTable, Units, UnitsPiece
from emova.reply.parser import Piece, ReplyEvent, SpokenReply
from emova.reply.tools import Toolbox
from emova.speech.style import StyleSet

# The words that ask for the single tasks; training and inference share them.
TRANSCRIBE_PROMPT = "Write down what is said."
SPEAK_PROMPT = "Say this: "

LEAST_UNITS = 0.9
"""Of reading aloud, for each letter, where 25 are a second: of 8,500 sentences by the canonical voice one in a thousand
has fewer than 1.0."""

Role = Literal["skeleton", "transcript", "answer", "style", "speech"]
"""What a stretch of a reply's tokens says; ``skeleton`` is the same in every reply."""


@dataclass(frozen=True)
class ReplyLimits:
    """How long the parts of one reply may be (750 units are 30 s of speech where 25 are a second)."""

    max_transcript_tokens: int = 128
    max_text_tokens: int = 192
    max_units: int = 750
    max_call_tokens: int = 256
    """Of the arguments of all calls of tools, which stand in the place of text and units."""

    @property
    def usual(self) -> int:
        """Room that lets most replies be as long as they want, in tokens."""
        return min(600, self.max_transcript_tokens + self.max_text_tokens + self.max_units)

    @property
    def least(self) -> int:
        """Room without which there is no use in answering, in tokens."""
        return min(32, self.max_transcript_tokens + self.max_text_tokens + self.max_units)

    def within(self, room: int) -> ReplyLimits:
        """The same limits, or smaller ones that together need no more than ``room`` tokens."""
        transcript = min(self.max_transcript_tokens, room // 4)
        text = min(self.max_text_tokens, room // 4)
        units = min(self.max_units, room - transcript - text)
        return ReplyLimits(transcript, text, units, min(self.max_call_tokens, text + units))


@dataclass(frozen=True)
class ReplyConstraints:
    """What of a reply is given beforehand; None leaves it to the model. ``tools`` are what it may call instead."""

    transcript: str | None = None
    emotion: str | None = None
    pitch: str | None = None
    limits: ReplyLimits = field(default_factory=ReplyLimits)
    tools: Toolbox | None = None
    text: str | None = None
    """The answer itself; a format whose text and speech alternate leaves it to the model."""
    unit_rate: float = USUAL_RATE
    """Units a second of the voice that says it."""

    def emotions(self, styles: StyleSet) -> tuple[str, ...]:
        """The emotions among which the model chooses."""
        return styles.emotions if self.emotion is None else (self.emotion,)

    @property
    def callable(self) -> Toolbox | None:
        """The tools that the reply may call."""
        return self.tools if self.tools is not None and self.tools.may_call else None

    def pitches(self, styles: StyleSet) -> tuple[str, ...]:
        """The pitches among which the model chooses."""
        return styles.pitches if self.pitch is None else (self.pitch,)


UNCONSTRAINED = ReplyConstraints()


class Parser(Protocol):
    """Turns the pieces of one reply into events; any split of the stream gives the same events."""

    done: bool

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""
        ...

    def finish(self) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        ...


WordsEnd = Literal["style", "voice", "reply"]


class ReplyFormat(Protocol):
    """One way to write a spoken reply as tokens. Subclasses inherit ``encode`` and ``split``.

    Attributes:
        styles: the words that a reply may name.
        system_prompt: asks the model for this format.
        speaks: whether every answer has speech.
        speak_prompt: what stands before a text that is to be read aloud.
        schema: the words of its own that stand in every reply, in lower case; in an answer they stand side by side
            only where the model has lost the thread.
        words_end: when all words of an answer are there: its style is told, its voice begins, or it has ended. Who
            wants no sound need not wait any longer; an answer that has no words by then has them behind it.
    """

    styles: StyleSet
    system_prompt: str
    schema: frozenset[str] = frozenset()
    speaks: bool = True
    words_end: WordsEnd = "reply"
    speak_prompt: str = SPEAK_PROMPT

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> Self:
        """Build it for a checkpoint; ``options`` are what its ``config.json`` says of this kind.

        Raises:
            InputError: an option is unknown or wrong.
        """
        ...

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """The token ids of a reply, end of turn included, cut by what they say.

        Joined they are what the grammar would let the model write: training learns no other tokens.
        """
        ...

    def encode(self, reply: SpokenReply, table: TokenTable) -> list[int]:
        """The token ids of a reply, end of turn included."""
        return [token for _, ids in self.stretches(reply, table) for token in ids]

    def split(self, text: str) -> list[str]:
        """A reply as text, up to its speech, cut where ``encode`` tokenises apart; any other text stays whole."""
        return [text]

    def transcription(self, units: list[int], table: TokenTable) -> list[dict[str, object]]:
        """What asks to write down speech units: content parts of a user's message."""
        return [{"type": "audio", "units": units}, {"type": "text", "text": TRANSCRIBE_PROMPT}]

    def reading(self, table: TokenTable, text: str, max_units: int, unit_rate: float = USUAL_RATE) -> Grammar:
        """What may come when ``text`` is to be read aloud in units of which ``unit_rate`` are a second."""
        return speech_grammar(table, text, max_units, unit_rate)

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """What a reply may look like."""
        ...

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """How many tokens a reply has at most beside the free text and the units."""
        ...

    def parser(self, voice: str | None = None) -> Parser:
        """A fresh parser for the pieces of one reply in ``voice``; the default voice if None."""
        ...


def text_grammar(table: TokenTable, max_tokens: int, transcribes: bool = False) -> Grammar:
    """A plain answer, or a transcript: text up to the end of turn."""
    closer = table.end_of_turn
    return Grammar([FreeText(table, closer, json_string=False, max_tokens=max_tokens, transcribes=transcribes)])


def speech_grammar(table: TokenTable, text: str, max_units: int, unit_rate: float = USUAL_RATE) -> Grammar:
    """Reading ``text`` aloud: speech and nothing else, which does not end before the letters can be said.

    Args:
        unit_rate: units a second.
    """
    units = Units(table, max_units, len(text.encode()), _least_units(text, unit_rate), unit_rate)
    return Grammar([Fixed([table.speech_start]), units, Fixed([table.end_of_turn])])


def speech_piece(table: TokenTable, text: str, max_units: int, unit_rate: float, begun: int, piece: int) -> Grammar:
    """The next ``piece`` units of ``text`` after ``begun``, or what is left of it up to the end of speech."""
    least = _least_units(text, unit_rate)
    units = UnitsPiece(table, max_units, len(text.encode()), least, unit_rate, begun=begun, piece=piece)
    return Grammar([*([] if begun else [Fixed([table.speech_start])]), units])


def _least_units(text: str, unit_rate: float) -> int:
    return round(LEAST_UNITS * unit_rate / USUAL_RATE * sum(map(str.isalpha, text)))
