"""What the model may write next: token tables and grammars that make an invalid reply impossible.

A grammar is a row of segments. A fixed segment is fed to the model without asking it; a string, a choice or a run of
units lets the model decide among the tokens that keep the reply valid. All checks over the vocabulary are done once,
as index arrays per automaton state, so a step costs a lookup.

Shape letters: V vocabulary, A automaton states, K unit codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from emova.core.errors import InputError
from emova.core.tokens import END_OF_TURN, SPEECH_END, SPEECH_START, token_names, unit_token
from emova.reply.doubt import Uncertainty
from emova.reply.string_automaton import DEAD, NORMAL, STATES, transitions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUOTE = '"'
USUAL_RATE = 25.0
"""Units a second where nothing else is said: EMOVA's."""

Kind = Literal["text", "style", "units"]


# --- the vocabulary ---------------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character; this is the way back."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + n): byte for n, byte in enumerate(others)}}


_BYTE, _SPACE = re.compile(r"<0x([0-9A-F]{2})>"), "\u2581"
"""How SentencePiece writes a byte, and a space."""


def _falls_back(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its tokens are text, and bytes where it knows no text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return bool(getattr(getattr(backend, "model", None), "byte_fallback", False))


class TextEncoder(Protocol):
    """What is used of a tokenizer once the table is made."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """The ids of ``text``."""
        ...


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What each token id stands for: bytes of text, a speech unit, or a control token.

    Attributes:
        token_bytes: the text's bytes of each id; None for units and control tokens.
        unit_of: ``[V]`` the unit of each id, -1 where there is none.
        unit_ids: ``[K]`` the id of each unit.
    """

    token_bytes: tuple[bytes | None, ...]
    unit_of: np.ndarray
    unit_ids: np.ndarray
    speech_start: int
    speech_end: int
    end_of_turn: int
    quote: int
    tokenizer: TextEncoder = field(repr=False)
    _cache: dict[Hashable, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        """Read the table from a BPE tokenizer of bytes (ids are never assumed): all of them, or those of characters
        that it does not know, as SentencePiece has it.

        Raises:
            InputError: a control token or the units are missing, or some bytes are.
        """
        size = len(tokenizer)
        strings = tokenizer.convert_ids_to_tokens(list(range(size)))
        special = set(tokenizer.all_special_ids)
        added = tokenizer.added_tokens_decoder
        special |= {index for index, token in added.items() if token.special}
        index_of = {string: index for index, string in enumerate(strings)}
        names = token_names(tokenizer)
        for needed in (names[SPEECH_START], names[SPEECH_END], names[END_OF_TURN], unit_token(0)):
            if needed not in index_of:
                raise InputError(f"the tokenizer lacks {needed}; use the tokenizer files of an emova checkpoint")
        characters, falls_back = byte_of_character(), _falls_back(tokenizer)
        token_bytes: list[bytes | None] = []
        for index, string in enumerate(strings):
            if index in special or string is None:
                token_bytes.append(None)
            elif index in added:
                token_bytes.append(string.encode())
            elif falls_back:
                byte = _BYTE.fullmatch(string)
                token_bytes.append(string.replace(_SPACE, " ").encode() if byte is None else bytes([int(byte[1], 16)]))
            elif all(character in characters for character in string):
                token_bytes.append(bytes(characters[character] for character in string))
            else:
                raise InputError("the tokenizer is not byte-level; emova needs a byte-level BPE such as LLaMA-3's")
        if QUOTE not in index_of:
            raise InputError("the tokenizer has no token for a quote; emova needs a byte-level BPE with all bytes")
        unit_ids: list[int] = []
        while (unit_id := index_of.get(unit_token(len(unit_ids)))) is not None:
            unit_ids.append(unit_id)
        unit_of = np.full(size, -1, dtype=np.int64)
        unit_of[unit_ids] = np.arange(len(unit_ids))
        return cls(
            token_bytes=tuple(token_bytes),
            unit_of=unit_of,
            unit_ids=np.asarray(unit_ids, dtype=np.int64),
            speech_start=index_of[names[SPEECH_START]],
            speech_end=index_of[names[SPEECH_END]],
            end_of_turn=index_of[names[END_OF_TURN]],
            quote=index_of[QUOTE],
            tokenizer=tokenizer,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens in it stay text."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def beginning(self, text: str, tokens: int) -> str:
        """What the first ``tokens`` of plain text say, to the end of a character."""
        return b"".join(self.token_bytes[each] or b"" for each in self.encode(text)[:tokens]).decode(errors="ignore")

    def _ends(self, json_string: bool) -> np.ndarray:
        """``[A, V]`` the automaton's state after each token, from each state; -1 where the token is not allowed."""
        key = ("ends", json_string)
        if key not in self._cache:
            table = transitions(json_string)
            size = len(self.token_bytes)
            ends = np.full((STATES, size), DEAD, dtype=np.int64)
            texts = [index for index, piece in enumerate(self.token_bytes) if piece]
            state = np.repeat(np.arange(STATES)[:, None], len(texts), axis=1)
            longest = max(len(self.token_bytes[index] or b"") for index in texts)
            padded = np.zeros((longest, len(texts)), dtype=np.int64)
            lengths = np.asarray([len(self.token_bytes[index] or b"") for index in texts])
            for column, index in enumerate(texts):
                piece = self.token_bytes[index] or b""
                padded[: len(piece), column] = list(piece)
            for position in range(longest):
                state = np.where(position < lengths, table[state, padded[position]], state)
            ends[:, texts] = state
            self._cache[key] = ends
        return self._cache[key]

    def end_state(self, state: int, token: int, json_string: bool) -> int:
        """The string automaton's state after ``token``; -1 if it is not allowed in ``state``."""
        return int(self._ends(json_string)[state, token])

    def allowed_text(self, state: int, json_string: bool, closer: int | None, only_bytes: bool = False) -> np.ndarray:
        """The ids of text tokens allowed in ``state``, and ``closer`` (in NORMAL only).

        Args:
            only_bytes: single-byte tokens only, the quickest way back to NORMAL.
        """
        key = ("text", state, json_string, closer, only_bytes)
        if key not in self._cache:
            allowed = self._ends(json_string)[state] != DEAD
            if only_bytes:
                allowed &= np.asarray([piece is not None and len(piece) == 1 for piece in self.token_bytes])
            if closer is not None and state == NORMAL:
                allowed[closer] = True
            self._cache[key] = np.flatnonzero(allowed)
        return self._cache[key]

    def allowed_anything(self, state: int) -> np.ndarray:
        """The ids of text tokens allowed in ``state``; between characters those of units and the end of turn too."""
        key = ("anything", state)
        if key not in self._cache:
            text = self.allowed_text(state, False, self.end_of_turn)
            self._cache[key] = np.union1d(text, self.unit_ids) if state == NORMAL else text
        return self._cache[key]

    def allowed_anything_but(self, state: int, barred: np.ndarray) -> np.ndarray:
        """``allowed_anything`` without the ids of ``barred``, one of this table's own sets."""
        key = ("anything but", state, id(barred))
        if key not in self._cache:
            self._cache[key] = np.setdiff1d(self.allowed_anything(state), barred)
        return self._cache[key]

    def opening_strings(self) -> np.ndarray:
        """The ids of tokens that begin a string within themselves: a quote, and more of it than may stand between."""
        return self._text_ids(
            "opening", lambda piece: bool(piece.rpartition(b'"')[2].strip(b" \n\t:,")) and b'"' in piece
        )

    def closing_strings(self) -> np.ndarray:
        """The ids of tokens that end a string first, and begin none."""
        return self._text_ids(
            "closing", lambda piece: piece.startswith(b'"') and not piece.rpartition(b'"')[2].strip(b" \n\t:,}")
        )

    def _text_ids(self, name: str, holds: Callable[[bytes], bool]) -> np.ndarray:
        if (name,) not in self._cache:
            self._cache[(name,)] = np.asarray(
                [token for token, piece in enumerate(self.token_bytes) if piece and holds(piece)], dtype=np.int64
            )
        return self._cache[(name,)]

    def allowed_units(self, may_end: bool) -> np.ndarray:
        """The ids of all units, and of the end of speech."""
        key = ("units", may_end)
        if key not in self._cache:
            last = [self.speech_end] if may_end else []
            self._cache[key] = np.concatenate([self.unit_ids, np.asarray(last, dtype=np.int64)])
        return self._cache[key]


# --- segments and grammars --------------------------------------------------------------------------------------------
class Segment(Protocol):
    """A stretch of a reply; the objects are used once."""

    kind: Kind
    done: bool
    cut: bool
    """Whether a limit ended its speech, and not the model."""

    def forced(self) -> int | None:
        """The next token if there is no choice."""

    def allowed(self) -> np.ndarray:
        """The ids among which the model chooses."""

    def advance(self, token: int) -> None:
        """Take ``token``, which was forced or allowed. Raises: InputError: what it leads to cannot be written."""


class Fixed:
    """Tokens that stand in every reply."""

    kind: Kind = "text"
    cut = False

    def __init__(self, ids: Sequence[int]) -> None:
        self._left = list(ids)
        self.done = not self._left

    def __len__(self) -> int:
        return len(self._left)

    @property
    def ids(self) -> list[int]:
        """The tokens that are left."""
        return list(self._left)

    def forced(self) -> int | None:
        return self._left[0]

    def allowed(self) -> np.ndarray:
        return np.asarray(self._left[:1])

    def advance(self, token: int) -> None:
        assert token == self._left[0]
        self._left.pop(0)
        self.done = not self._left


class FreeText:
    """Text of the model's own, ended by ``closer``: a JSON string's inside and its quote, or a plain answer.

    Args:
        max_tokens: after so many tokens the text is finished (to the end of a character) and closed.
        min_tokens: so many tokens come before it may be closed.
        transcribes: it is what was just heard.
    """

    kind: Kind = "text"
    cut = False

    def __init__(
        self, table: TokenTable, closer: int, *, json_string: bool, max_tokens: int, min_tokens: int = 0,
        transcribes: bool = False,
    ) -> None:  # fmt: skip
        assert 0 <= min_tokens <= max_tokens
        self.transcribes = transcribes
        self.table, self.closer, self.json_string = table, closer, json_string
        self.max_tokens, self.min_tokens = max_tokens, min_tokens
        self.tokens: list[int] = []
        self.state = NORMAL
        self.done = False

    def forced(self) -> int | None:
        return self.closer if len(self.tokens) >= self.max_tokens and self.state == NORMAL else None

    def allowed(self) -> np.ndarray:
        full = len(self.tokens) >= self.max_tokens
        closer = self.closer if len(self.tokens) >= self.min_tokens else None
        return self.table.allowed_text(self.state, self.json_string, closer, only_bytes=full)

    def advance(self, token: int) -> None:
        if token == self.closer and self.state == NORMAL:
            self.done = True
            return
        self.state = self.table.end_state(self.state, token, self.json_string)
        assert self.state != DEAD, "a token that the grammar does not allow"
        self.tokens.append(token)

    @property
    def byte_count(self) -> int:
        """Length of the text so far, in bytes."""
        return sum(len(self.table.token_bytes[token] or b"") for token in self.tokens)


class Choice:
    """One of several token sequences, none a beginning of another."""

    kind: Kind = "style"
    cut = False

    def __init__(self, options: Iterable[Sequence[int]]) -> None:
        self._options = [tuple(option) for option in options]
        assert self._options and all(self._options)
        self._taken = 0
        self.done = False

    def __len__(self) -> int:
        return max(map(len, self._options))

    def forced(self) -> int | None:
        next_tokens = {option[self._taken] for option in self._options}
        return next_tokens.pop() if len(next_tokens) == 1 else None

    def allowed(self) -> np.ndarray:
        return np.asarray(sorted({option[self._taken] for option in self._options}))

    def advance(self, token: int) -> None:
        self._options = [option for option in self._options if option[self._taken] == token]
        assert self._options, "a token that the grammar does not allow"
        self._taken += 1
        self.done = len(self._options) == 1 and len(self._options[0]) == self._taken


class Fork(Choice):
    """One of several token sequences, none a beginning of another; what follows depends on which it was.

    Args:
        ways: each sequence, and what makes the segments after it.
    """

    def __init__(self, ways: Sequence[tuple[Sequence[int], Callable[[], Sequence[Segment]]]]) -> None:
        super().__init__(opening for opening, _ in ways)
        self._ways = {tuple(opening): follow for opening, follow in ways}

    def following(self) -> Sequence[Segment]:
        """What comes after the sequence that was chosen."""
        assert self.done
        return self._ways[self._options[0]]()


class Units:
    """Speech units up to the end of speech: at least one, at most ``max_units``.

    Args:
        least: before so many the speech does not end.
        spoken: the text that is being said, or its length in bytes; a run-away voice is stopped after
            ``units_per_byte`` units for each byte, plus two seconds. Where 25 are a second, speech needs about 1.7 a
            byte in English and 2 in Mandarin.
        unit_rate: units a second; at any rate as many seconds are let through.
    """

    kind: Kind = "units"
    units_per_byte = 5
    slack = 50

    def __init__(
        self, table: TokenTable, max_units: int, spoken: FreeText | int | None = None, least: int = 1,
        unit_rate: float = USUAL_RATE,
    ) -> None:  # fmt: skip
        assert max_units >= 1
        self.table, self.max_units, self.spoken, self._faster = table, max_units, spoken, unit_rate / USUAL_RATE
        self.least = min(max(1, least), max_units)
        self.count = 0
        self.done = self.cut = False

    @property
    def limit(self) -> int:
        """The most units that may be written now."""
        if self.spoken is None:
            return self.max_units
        length = self.spoken if isinstance(self.spoken, int) else self.spoken.byte_count
        return min(self.max_units, int(self._faster * (self.slack + self.units_per_byte * length)))

    def forced(self) -> int | None:
        return self.table.speech_end if self.count >= self.limit else None

    def allowed(self) -> np.ndarray:
        return self.table.allowed_units(may_end=self.count >= self.least)

    def advance(self, token: int) -> None:
        if token == self.table.speech_end:
            self.done, self.cut = True, self.count >= self.limit
        else:
            assert self.table.unit_of[token] >= 0, "a token that the grammar does not allow"
            self.count += 1


class UnitsPiece(Units):
    """The next few units of a speech that was begun: it pauses after ``piece`` of them, unless the speech ends before.

    Args:
        begun: units that were said already.
    """

    def __init__(
        self, table: TokenTable, max_units: int, spoken: int, least: int, unit_rate: float, *, begun: int, piece: int
    ) -> None:
        super().__init__(table, max_units, spoken, least, unit_rate)
        self.count, self.pause = begun, begun + piece

    def advance(self, token: int) -> None:
        super().advance(token)
        self.done |= self.pause <= self.count < self.limit


class Grammar:
    """A row of segments, walked token by token.

    Attributes:
        speech_cut: whether a limit ended the speech, and not the model.
        uncertainty: of the choices of the answer's text; whoever chooses tells it.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = [segment for segment in segments if not segment.done]
        self.speech_cut = False
        self.uncertainty = Uncertainty()

    @property
    def done(self) -> bool:
        """Whether the reply is complete."""
        return not self._segments

    @property
    def kind(self) -> Kind:
        """What the next token is part of."""
        return self._segments[0].kind

    @property
    def transcript_closer(self) -> int | None:
        """The token that ends the transcript that is being written; None if none is."""
        segment = self._segments[0]
        return segment.closer if isinstance(segment, FreeText) and segment.transcribes else None

    @property
    def answering(self) -> bool:
        """Whether the next token is part of an answer's text."""
        segment = self._segments[0]
        return isinstance(segment, FreeText) and not segment.transcribes

    def allowed(self) -> np.ndarray:
        """The ids among which the model chooses the next token."""
        return self._segments[0].allowed()

    def advance(self, token: int) -> None:
        """Take a token. Raises: InputError: what it leads to cannot be written."""
        segment = self._segments[0]
        segment.advance(token)
        if segment.done:
            self._segments.pop(0)
            self.speech_cut |= segment.cut
            if isinstance(segment, Fork):
                self._segments[:0] = [each for each in segment.following() if not each.done]

    def take_forced(self) -> list[int]:
        """Take all tokens up to the next choice, and give them back."""
        taken: list[int] = []
        while self._segments and (token := self._segments[0].forced()) is not None:
            self.advance(token)
            taken.append(token)
        return taken
