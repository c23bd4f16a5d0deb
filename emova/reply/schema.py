"""JSON under a JSON schema, written token by token (llguidance, https://github.com/guidance-ai/llguidance).

Keywords that restrict a value and cannot be kept are refused by their name and place; annotations are passed over, as
the standard asks (JSON Schema 2020-12, §7.9), and so is a ``format`` that is not known.

Shape letters: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from emova.core.errors import InputError
from emova.core.extras import missing_package
from emova.reply.grammar import Kind, TokenTable

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Schema = Mapping[str, object]

MOST_CHARACTERS = 20_000
MOST_KEYWORDS = 1_000
CLOSING = 48
"""Tokens beyond a value's limit in which it must have been brought to its end."""

# Where a schema holds other schemas: one, a list of them, or some by name.
_ONE = ("additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# No schema by itself, or one that needs its neighbours to mean anything.
_BESIDE = ("type", "properties", "required", "$defs", "definitions")


def _library():  # type: ignore[no-untyped-def]  # a module
    try:
        import llguidance
    except ImportError as error:
        raise missing_package(error, "tools") or error from None
    return llguidance


def _grammar(schema: Schema) -> str | None:
    """What llguidance runs on; None if it cannot keep ``schema``."""
    matcher = _library().LLMatcher
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    try:
        grammar: str = matcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    except ValueError:
        return None
    wrong, _ = matcher.validate_grammar_with_warnings(grammar)
    return None if wrong else grammar


# --- what can be kept -------------------------------------------------------------------------------------------------
def compile_schema(schema: Schema, place: str) -> str:
    """What ``JsonValue`` needs to write values of ``schema``, which are objects.

    Args:
        place: how errors call the schema.

    Raises:
        InputError: a keyword cannot be kept, no value is valid, or the schema is too large.
    """
    kept = {**schema, "type": schema.get("type", "object")}
    if kept["type"] != "object":
        raise InputError(f'{place}.type: arguments are an object; write "object"')
    try:
        size = len(json.dumps(kept))
    except (ValueError, RecursionError):
        raise InputError(f"{place}: nested too deeply") from None
    if size > MOST_CHARACTERS:
        raise InputError(f"{place}: {size} characters; {MOST_CHARACTERS} at most")
    kept = _plain(kept)
    found = list(_subschemas(kept, place))
    keywords = sum(len(each) for each, _ in found)
    if keywords > MOST_KEYWORDS:
        raise InputError(f"{place}: {keywords} keywords; {MOST_KEYWORDS} at most")
    grammar = _grammar(kept)
    if grammar is None:
        raise InputError(_why(kept, found, place))
    return grammar


def _subschemas(schema: Schema, place: str) -> Iterator[tuple[Schema, str]]:
    """All schemas within ``schema``, the innermost first, and their places."""
    inner: list[tuple[object, str]] = []
    inner += [(schema.get(key), f"{place}.{key}") for key in _ONE]
    for key in _LISTS:
        if isinstance(several := schema.get(key), list):
            inner += [(each, f"{place}.{key}[{index}]") for index, each in enumerate(several)]
    for key in _NAMED:
        if isinstance(named := schema.get(key), Mapping):
            inner += [(each, f"{place}.{key}.{_shown(name)}") for name, each in named.items()]
    for each, where in inner:
        if isinstance(each, Mapping):
            yield from _subschemas(each, where)
    yield schema, place


def _shown(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= 40 and name.isprintable() else "(another name)"


@lru_cache(maxsize=256)
def _keeps_format(name: str) -> bool:
    return _grammar({"type": "string", "format": name}) is not None


def _plain(schema: Schema) -> dict[str, object]:
    """``schema`` without formats that are not known, which are annotations, and with objects that hold what they name
    and nothing else, unless they say so: whoever calls a tool makes no names up. Its values are values of ``schema``.
    """
    # The parts of allOf name some of one object's properties each; of oneOf, a closed one would hide that two overlap.
    closed = not any(f'"{keyword}":' in json.dumps(schema) for keyword in ("allOf", "oneOf"))

    def kept(value: object, is_schema: bool) -> object:
        if isinstance(value, list):
            return [kept(each, is_schema) for each in value]
        if not isinstance(value, Mapping):
            return value
        if not is_schema:
            return {name: kept(each, True) for name, each in value.items()}
        plain = {
            key: kept(each, key not in _NAMED) if key in _HOLDS else each
            for key, each in value.items()
            if key != "format" or (isinstance(each, str) and _keeps_format(each[:40]))
        }
        if closed and "properties" in plain and not _OPEN & set(plain):
            plain["additionalProperties"] = False
        return plain

    found = kept(schema, True)
    assert isinstance(found, dict)
    return found


_HOLDS = frozenset((*_ONE, *_LISTS, *_NAMED))
_OPEN = {"additionalProperties", "patternProperties", "unevaluatedProperties", "anyOf", "oneOf", "$ref", "$dynamicRef"}


def _why(schema: Schema, found: Sequence[tuple[Schema, str]], place: str) -> str:
    """Names the keyword because of which ``schema`` cannot be kept: the innermost schema that cannot be kept is looked
    at, each of its keywords alone, then the rest without each.
    """
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    for each, where in found:
        if _grammar({**shared, **each}) is not None:
            continue
        for key, value in each.items():
            alone = {key: value, **({"type": each["type"]} if "type" in each else {})}
            if key not in _BESIDE and _grammar({**shared, **alone}) is None:
                return f'{where}: the keyword "{_shown(key)}" cannot be kept with this value; write it without'
        for key in sorted(each, key=lambda key: key in _BESIDE):
            if key not in shared and _grammar({**shared, **{k: v for k, v in each.items() if k != key}}) is not None:
                return f'{where}: the keyword "{_shown(key)}" cannot be kept beside the others; write it without'
        return f"{where}: no schema whose values can be written; write it more simply"
    return f"{place}: too large or too complex to be kept; write it more simply"


# --- writing ----------------------------------------------------------------------------------------------------------
class _Words:
    """A token table as llguidance reads it."""

    bos_token_id = None

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self.eos_token_id = table.end_of_turn
        # What is no text has a name that is no text either, so that nothing leads to it.
        self.tokens = [b"\xff<%d>" % index if text is None else text for index, text in enumerate(table.token_bytes)]
        self.special_token_ids = [index for index, text in enumerate(table.token_bytes) if text is None]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._table.encode(text.decode() if isinstance(text, bytes) else text)


@lru_cache(maxsize=2)
def _vocabulary(table: TokenTable) -> LLTokenizer:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Words(table)), n_vocab=len(table.token_bytes))


class JsonValue:
    """A segment: one JSON object under a compiled schema.

    Args:
        grammar: of ``compile_schema``.
        max_tokens: after so many it is brought to its end, by the shortest way that is known to be one.

    Raises:
        InputError: the schema is too complex for this vocabulary.
    """

    kind: Kind = "text"
    cut = False

    def __init__(self, table: TokenTable, grammar: str, max_tokens: int) -> None:
        self._table, self._left = table, max(1, max_tokens)
        self._matcher: LLMatcher = _library().LLMatcher(_vocabulary(table), grammar)
        self._in_string = self._escaped = False
        self.done = False
        self._forced: list[int] = []
        self._allowed: np.ndarray
        self._look()

    @property
    def left(self) -> int:
        """How many tokens its limit leaves."""
        return max(0, self._left)

    def forced(self) -> int | None:
        return self._forced[0] if self._forced else None

    def allowed(self) -> np.ndarray:
        return self._allowed

    def advance(self, token: int) -> None:
        assert token in (self._forced[:1] or self._allowed), "a token that the grammar does not allow"
        taken = self._matcher.consume_token(token)
        self._scan(self._table.token_bytes[token] or b"")
        self._left -= 1
        self._forced = self._forced[1:]
        if taken and self._matcher.is_stopped() and self._matcher.is_accepting():
            self.done = True
            return
        if not self._forced:
            self._look()

    def _look(self) -> None:
        """What may come next. Raises: InputError: nothing may, or the value does not end."""
        if self._left > 0:  # what is forced needs no choice; to its end, a value is led token by token
            self._forced = list(self._matcher.compute_ff_tokens())
            if self._forced:
                return
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: len(self._table.token_bytes)])
        self._allowed = allowed[allowed != self._table.end_of_turn]
        if self._matcher.is_error() or not len(self._allowed) or self._left <= -CLOSING:
            raise InputError("the call: its arguments cannot be brought to an end; write the schema more simply")
        if self._left <= 0:
            self._allowed = self._allowed[[self._closer()]]

    def _closer(self) -> int:
        """Which of the allowed tokens is nearest to the end: what closes, else a single byte, else any."""
        texts = [self._table.token_bytes[token] or b"" for token in self._allowed.tolist()]
        wanted = (b'"',) if self._in_string else (b"}", b"]", b'"')
        for text in wanted:
            if text in texts:
                return texts.index(text)
        return min(range(len(texts)), key=lambda index: len(texts[index]))

    def _scan(self, text: bytes) -> None:
        for byte in text:
            if self._in_string:
                self._in_string = self._escaped or byte != ord('"')
                self._escaped = byte == ord("\\") and not self._escaped
            else:
                self._in_string = byte == ord('"')
