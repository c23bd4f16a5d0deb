"""The replies of the released GLM-4-Voice: text tokens and units in turns, without a head and without marks (§3.3).

After every 13 text tokens come 26 units; once the text is over, the units run to their end, and the end of turn is the
next question's ``<|user|>``. A block of text that is shorter than the ratio is its last; so is a full one that more
than 26 units follow. Blocks are counted in tokens, so a character's bytes may lie in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.core.tokens import ASSISTANT, SYSTEM, USER
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import USUAL_RATE, Grammar, Kind, TokenTable
from emova.reply.interleaved import Ratio
from emova.reply.parser import Marker, Piece, ReplyDone, ReplyEvent, SpokenReply, StyleChosen, TextDelta, UnitsDelta
from emova.reply.string_automaton import NORMAL
from emova.speech.style import DEFAULT_STYLES, StyleSet

KIND = "glm_4_voice"
RATIO = Ratio(text_tokens=13, units=26)
REQUEST = (
    "User will provide you with a speech instruction. Do it step by step. First, think about the instruction and "
    "respond in a interleaved manner, with 13 text token followed by 26 audio tokens. "
)
"""As the model was trained on it, the last space too."""
FRAME = {
    "begin": "[gMASK]<sop>",
    "system": f"{SYSTEM}\n",
    "user": "\n",
    "assistant": f"{ASSISTANT}streaming_transcription\n",
    "heard": "<|begin_of_audio|>",
    "heard_end": "<|end_of_audio|>",
    "shown": "",
    "shown_end": "",
    "system_end": USER,
    "user_end": "",
    "assistant_end": "",
    "begin_user": f"[gMASK]<sop>{USER}",
}
"""Of ``emova.core.tokens.Frame``. An answer ends by ``<|user|>``, which begins the next question."""


class Blocks:
    """Text tokens and units in turns; see the module's text. ``kind`` changes with what is written.

    Args:
        max_text, max_units: where they are reached the text ends, or the reply.
        text: the tokens of the text, where it is given.
    """

    cut = False

    def __init__(
        self, table: TokenTable, ratio: Ratio, max_text: int, max_units: int, text: Sequence[int] | None = None
    ) -> None:
        assert max_text >= 1 and max_units >= 1
        self._table, self._ratio = table, ratio
        self._given = None if text is None else list(text)
        self._max_text = max_text if text is None else len(text)
        self._max_units = max_units
        self.kind: Kind = "text"
        self.done = False
        self._state = NORMAL
        self._texts = self._units = self._block = 0  # tokens, units; of this block or run
        self._text_over = False

    def forced(self) -> int | None:
        if self.kind == "units" and self._units >= self._max_units:
            return self._table.end_of_turn
        if self.kind == "text" and self._given is not None and self._texts < self._max_text:
            return self._given[self._texts]
        return None

    def allowed(self) -> np.ndarray:
        units, end = self._table.unit_ids, self._table.end_of_turn
        if self.kind == "text":
            return self._text() if not self._texts or self._state != NORMAL else np.union1d(self._text(), units)
        if self._block < self._ratio.units and not self._may_end:
            return units
        both = np.append(units, end) if self._may_end else units
        if self._text_over or self._block != self._ratio.units:
            return both
        if self._given is not None:
            return self._text()
        return np.union1d(both, self._text()) if self._state == NORMAL else self._text()

    @property
    def _may_end(self) -> bool:
        """Within a character nothing ends; a text that is given is written to its end."""
        return self._state == NORMAL and (self._given is None or self._texts >= self._max_text)

    def _text(self) -> np.ndarray:
        if self._given is not None:
            return np.asarray(self._given[self._texts : self._texts + 1])
        full = self._texts >= self._max_text  # to the end of a character only
        return self._table.allowed_text(self._state, False, None, only_bytes=full)

    def advance(self, token: int) -> None:
        if token == self._table.end_of_turn:
            self.done, self.cut = True, self._units >= self._max_units
            return
        if self._table.unit_of[token] >= 0:
            if self.kind == "text":
                self._begin_units()
            self._units += 1
            self._block += 1
            self._text_over |= self._block > self._ratio.units
            if self._block == self._ratio.units and self._must_write:
                self.kind, self._block = "text", 0
            return
        if self.kind == "units":
            self.kind, self._block = "text", 0
        if self._given is None:
            self._state = self._table.end_state(self._state, token, json_string=False)
            assert self._state >= 0, "a token that the grammar does not allow"
        self._texts += 1
        self._block += 1
        if self._block >= self._ratio.text_tokens or (self._texts >= self._max_text and self._state == NORMAL):
            self._begin_units(full=True)

    @property
    def _must_write(self) -> bool:
        """Whether there can only be text now."""
        unwritten = self._given is not None and self._texts < self._max_text
        return not self._text_over and (self._state != NORMAL or unwritten)

    def _begin_units(self, full: bool = False) -> None:
        self._text_over = self._text_over or not full or (self._texts >= self._max_text and self._state == NORMAL)
        self.kind, self._block = "units", 0


class GLMVoiceReply(ReplyFormat):
    """Text and units in turns, in the one style of the released decoder."""

    system_prompt = REQUEST

    def __init__(self, ratio: Ratio = RATIO, styles: StyleSet = DEFAULT_STYLES) -> None:
        self.ratio, self.styles = ratio, styles

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> GLMVoiceReply:
        """The options are the fields of ``Ratio``; 13 and 26 where they are not given. Raises: InputError."""
        usual = {"text_tokens": RATIO.text_tokens, "units": RATIO.units}
        return cls(config_from_dict(Ratio, {**usual, **options}, f"the reply format {KIND}"), styles)

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """The blocks, and the end of turn. Its transcript and its style are not written. Raises: InputError: calls."""
        if reply.calls:
            raise InputError("the tools: replies of this format call none; leave them out")
        text, units = table.encode(reply.text), table.unit_ids[list(reply.units)].tolist()
        cut: list[tuple[Role, list[int]]] = []
        while text:
            block, text = text[: self.ratio.text_tokens], text[self.ratio.text_tokens :]
            count = self.ratio.units if text else len(units)
            cut += [("answer", block), ("speech", units[:count])]
            units = units[count:]
        return [*(each for each in [*cut, ("speech", units)] if each[1]), ("answer", [table.end_of_turn])]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """What a reply may look like. Raises: InputError: there are tools."""
        if wish.tools is not None:
            raise InputError("the tools: this checkpoint's models were not taught to call any; leave them out")
        limits = wish.limits
        text = None if wish.text is None else table.encode(wish.text)
        return Grammar([Blocks(table, self.ratio, max(1, limits.max_text_tokens), max(1, limits.max_units), text)])

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """The end of the text's last character, and the end of turn."""
        return 4

    def reading(self, table: TokenTable, text: str, max_units: int, unit_rate: float = USUAL_RATE) -> Grammar:
        """The text itself in blocks, and the units that the model says it with: what is written counts, no time."""
        return Grammar([Blocks(table, self.ratio, 1, max_units, table.encode(text))])

    def parser(self, voice: str | None = None) -> GLMVoiceParser:
        """A fresh parser for the pieces of one reply."""
        return GLMVoiceParser(voice, self.styles)


class GLMVoiceParser:
    """Pieces of one reply to events, in the usual style; any split of the stream gives the same events."""

    def __init__(self, voice: str | None = None, styles: StyleSet = DEFAULT_STYLES) -> None:
        self._voice = styles.voices[0] if voice is None else voice
        self._styles = styles
        self._chosen = False
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
        if isinstance(piece, Marker):
            self._problem = "a control token out of place"
            return []
        return [*self._choose(), TextDelta(piece) if isinstance(piece, str) else UnitsDelta((piece,))]

    def finish(self, ended: bool = False) -> list[ReplyEvent]:
        """Say that the stream has ended."""
        if self.done:
            return []
        self.done = True
        if not ended and self._problem is None:
            self._problem = "the reply ends too early"
        return [*self._choose(), ReplyDone(self._problem)]

    def _choose(self) -> list[ReplyEvent]:
        if self._chosen:
            return []
        self._chosen = True
        style, _ = self._styles.from_model(self._voice, None, None)
        return [StyleChosen(style, True)]
