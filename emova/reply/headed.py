"""Replies with a head that says the style, then the text, then the units: a kind of one's own is how its head reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from emova.core.errors import InputError
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import Choice, Fixed, FreeText, Grammar, TokenTable, Units
from emova.reply.parser import Marker, Piece, ReplyDone, ReplyEvent, SpokenReply, StyleChosen, TextDelta, UnitsDelta
from emova.speech.style import DEFAULT_STYLES, StyleSet

NO_HEAD = "the reply has no style"


class HeadedReply(ReplyFormat):
    """``HEAD text <speech> units </speech>``. The question is heard, not written down, and no tool is called.

    Raises:
        ValueError: two styles have the same head, or one head begins with another: nobody could tell them apart.
    """

    words_end = "voice"

    def __init__(self, styles: StyleSet = DEFAULT_STYLES) -> None:
        self.styles = styles
        words = [(emotion, pitch) for emotion in styles.emotions for pitch in styles.pitches]
        self._heads = {self.head(*each): each for each in words}
        ordered = sorted(self._heads)
        if len(ordered) < len(words) or any(b.startswith(a) for a, b in zip(ordered, ordered[1:], strict=False)):
            raise ValueError(f"{type(self).__name__}: each style needs a head of its own that begins with no other's")

    @abstractmethod
    def head(self, emotion: str, pitch: str) -> str:
        """What stands before the text, its last space included."""

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> Self:
        """It has no options. Raises: InputError: there is one."""
        if options:
            raise InputError(f"this reply format has no option {str(next(iter(options)))[:40]!r}; remove it")
        return cls(styles)

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """Head and text are tokenised apart; the text ends where speech starts, which is the model's choice."""
        return [
            ("style", table.encode(self.head(reply.emotion, reply.pitch))),
            ("answer", [*table.encode(reply.text), table.speech_start]),
            ("speech", [*table.unit_ids[list(reply.units)].tolist(), table.speech_end]),
            ("skeleton", [table.end_of_turn]),
        ]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """What a reply may look like. Raises: InputError: there are tools."""
        if wish.callable is not None:
            raise InputError("the tools: replies of this format call none; leave them out")
        words = [(emotion, pitch) for emotion in wish.emotions(self.styles) for pitch in wish.pitches(self.styles)]
        text: Fixed | FreeText
        if wish.text is None:
            most = wish.limits.max_text_tokens
            text = FreeText(table, table.speech_start, json_string=False, max_tokens=most, min_tokens=1)
            spoken: FreeText | int = text
        else:
            text, spoken = Fixed([*table.encode(wish.text), table.speech_start]), len(wish.text.encode())
        heads = Choice(table.encode(self.head(*each)) for each in words)
        units = Units(table, wish.limits.max_units, spoken, unit_rate=wish.unit_rate)
        return Grammar([heads, text, units, Fixed([table.end_of_turn])])

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """The longest head, the end of the text's last character (3 bytes), start and end of speech, end of turn."""
        return max(len(table.encode(head)) for head in self._heads) + 3 + 3

    def parser(self, voice: str | None = None) -> HeadedParser:
        """A fresh parser for the pieces of one reply."""
        return HeadedParser(self._heads, voice, self.styles)


class HeadedParser:
    """Waits for a whole head, then hands on; text that begins with none is an answer in the usual style.

    Args:
        heads: each head and the emotion and pitch that it says.
        voice: who speaks; the default voice of ``styles`` if None.
    """

    def __init__(self, heads: Mapping[str, tuple[str, str]], voice: str | None, styles: StyleSet) -> None:
        self._heads, self._styles = heads, styles
        self._voice = styles.voices[0] if voice is None else voice
        self._begun: str | None = ""
        self._problem: str | None = None
        self.done = False

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""
        if self.done:
            return []
        if piece is Marker.END_OF_TURN:
            return self.finish()
        if isinstance(piece, int):
            return [*self._headless(), UnitsDelta((piece,))]
        if not isinstance(piece, str):
            return self._headless()
        if self._begun is None:
            return [TextDelta(piece)]
        self._begun += piece
        head = next((head for head in self._heads if self._begun.startswith(head)), None)
        if head is not None:
            text, self._begun = self._begun[len(head) :], None
            style, understood = self._styles.from_model(self._voice, *self._heads[head])
            return [StyleChosen(style, understood), *([TextDelta(text)] if text else [])]
        return [] if any(head.startswith(self._begun) for head in self._heads) else self._headless()

    def finish(self) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        if self.done:
            return []
        events = self._headless()
        self.done = True
        return [*events, ReplyDone(self._problem)]

    def _headless(self) -> list[ReplyEvent]:
        """What was held back, where it has turned out to be no head."""
        if self._begun is None:
            return []
        text, self._begun, self._problem = self._begun, None, NO_HEAD
        style, understood = self._styles.from_model(self._voice, None, None)
        return [StyleChosen(style, understood), *([TextDelta(text)] if text else [])]
