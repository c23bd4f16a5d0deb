"""Calls of tools as a reply holds them, and reading them while they are being written.

A call is ``{"name": "get_weather", "arguments": {"city": "Paris"}}``; a reply's calls are a JSON array of such. The
arguments are one JSON object, as ``json.dumps(..., ensure_ascii=False)`` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from emova.core.errors import InputError
from emova.reply.grammar import TokenTable

BEFORE_NAME = '{"name": "'
BEFORE_ARGUMENTS = ', "arguments": '


@dataclass(frozen=True)
class Call:
    """One call of a tool; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str

    @classmethod
    def from_json(cls, name: str, arguments: str) -> Call:
        """A call that somebody else wrote down, as a reply would hold it. Raises: InputError: no JSON object."""
        try:
            value = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError("the call's arguments: not the text of a JSON object")
        # A lone surrogate cannot be written as UTF-8, so no tokenizer can take it.
        text = json.dumps(value, ensure_ascii=False)
        return cls(name, text.encode("utf-8", "replace").decode())


@dataclass(frozen=True)
class CallStarted:
    """The reply calls a tool; its arguments follow."""

    name: str


@dataclass(frozen=True)
class CallDelta:
    """More of the arguments of the call that started last."""

    arguments: str


CallEvent = CallStarted | CallDelta


def encode_calls(calls: Sequence[Call], table: TokenTable) -> list[int]:
    """The token ids of ``calls`` as the grammar lets the model write them: names and arguments are tokenised apart."""
    ids: list[int] = []
    for index, call in enumerate(calls):
        ids += table.encode(("[" if index == 0 else ", ") + BEFORE_NAME)
        ids += [*table.encode(call.name), table.quote, *table.encode(BEFORE_ARGUMENTS)]
        ids += [*table.encode(call.arguments), *table.encode("}")]
    return [*ids, *table.encode("]")]


class _At(Enum):
    OPEN = "["
    BEFORE_NAME = BEFORE_NAME
    NAME = "a name's end"
    BEFORE_ARGUMENTS = BEFORE_ARGUMENTS
    ARGUMENTS = "the arguments' end"
    CLOSE = "}"
    NEXT = "] or ,"
    SPACE = " "
    CLOSED = "nothing"


_AFTER = {
    _At.OPEN: _At.BEFORE_NAME,
    _At.BEFORE_NAME: _At.NAME,
    _At.BEFORE_ARGUMENTS: _At.ARGUMENTS,
    _At.CLOSE: _At.NEXT,
    _At.SPACE: _At.BEFORE_NAME,
}


class CallsReader:
    """Reads a reply's calls character by character, exactly as ``encode_calls`` writes them.

    Attributes:
        ended: the closing bracket was read.
    """

    def __init__(self) -> None:
        self._at = _At.OPEN
        self._place = 0  # in a fixed text
        self._name = ""
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def ended(self) -> bool:
        """Whether nothing more belongs to the calls."""
        return self._at is _At.CLOSED

    def read(self, character: str) -> list[CallEvent]:
        """The events that ``character`` completes. Raises: ValueError: it is out of place."""
        at = self._at
        if at is _At.NAME:
            return self._read_name(character)
        if at is _At.ARGUMENTS:
            return self._read_arguments(character)
        if at is _At.NEXT and character in "],":
            self._at = _At.CLOSED if character == "]" else _At.SPACE
            return []
        if at not in _AFTER or at.value[self._place] != character:
            raise ValueError(f"something else than {at.value}")
        self._place += 1
        if self._place == len(at.value):
            self._at, self._place = _AFTER[at], 0
            self._name = ""
        return []

    def _read_name(self, character: str) -> list[CallEvent]:
        if character != '"':
            self._name += character
            return []
        self._at = _At.BEFORE_ARGUMENTS
        return [CallStarted(self._name)]

    def _read_arguments(self, character: str) -> list[CallEvent]:
        if not self._depth and character != "{":
            raise ValueError("arguments that are no object")
        if self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        if not self._depth:
            self._at = _At.CLOSE
        return [CallDelta(character)]
