"""Reading a spoken reply while it is being written: tokens to pieces, pieces to events."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from emova.core.errors import InputError
from emova.core.tokens import SPEECH_END, SPEECH_START
from emova.reply.calls import Call, CallDelta, CallsReader, CallStarted
from emova.reply.grammar import TokenTable
from emova.speech.style import DEFAULT_STYLES, Style, StyleSet

TRANSCRIPT_KEY = "user question text"
TEXT_KEY = "assistant response text"
EMOTION_KEY = "assistant response emotion"
PITCH_KEY = "assistant response pitch"
SPEECH_KEY = "assistant response speech"
KEYS = (TRANSCRIPT_KEY, TEXT_KEY, EMOTION_KEY, PITCH_KEY, SPEECH_KEY)
CALLS_KEY = "assistant tool calls"
"""In the place of the answer's text; nothing comes after it."""


# --- results and events -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SpokenReply:
    """A whole reply, before it becomes sound; one that calls tools has no text, no style and no units."""

    transcript: str
    text: str
    emotion: str
    pitch: str
    units: tuple[int, ...]
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class TranscriptDelta:
    """More of what the user was understood to say."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True)
class StyleChosen:
    """How the answer will be spoken; ``understood`` is false where a word of the model was replaced by the default."""

    style: Style
    understood: bool = True


@dataclass(frozen=True)
class UnitsDelta:
    """More speech units of the answer."""

    units: tuple[int, ...]


@dataclass(frozen=True)
class ReplyDone:
    """The end; ``problem`` says in a few words what was wrong with the stream, None if it is valid."""

    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the whole schema was written."""
        return self.problem is None


ReplyEvent = TranscriptDelta | TextDelta | StyleChosen | UnitsDelta | CallStarted | CallDelta | ReplyDone


def merge_deltas(events: Iterable[ReplyEvent]) -> list[ReplyEvent]:
    """The same events with neighbouring deltas joined: what is left is independent of how the stream was split."""
    merged: list[ReplyEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TranscriptDelta) and isinstance(last, TranscriptDelta):
            merged[-1] = TranscriptDelta(last.text + event.text)
        elif isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, UnitsDelta) and isinstance(last, UnitsDelta):
            merged[-1] = UnitsDelta(last.units + event.units)
        elif isinstance(event, CallDelta) and isinstance(last, CallDelta):
            merged[-1] = CallDelta(last.arguments + event.arguments)
        else:
            merged.append(event)
    return merged


# --- from tokens to pieces --------------------------------------------------------------------------------------------
class Marker(Enum):
    """A control token in the stream."""

    SPEECH_START = SPEECH_START
    SPEECH_END = SPEECH_END
    END_OF_TURN = "end of turn"
    OTHER = "another control token"


Piece = str | int | Marker  # text, a unit, or a control token


class PieceReader:
    """Turns token ids into pieces; a character whose bytes come in several tokens is held back until it is whole.

    Units may come between its bytes, control tokens may not: GLM-4-Voice counts tokens, not characters.
    """

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._markers = {
            table.speech_start: Marker.SPEECH_START,
            table.speech_end: Marker.SPEECH_END,
            table.end_of_turn: Marker.END_OF_TURN,
        }

    def read(self, token: int) -> list[Piece]:
        """The pieces that ``token`` completes."""
        known = 0 <= token < len(self._table.token_bytes)
        text = self._table.token_bytes[token] if known else None
        if text is not None:
            decoded = self._decoder.decode(text)
            return [decoded] if decoded else []
        unit = int(self._table.unit_of[token]) if known else -1
        if unit >= 0:
            return [unit]
        pieces: list[Piece] = []
        if left := self._decoder.decode(b"", final=True):
            pieces.append(left)
        self._decoder.reset()
        return [*pieces, self._markers.get(token, Marker.OTHER)]


# --- the parser -------------------------------------------------------------------------------------------------------
class _At(Enum):
    OPEN = "a brace"
    KEY = "a key"
    IN_KEY = "a key's end"
    COLON = "a colon"
    VALUE = "a value"
    IN_VALUE = "a value's end"
    IN_CALLS = "the calls' end"
    NEXT = "a comma or a brace"
    CLOSED = "the end of the turn"


_SIMPLE_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WHITESPACE = " \t\r\n"


@dataclass
class JsonStringReader:
    """The inside of a JSON string, character by character; escapes may be split anywhere."""

    escape: str | None = None  # what follows the backslash so far
    high: int | None = None  # a first surrogate that waits for its second
    ended: bool = False

    def read(self, character: str) -> str:
        """The text that ``character`` completes; sets ``ended`` at the closing quote. Raises: ValueError."""
        if self.escape is None:
            if character == "\\":
                self.escape = ""
                return ""
            self.ended = character == '"'
            if ord(character) < 0x20:
                raise ValueError("a control character in a string")
            return self._lost() + ("" if self.ended else character)
        self.escape += character
        if self.escape[0] != "u":
            if self.escape not in _SIMPLE_ESCAPES:
                raise ValueError("an unknown escape")
            text, self.escape = self._lost() + _SIMPLE_ESCAPES[self.escape], None
            return text
        if len(self.escape) > 1 and character not in "0123456789abcdefABCDEF":
            raise ValueError("an unknown escape")
        if len(self.escape) < 5:
            return ""
        code, self.escape = int(self.escape[1:], 16), None
        if 0xDC00 <= code < 0xE000 and self.high is not None:
            text, self.high = chr(0x10000 + ((self.high - 0xD800) << 10) + code - 0xDC00), None
            return text
        lost = self._lost()
        if 0xD800 <= code < 0xDC00:
            self.high = code
            return lost
        return lost + ("\ufffd" if 0xDC00 <= code < 0xE000 else chr(code))

    def _lost(self) -> str:
        lost, self.high = ("\ufffd" if self.high is not None else ""), None
        return lost


class ReplyParser:
    """A state machine over the pieces of one JSON reply: any split of the stream gives the same events.

    A stream that breaks the schema gives the events up to there, then nothing until ``ReplyDone`` tells the problem.

    Args:
        voice: who speaks; the default voice of ``styles`` if None.
        styles: the words that are understood.
    """

    def __init__(self, voice: str | None = None, styles: StyleSet = DEFAULT_STYLES) -> None:
        self._voice = styles.voices[0] if voice is None else voice
        self._styles = styles
        self._at = _At.OPEN
        self._string = JsonStringReader()
        self._next_key = 0
        self._buffer = ""
        self._emotion: str | None = None
        self._speech: str = "before"  # before, inside, after
        self._calls = CallsReader()
        self._problem: str | None = None
        self.done = False

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""
        if self.done or (self._problem is not None and piece is not Marker.END_OF_TURN):
            return []
        try:
            if isinstance(piece, str):
                return self._feed_text(piece)
            if isinstance(piece, Marker):
                return self._feed_marker(piece)
            if self._speech != "inside":
                raise ValueError("a speech unit outside of speech")
            return [UnitsDelta((piece,))]
        except ValueError as error:
            self._problem = str(error)
            return []

    def finish(self) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        if self.done:
            return []
        self.done = True
        if self._problem is None and self._at is not _At.CLOSED:
            self._problem = f"the reply ends before {self._at.value}"
        return [ReplyDone(self._problem)]

    def _feed_marker(self, marker: Marker) -> list[ReplyEvent]:
        if marker is Marker.END_OF_TURN:
            return self.finish()
        in_speech_value = self._at is _At.IN_VALUE and KEYS[self._next_key] == SPEECH_KEY
        if marker is Marker.SPEECH_START and in_speech_value and self._speech == "before":
            self._speech = "inside"
        elif marker is Marker.SPEECH_END and self._speech == "inside":
            self._speech = "after"
        else:
            raise ValueError("a control token out of place")
        return []

    def _feed_text(self, text: str) -> list[ReplyEvent]:
        events: list[ReplyEvent] = []
        try:
            for character in text:
                events.extend(self._feed_character(character))
        except ValueError as error:
            self._problem = str(error)
        return merge_deltas(events)

    def _feed_character(self, character: str) -> list[ReplyEvent]:
        at = self._at
        if at is _At.IN_VALUE:
            return self._feed_value(character)
        if at is _At.IN_CALLS:
            return self._feed_calls(character)
        if at is _At.IN_KEY:
            key = self._key(self._buffer + character.removesuffix('"'))
            if character != '"':
                self._buffer += character
                if not key.startswith(self._buffer):
                    raise ValueError(f"another key than {key!r}")
            elif self._buffer != key:
                raise ValueError(f"another key than {key!r}")
            else:
                self._at = _At.COLON
            return []
        if character in _WHITESPACE:
            return []
        if at is _At.VALUE and self._buffer == CALLS_KEY:
            self._at = _At.IN_CALLS
            return self._feed_calls(character)
        steps = {
            (_At.OPEN, "{"): _At.KEY,
            (_At.KEY, '"'): _At.IN_KEY,
            (_At.COLON, ":"): _At.VALUE,
            (_At.VALUE, '"'): _At.IN_VALUE,
        }
        if self._next_key < len(KEYS):
            steps[_At.NEXT, ","] = _At.KEY
        else:
            steps[_At.NEXT, "}"] = _At.CLOSED
        if (at, character) not in steps:
            raise ValueError(f"something else than {at.value}")
        self._at = steps[at, character]
        self._buffer = self._buffer if at is _At.COLON else ""
        self._string = JsonStringReader()
        return []

    def _feed_value(self, character: str) -> list[ReplyEvent]:
        key = KEYS[self._next_key]
        if key == SPEECH_KEY:
            if character != '"' or self._speech == "inside":
                raise ValueError("text within speech")
            if self._speech == "before":
                raise ValueError("no speech")
            return self._end_value()
        text = self._string.read(character)
        events: list[ReplyEvent] = []
        if key == TRANSCRIPT_KEY:
            events += [TranscriptDelta(text)] if text else []
        elif key == TEXT_KEY:
            events += [TextDelta(text)] if text else []
        else:
            self._buffer += text
        if self._string.ended:
            events += self._end_value()
        return events

    def _key(self, beginning: str) -> str:
        """The key that must come next; in the place of the answer's text there may be calls instead."""
        key = KEYS[self._next_key]
        return CALLS_KEY if key == TEXT_KEY and not key.startswith(beginning) else key

    def _feed_calls(self, character: str) -> list[ReplyEvent]:
        events: list[ReplyEvent] = [*self._calls.read(character)]
        if self._calls.ended:
            self._at, self._next_key = _At.NEXT, len(KEYS)
        return events

    def _end_value(self) -> list[ReplyEvent]:
        key = KEYS[self._next_key]
        self._next_key += 1
        self._at = _At.NEXT
        if key == EMOTION_KEY:
            self._emotion = self._buffer
        if key == PITCH_KEY:
            return [StyleChosen(*self._styles.from_model(self._voice, self._emotion, self._buffer))]
        return []


def collect(events: Sequence[ReplyEvent]) -> SpokenReply:
    """The reply that a parser's events make. Raises: InputError: the stream was not a whole reply."""
    problem = next((event.problem for event in events if isinstance(event, ReplyDone)), "the reply has no end")
    style = next((event.style for event in events if isinstance(event, StyleChosen)), None)
    calls = collect_calls(events)
    if problem is not None or (style is None and not calls):
        raise InputError(f"not a reply: {problem}")
    return SpokenReply(
        transcript="".join(event.text for event in events if isinstance(event, TranscriptDelta)),
        text="".join(event.text for event in events if isinstance(event, TextDelta)),
        emotion="" if style is None else style.emotion,
        pitch="" if style is None else style.pitch,
        units=tuple(unit for event in events if isinstance(event, UnitsDelta) for unit in event.units),
        calls=calls,
    )


def collect_calls(events: Iterable[object]) -> tuple[Call, ...]:
    """The calls that are among ``events``."""
    calls: list[Call] = []
    for event in events:
        if isinstance(event, CallStarted):
            calls.append(Call(event.name, ""))
        elif isinstance(event, CallDelta):
            calls[-1] = Call(calls[-1].name, calls[-1].arguments + event.arguments)
    return tuple(calls)
