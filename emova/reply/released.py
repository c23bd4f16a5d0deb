"""The replies of the released EMOVA models: JSON of their own keys, written freely, or plain text; read as a stream.

The released models were trained on whole strings, whose tokens a grammar that ends each string by a token of its own
would forbid. So the grammar follows what is written, by the parser itself, and prescribes only the words that were
asked for: where the value of an emotion or a pitch begins, its word is forced, and a quote must come after it, alone or
with what the models join to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

import numpy as np

from emova.core.errors import InputError
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import USUAL_RATE, Grammar, Kind, TokenTable, Units
from emova.reply.parser import (
    EMOTION_KEY,
    PITCH_KEY,
    SPEECH_KEY,
    TEXT_KEY,
    TRANSCRIPT_KEY,
    JsonStringReader,
    Marker,
    Piece,
    PieceReader,
    ReplyDone,
    ReplyEvent,
    SpokenReply,
    StyleChosen,
    TextDelta,
    TranscriptDelta,
    UnitsDelta,
    merge_deltas,
)
from emova.reply.string_automaton import NORMAL
from emova.speech.style import DEFAULT_STYLES, RELEASED_STYLES, StyleSet

SYSTEM = "You are a helpful assistant."
# Both as the models were trained on them, misspelt words too.
TRANSCRIBE = "Please recognize the text corresponding to the follwing speech.\n"
SPEAK = "Please synthesize the speech corresponding to the follwing text.\n"
CHAT = (
    "Please recognize the texts, emotion and pitch from the user question speech units and provide the texts, emotion, "
    "pitch and speech units for the assistant response. \\nEmotion should be chosen from "
    f"{json.dumps(RELEASED_STYLES.emotions)}. "
    '\\nPitch should be chosen from ["low", "normal", "high"].\\nYour output should be in json format.'
    '\\nAn output example is:\\n{"user question text": "", "user question emotion": "", "user question pitch": "", '
    '"assistant response text": "", "assistant response emotion": "", "assistant response pitch": ""，'
    '"assistant response speech": ""}\\n\\nuser question speech:'
)
"""What stands before the units of a spoken question; each ``\\n`` is a backslash and an n there."""
FRAME = {
    "begin": "",
    "system": "<|im_start|>system\n",
    "user": "\n<|im_start|>user\n",
    "assistant": "\n<|im_start|>assistant\n",
    "heard": CHAT,
    "heard_end": "",
    "shown": "",
    "shown_end": "\n",
}
"""Of ``emova.core.tokens.Frame``: the template of Qwen2."""


class Anything:
    """Text and units in any order, up to the end of turn; ended by it after ``most`` tokens.

    Args:
        wished: the words that must be the values of keys, where the model writes these keys.
    """

    cut = False

    def __init__(self, table: TokenTable, most: int, wished: Mapping[str, str] | None = None) -> None:
        self._table, self._most, self._wished = table, most, dict(wished or {})
        self._count, self._state = 0, NORMAL
        self._reader, self._parser = PieceReader(table), ReleasedParser()
        self._forced: list[int] = []
        self._closes = False  # a wished word stands there, and its string must end
        self.kind: Kind = "text"  # what the next token is probably part of
        self.done = False

    def forced(self) -> int | None:
        if self._forced:
            return self._forced[0]
        return self._table.end_of_turn if self._count >= self._most and self._state == NORMAL else None

    def allowed(self) -> np.ndarray:
        if self._closes:
            return self._table.closing_strings()
        if self._count >= self._most:
            return self._table.allowed_text(self._state, False, None, only_bytes=True)
        if any(self._parser.may_become(key) for key in self._wished):
            return self._table.allowed_anything_but(self._state, self._table.opening_strings())
        return self._table.allowed_anything(self._state)

    def advance(self, token: int) -> None:
        if token == self._table.end_of_turn and self._state == NORMAL:
            self.done = True
            return
        self._count += 1
        self.kind = "units" if self._table.unit_of[token] >= 0 else "text"
        if self.kind == "text":
            self._state = self._table.end_state(self._state, token, json_string=False)
        for piece in self._reader.read(token):
            self._parser.feed(piece)
        if self._forced:
            self._forced.pop(0)
            self._closes = not self._forced
            return
        self._closes = False
        begins = self._parser.value_begins()
        if begins is not None and begins[0] in self._wished:
            self._forced = self._table.encode(begins[1] + self._wished.pop(begins[0]))


class ReleasedReply(ReplyFormat):
    """The JSON of the released models for a spoken question, plain text for a written one."""

    system_prompt = SYSTEM
    speaks = False
    words_end = "style"  # of the JSON; a plain answer has no words before its style
    speak_prompt = SPEAK

    def __init__(self, styles: StyleSet = DEFAULT_STYLES) -> None:
        self.styles = styles

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> ReleasedReply:
        """It has no options. Raises: InputError: there is one."""
        if options:
            raise InputError(f"the reply format emova_release has no option {str(next(iter(options)))[:40]!r}")
        return cls(styles)

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """A reply with units as the models write it; one without as plain text."""
        end: tuple[Role, list[int]] = ("skeleton", [table.end_of_turn])
        if not reply.units:
            return [("answer", table.encode(reply.text)), end]
        said = {
            TRANSCRIPT_KEY: reply.transcript,
            "user question emotion": self.styles.emotions[0],
            "user question pitch": self.styles.pitches[0],
            TEXT_KEY: reply.text,
            EMOTION_KEY: reply.emotion,
            PITCH_KEY: reply.pitch,
            SPEECH_KEY: "",
        }
        text = json.dumps(said, ensure_ascii=False)
        units = table.unit_ids[list(reply.units)].tolist()
        return [("answer", table.encode(text[:-2])), ("speech", units), ("skeleton", table.encode('"}')), end]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """Anything within the limits, with the emotion and the pitch that were asked for.

        Raises:
            InputError: there are tools, which these models were not taught.
        """
        if wish.tools is not None:
            raise InputError("the tools: this checkpoint's models were not taught to call any; leave them out")
        limits = wish.limits
        most = limits.max_transcript_tokens + limits.max_text_tokens + limits.max_units
        words = ((EMOTION_KEY, wish.emotion), (PITCH_KEY, wish.pitch))
        return Grammar([Anything(table, max(1, most), {key: word for key, word in words if word is not None})])

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """What may come beyond the limits: the end of a character, the end of turn."""
        return 4

    def parser(self, voice: str | None = None) -> ReleasedParser:
        """A fresh parser for the pieces of one reply."""
        return ReleasedParser(voice, self.styles)

    def transcription(self, units: list[int], table: TokenTable) -> list[dict[str, object]]:
        """The task to write down units: the request, then the bare units."""
        return [{"type": "text", "text": TRANSCRIBE}, {"type": "tokens", "ids": table.unit_ids[units].tolist()}]

    def reading(self, table: TokenTable, text: str, max_units: int, unit_rate: float = USUAL_RATE) -> Grammar:
        """Bare units, ended by the end of turn, which is the end of speech here."""
        return Grammar([Units(table, max_units, len(text.encode()), unit_rate=unit_rate)])


class _At(Enum):
    START = "an answer"
    OUTSIDE = "a brace"
    KEY = "a key's end"
    COLON = "a colon"
    BEFORE = "a value"
    VALUE = "a value's end"
    PLAIN = "the end of the text"
    CLOSED = "the end of the turn"


class ReleasedParser:
    """A state machine over the pieces of one reply; any split of the stream gives the same events.

    Keys may come in any order, and unknown ones are passed over. An answer without a brace is plain text or bare units.

    Args:
        voice: who speaks; the default voice of ``styles`` if None. The models choose no voice.
    """

    def __init__(self, voice: str | None = None, styles: StyleSet = DEFAULT_STYLES) -> None:
        self._voice = styles.voices[0] if voice is None else voice
        self._styles = styles
        self._at = _At.START
        self._string = JsonStringReader()
        self._key = self._value = ""
        self._words: dict[str, str] = {}
        self._chosen = False
        self._problem: str | None = None
        self.done = False

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""
        if piece is Marker.END_OF_TURN:
            return self.finish()
        if self.done or self._problem is not None:
            return []
        events: list[ReplyEvent] = []
        try:
            if isinstance(piece, int):
                events = self._unit(piece)
            elif isinstance(piece, str):
                for character in piece:
                    events += self._character(character)
            else:
                raise ValueError("a control token out of place")
        except ValueError as error:
            self._problem = str(error)
        return merge_deltas(events)

    def may_become(self, key: str) -> bool:
        """Whether what was read ends within a key that may yet be ``key``."""
        return self._problem is None and self._at is _At.KEY and key.startswith(self._value)

    def value_begins(self) -> tuple[str, str] | None:
        """The key whose value comes next, and what is missing before the value's first character; else None."""
        if self._problem is not None or self.done:
            return None
        if self._at is _At.COLON:
            return self._key, ': "'
        if self._at is _At.BEFORE:
            return self._key, ' "'
        return (self._key, "") if self._at is _At.VALUE and not self._value else None

    def finish(self) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        if self.done:
            return []
        self.done = True
        if self._problem is None and self._at not in (_At.PLAIN, _At.CLOSED):
            self._problem = f"the reply ends before {self._at.value}"
        return [*self._choose(), ReplyDone(self._problem)]

    def _choose(self) -> list[ReplyEvent]:
        """The style, once; words that never came are the usual ones."""
        if self._chosen:
            return []
        self._chosen = True
        emotion, pitch = self._words.get(EMOTION_KEY), self._words.get(PITCH_KEY)
        style, understood = self._styles.from_model(self._voice, emotion, pitch)
        return [StyleChosen(style, understood or (emotion is None and pitch is None))]

    def _unit(self, unit: int) -> list[ReplyEvent]:
        if self._at is _At.START:
            self._at = _At.PLAIN
        if self._at is not _At.PLAIN and not (self._at is _At.VALUE and self._key == SPEECH_KEY):
            raise ValueError("a speech unit outside of speech")
        return [*self._choose(), UnitsDelta((unit,))]

    def _character(self, character: str) -> list[ReplyEvent]:
        if self._at is _At.PLAIN:
            return [TextDelta(character)]
        if self._at in (_At.KEY, _At.VALUE):
            return self._inside(self._string.read(character))
        if character.isspace():
            return []
        if self._at is _At.START:
            if character == "{":
                self._at = _At.OUTSIDE
                return []
            self._at = _At.PLAIN
            return [TextDelta(character)]
        if self._at is _At.OUTSIDE and character == "}":
            self._at = _At.CLOSED
        elif self._at is _At.COLON and character == ":":
            self._at = _At.BEFORE
        elif self._at in (_At.OUTSIDE, _At.BEFORE) and character == '"':
            self._at = _At.KEY if self._at is _At.OUTSIDE else _At.VALUE
            self._string, self._value = JsonStringReader(), ""
        elif self._at is not _At.OUTSIDE or character not in ",，":
            raise ValueError(f"something else than {self._at.value}")
        return []

    def _inside(self, text: str) -> list[ReplyEvent]:
        self._value += text
        events: list[ReplyEvent] = []
        if self._at is _At.VALUE and text:
            events = [TranscriptDelta(text)] if self._key == TRANSCRIPT_KEY else []
            events = [TextDelta(text)] if self._key == TEXT_KEY else events
        if not self._string.ended:
            return events
        if self._at is _At.KEY:
            self._key, self._at = self._value, _At.COLON
            return events
        self._words[self._key] = self._value
        self._at = _At.OUTSIDE
        complete = EMOTION_KEY in self._words and PITCH_KEY in self._words
        return [*events, *(self._choose() if complete else [])]
