"""The spoken reply as a chain of modality (EMOVA §4.2, Fig. 3): the question, the answer, its style, its units.

A reply is a token stream. ``JsonReply`` writes it for training, builds the grammar that the model's decoding obeys, and
hands out the parser that turns the stream into events while it is being written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Protocol

from emova.core.tokens import speech_pieces, speech_text
from emova.reply.grammar import (
    Choice,
    Fixed,
    FreeText,
    Grammar,
    Segment,
    TokenTable,
    Units,
)
from emova.reply.parser import (
    KEYS,
    SPEECH_KEY,
    Marker,
    Piece,
    PieceReader,
    ReplyDone,
    ReplyEvent,
    ReplyParser,
    SpokenReply,
    StyleChosen,
    TextDelta,
    TranscriptDelta,
    UnitsDelta,
    collect,
    merge_deltas,
)
from emova.speech.style import DEFAULT_VOICE, EMOTIONS, PITCHES

__all__ = [
    "SPEAK_PROMPT",
    "SPEECH_KEY",
    "SPOKEN_SYSTEM",
    "TRANSCRIBE_PROMPT",
    "JsonReply",
    "Marker",
    "Parser",
    "Piece",
    "PieceReader",
    "ReplyDone",
    "ReplyEvent",
    "ReplyFormat",
    "ReplyLimits",
    "ReplyParser",
    "ReplyConstraints",
    "SpokenReply",
    "StyleChosen",
    "TextDelta",
    "TranscriptDelta",
    "UnitsDelta",
    "collect",
    "merge_deltas",
    "speech_grammar",
    "text_grammar",
]

# The words that ask for each task; training and inference share them.
SPOKEN_SYSTEM = "Reply as JSON."
TRANSCRIBE_PROMPT = "Write down what is said."
SPEAK_PROMPT = "Say this: "


# --- the format -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ReplyLimits:
    """How long the parts of one reply may be (750 units are 30 s of speech)."""

    max_transcript_tokens: int = 128
    max_text_tokens: int = 192
    max_units: int = 750

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
        return ReplyLimits(transcript, text, min(self.max_units, room - transcript - text))


@dataclass(frozen=True)
class ReplyConstraints:
    """What of a reply is given beforehand; None leaves it to the model."""

    transcript: str | None = None
    emotion: str | None = None
    pitch: str | None = None
    limits: ReplyLimits = field(default_factory=ReplyLimits)


class Parser(Protocol):
    """Turns the pieces of one reply into events; any split of the stream gives the same events."""

    done: bool

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""

    def finish(self) -> list[ReplyEvent]:
        """Say that the stream has ended."""


class ReplyFormat(Protocol):
    """One way to write a spoken reply as tokens."""

    system_prompt: str

    def encode(self, reply: SpokenReply, table: TokenTable) -> list[int]:
        """The token ids of a reply, end of turn included, as the grammar would let the model write it."""

    def grammar(self, table: TokenTable, wish: ReplyConstraints) -> Grammar:
        """What a reply may look like."""

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """How many tokens a reply has at most beside the free text and the units."""

    def parser(self, gender: str = DEFAULT_VOICE) -> Parser:
        """A fresh parser for the pieces of one reply."""


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# A reply up to its speech, as (what stands before a string, the string, its quote) four times, and the rest.
_HEAD = re.compile(
    r'(\{"' + r'": ")((?:[^"\\]|\\.)*)(")(, "'.join(KEYS) + r'": ")',
)


class JsonReply:
    """The chain of modality as JSON, keys in a fixed order (EMOVA Fig. 3)."""

    system_prompt = SPOKEN_SYSTEM

    def format(self, reply: SpokenReply) -> str:
        """The reply as a string, without the end of turn."""
        speech = speech_text(reply.units)
        strings = [_inside(value) for value in (reply.transcript, reply.text, reply.emotion, reply.pitch)]
        return "".join(self._before(index) + string + '"' for index, string in enumerate([*strings, speech])) + "}"

    def parse(self, text: str) -> SpokenReply:
        """The inverse of ``format``. Raises: InputError: the text breaks the schema."""
        head, mark, tail = text.rpartition(f'"{SPEECH_KEY}": "')
        pieces: list[Piece] = [head + mark]
        pieces += [Marker(value) if what == "token" else value for what, value in speech_pieces(tail)]
        parser = ReplyParser()
        events = merge_deltas([event for piece in pieces for event in parser.feed(piece)] + parser.finish())
        return collect(events)

    def encode(self, reply: SpokenReply, table: TokenTable) -> list[int]:
        """The token ids of ``reply`` with the end of turn.

        Strings and the text between them are tokenised apart, so a string always ends with the token that is exactly
        a quote: training must use these ids, or the grammar would ask for tokens that the model has not learnt.
        """
        ids: list[int] = []
        for index, value in enumerate((reply.transcript, reply.text, reply.emotion, reply.pitch)):
            ids += [*table.encode(self._before(index)), *table.encode(_inside(value)), table.quote]
        ids += [*table.encode(self._before(4)), table.speech_start, *table.unit_ids[list(reply.units)].tolist()]
        return [*ids, table.speech_end, *table.encode('"}'), table.end_of_turn]

    def grammar(self, table: TokenTable, wish: ReplyConstraints | None = None) -> Grammar:
        """What a reply may look like."""
        return Grammar(self._segments(table, wish or ReplyConstraints()))

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """How many tokens a reply has at most beside the free text and the units."""
        lengths = [len(segment) for segment in self._segments(table, wish) if isinstance(segment, Fixed | Choice)]
        # Each free text may go on to the end of a character (3 bytes) and ends with a quote; the units have an end.
        return sum(lengths) + 2 * 4 + 1

    def parser(self, gender: str = DEFAULT_VOICE) -> ReplyParser:
        """A fresh parser for the pieces of one reply."""
        return ReplyParser(gender)

    @staticmethod
    def split(text: str) -> list[str]:
        """A reply's text up to its speech, cut where ``encode`` tokenises apart; any other text stays whole."""
        match = _HEAD.fullmatch(text)
        return [part for part in match.groups() if part] if match else [text]

    @staticmethod
    def _before(index: int) -> str:
        """What stands before the value ``index``, from the last quote on."""
        return ('{"' if index == 0 else ', "') + KEYS[index] + '": "'

    def _segments(self, table: TokenTable, wish: ReplyConstraints) -> list[Segment]:
        limits = wish.limits
        skeleton = [table.encode(self._before(index)) for index in range(len(KEYS))]
        transcript: Segment
        if wish.transcript is None:
            most = limits.max_transcript_tokens
            transcript = FreeText(table, table.quote, json_string=True, max_tokens=most, transcribes=True)
        else:
            transcript = Fixed([*table.encode(_inside(wish.transcript)), table.quote])
        text = FreeText(table, table.quote, json_string=True, max_tokens=limits.max_text_tokens, min_tokens=1)
        emotions = EMOTIONS if wish.emotion is None else (wish.emotion,)
        pitches = PITCHES if wish.pitch is None else (wish.pitch,)
        return [
            Fixed(skeleton[0]),
            transcript,
            Fixed(skeleton[1]),
            text,
            Fixed(skeleton[2]),
            Choice([*table.encode(value), table.quote] for value in emotions),
            Fixed(skeleton[3]),
            Choice([*table.encode(value), table.quote] for value in pitches),
            Fixed([*skeleton[4], table.speech_start]),
            Units(table, limits.max_units, text),
            Fixed([*table.encode('"}'), table.end_of_turn]),
        ]


# --- the two single tasks ---------------------------------------------------------------------------------------------
def text_grammar(table: TokenTable, max_tokens: int, transcribes: bool = False) -> Grammar:
    """A plain answer, or a transcript: text up to the end of turn."""
    closer = table.end_of_turn
    return Grammar([FreeText(table, closer, json_string=False, max_tokens=max_tokens, transcribes=transcribes)])


def speech_grammar(table: TokenTable, text: str, max_units: int) -> Grammar:
    """Reading ``text`` aloud: speech and nothing else."""
    units = Units(table, max_units, len(text.encode()))
    return Grammar([Fixed([table.speech_start]), units, Fixed([table.end_of_turn])])
