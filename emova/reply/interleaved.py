"""The spoken reply as streaming thoughts: some text, some units, in turns, so that the voice need not wait for the
whole text (GLM-4-Voice §3.3).

A reply is ``(happy, normal)``, then blocks: ``text_tokens`` tokens of text, ``<|speech_start|>``, ``units`` units,
``<|speech_end|>``. A text block that is shorter than the ratio says is the text's last: the units after it run to
their end. A run of units that is shorter ends the voice: the rest of the text follows in one piece. There is no
transcript; the question was heard, not written down. A reply that calls tools is the calls' JSON and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.reply.calls import CallsReader, encode_calls
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import Choice, Fixed, Fork, Grammar, Kind, TokenTable
from emova.reply.parser import (
    Marker,
    Piece,
    ReplyDone,
    ReplyEvent,
    SpokenReply,
    StyleChosen,
    TextDelta,
    UnitsDelta,
    merge_deltas,
)
from emova.reply.string_automaton import NORMAL
from emova.speech.style import DEFAULT_STYLES, StyleSet

INTERLEAVED_SYSTEM = "Reply in speech."
_LONGEST_HEADER = 64  # characters


@dataclass(frozen=True)
class Ratio:
    """How text and units alternate.

    The paper's 13 : 26 is for 12.5 units a second and a vocabulary of 150,000. Here a second has 25 units, a text
    token of a small vocabulary is about 3.3 bytes, and a byte of English about 1.7 units: 6 tokens take 34 units to
    say. 24 units (0.96 s) for 6 tokens keep the text ahead of the voice by a growing margin, as 13 : 26 does.
    """

    text_tokens: int = 6
    units: int = 24

    def __post_init__(self) -> None:
        if self.text_tokens < 1 or self.units < 1:
            raise InputError("the ratio of text and units: a block has 1 token and 1 unit at least; give more")


def _header(emotion: str, pitch: str) -> str:
    # Ends with a character that stands nowhere else in it, so no header is the beginning of another.
    return f"({emotion}, {pitch})"


class _Alternating:
    """Text and units in turns; see the module's text. ``kind`` changes with what is written."""

    def __init__(self, table: TokenTable, ratio: Ratio, max_text: int, max_units: int) -> None:
        assert max_text >= 1 and max_units >= 1
        self.table, self.ratio = table, ratio
        self.max_text, self.max_units = max_text, max_units
        self.kind: Kind = "text"
        self.done = self.cut = False
        self.state = NORMAL
        self.text_count = self.unit_count = 0
        self._block = 0  # tokens in this block or units in this run
        self._text_over = self._voice_over = False

    def forced(self) -> int | None:
        if self.kind == "units":
            if self.unit_count >= self.max_units or (not self._text_over and self._block >= self.ratio.units):
                return self.table.speech_end
            return None
        if self.state != NORMAL:
            return None
        if self._voice_over:
            return self.table.end_of_turn if self.text_count >= self.max_text else None
        block_full = self._block >= self.ratio.text_tokens
        return self.table.speech_start if block_full or self.text_count >= self.max_text else None

    def allowed(self) -> np.ndarray:
        if self.kind == "units":
            # There is something to hear in every reply.
            return self.table.allowed_units(may_end=self.unit_count > 0)
        closer = self.table.end_of_turn if self._voice_over else self.table.speech_start
        full = self.text_count >= self.max_text
        may_close = closer if self.text_count else None
        return self.table.allowed_text(self.state, False, may_close, only_bytes=full)

    def advance(self, token: int) -> None:
        if token == self.table.speech_start:
            # A text that fills its last block is followed by an empty one, unless its limit cut it off.
            self._text_over = self._block < self.ratio.text_tokens or self.text_count >= self.max_text
            self.kind, self._block = "units", 0
        elif token == self.table.speech_end:
            self.cut |= self.unit_count >= self.max_units
            if self._text_over:
                self.kind = "text"
                self._voice_over = True
                self.max_text = self.text_count  # what is left is the end of turn
            else:
                self._voice_over = self._block < self.ratio.units or self.unit_count >= self.max_units
                self.kind, self._block = "text", 0
        elif token == self.table.end_of_turn:
            self.done = True
        elif self.kind == "units":
            assert self.table.unit_of[token] >= 0, "a token that the grammar does not allow"
            self.unit_count += 1
            self._block += 1
        else:
            self.state = self.table.end_state(self.state, token, False)
            assert self.state >= 0, "a token that the grammar does not allow"
            self.text_count += 1
            self._block += 1


class InterleavedReply(ReplyFormat):
    """Style, then text and units in turns."""

    system_prompt = INTERLEAVED_SYSTEM

    def __init__(self, ratio: Ratio = Ratio(), styles: StyleSet = DEFAULT_STYLES) -> None:
        self.ratio = ratio
        self.styles = styles

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> InterleavedReply:
        """The options are the fields of ``Ratio``. Raises: InputError."""
        return cls(config_from_dict(Ratio, dict(options), "the reply format interleaved"), styles)

    def blocks(self, reply: SpokenReply, table: TokenTable) -> Iterator[tuple[list[int], list[int] | None]]:
        """The text's token ids and the units (None: the voice is over) of each block."""
        text, units = table.encode(reply.text), list(reply.units)
        text_over = voice_over = False
        while not (text_over and voice_over):
            block: list[int] = []
            state = NORMAL
            # A block ends with a whole character.
            while text and (voice_over or len(block) < self.ratio.text_tokens or state != NORMAL):
                state = max(NORMAL, table.end_state(state, text[0], False))  # odd control characters count as whole
                block.append(text.pop(0))
            if voice_over:
                yield block, None
                return
            text_over = len(block) < self.ratio.text_tokens
            count = len(units) if text_over else self.ratio.units
            run, units = units[:count], units[count:]
            voice_over = text_over or len(run) < self.ratio.units
            yield block, run

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """The token ids of ``reply``, end of turn included; its transcript is not written.

        A mark that ends a stretch belongs to it where the model chooses it, and is skeleton where the ratio forces it.
        """
        if reply.calls:
            return [("answer", encode_calls(reply.calls, table)), ("skeleton", [table.end_of_turn])]
        cut: list[tuple[Role, list[int]]] = [("style", table.encode(_header(reply.emotion, reply.pitch)))]
        blocks = list(self.blocks(reply, table))
        for block, run in blocks:
            cut.append(("answer", block))
            if run is not None:
                last = len(block) < self.ratio.text_tokens
                ended = last or len(run) < self.ratio.units
                cut.append(("answer" if last else "skeleton", [table.speech_start]))
                cut.append(("speech", table.unit_ids[run].tolist()))
                cut.append(("speech" if ended else "skeleton", [table.speech_end]))
        return [*cut, ("skeleton" if blocks[-1][1] is not None else "answer", [table.end_of_turn])]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """A reply is always a style, some text and some units, or calls."""
        emotions, pitches = wish.emotions(self.styles), wish.pitches(self.styles)
        headers = [table.encode(_header(emotion, pitch)) for emotion in emotions for pitch in pitches]
        limits = wish.limits
        body = _Alternating(table, self.ratio, max(1, limits.max_text_tokens), max(1, limits.max_units))
        if (tools := wish.callable) is None:
            return Grammar([Fixed(headers[0]) if len(headers) == 1 else Choice(headers), body])
        calls = lambda: tools.calls(table, limits.max_call_tokens, [table.end_of_turn])  # noqa: E731
        answers = [] if tools.must_call else [(header, lambda: [body]) for header in headers]
        return Grammar([Fork([*answers, (tools.opening(table), calls)])])

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """How many tokens a reply has at most beside the free text and the units."""
        styles = self.styles
        header = max(len(table.encode(_header(e, p))) for e in styles.emotions for p in styles.pitches)
        # Two marks a block; a block that is not the last holds text_tokens of the text.
        blocks = 2 + wish.limits.max_text_tokens // self.ratio.text_tokens
        answer = header + 2 * blocks + 3 + 1
        if (tools := wish.callable) is None:
            return answer
        return max(answer, tools.overhead(table, [table.end_of_turn]))

    def parser(self, voice: str | None = None) -> InterleavedParser:
        """A fresh parser for the pieces of one reply."""
        return InterleavedParser(voice, self.styles)


class InterleavedParser:
    """Pieces of one reply to events; any split of the stream gives the same events."""

    def __init__(self, voice: str | None = None, styles: StyleSet = DEFAULT_STYLES) -> None:
        self._voice = styles.voices[0] if voice is None else voice
        self._styles = styles
        self._header: str | None = ""
        self._calls: CallsReader | None = None
        self._speaking = False
        self._spoken = False
        self._problem: str | None = None
        self.done = False

    def feed(self, piece: Piece) -> list[ReplyEvent]:
        """The events that ``piece`` completes."""
        if self.done:
            return []
        if piece is Marker.END_OF_TURN:
            return self.finish(ended=True)
        if self._problem is not None:
            return []
        if isinstance(piece, str):
            return self._text(piece) if piece else []
        if isinstance(piece, int):
            self._check(self._speaking, "a speech unit outside of speech")
            return [] if self._problem else [UnitsDelta((piece,))]
        self._check(self._header is None, "no style before the speech")
        self._check(piece is (Marker.SPEECH_END if self._speaking else Marker.SPEECH_START), "a mark out of place")
        self._speaking, self._spoken = not self._speaking, True
        return []

    def finish(self, ended: bool = False) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        if self.done:
            return []
        self.done = True
        whole = self._spoken and not self._speaking if self._calls is None else self._calls.ended
        self._check(ended and whole, "the reply ends too early")
        return [ReplyDone(self._problem)]

    def _check(self, holds: bool, problem: str) -> None:
        if not holds and self._problem is None:
            self._problem = problem

    def _text(self, text: str) -> list[ReplyEvent]:
        self._check(not self._speaking, "text within speech")
        if self._problem is not None:
            return []
        if self._header == "" and self._calls is None and text.startswith("["):
            self._calls = CallsReader()
        if self._calls is not None:
            return self._call(self._calls, text)
        if self._header is None:
            return [TextDelta(text)]
        self._header += text
        head, end, rest = self._header.partition(")")
        self._check(len(head) <= _LONGEST_HEADER, "no style before the text")
        if not end or self._problem is not None:
            return []
        self._header = None
        emotion, _, pitch = head.removeprefix("(").partition(", ")
        events: list[ReplyEvent] = [StyleChosen(*self._styles.from_model(self._voice, emotion, pitch))]
        return [*events, TextDelta(rest)] if rest else events

    def _call(self, reader: CallsReader, text: str) -> list[ReplyEvent]:
        events: list[ReplyEvent] = []
        try:
            for character in text:
                events += reader.read(character)
        except ValueError as error:
            self._check(False, str(error))
        return merge_deltas(events)
