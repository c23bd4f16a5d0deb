"""The keywords that transformers' processors take, checked: what is not known is told, never passed over.

Shape letters: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from emova.core.errors import InputError

_TEXT = (
    "padding", "padding_side", "pad_to_multiple_of", "truncation", "max_length", "add_special_tokens",
    "return_attention_mask", "return_token_type_ids", "return_tensors",
)  # fmt: skip
_GROUPS: dict[str, tuple[str, ...]] = {
    "text_kwargs": _TEXT,
    "images_kwargs": ("max_tiles", "return_tensors"),
    "audio_kwargs": ("sampling_rate", "return_tensors"),
    "common_kwargs": ("return_tensors",),
    "videos_kwargs": ("return_tensors",),
}
_LONGEST, _MAX_LENGTH = "longest", "max_length"


@dataclass(frozen=True)
class ProcessorOptions:
    """How conversations become a batch.

    Attributes:
        padding: True or "longest", to the longest of the batch; "max_length"; False or "do_not_pad". None: where
            tensors are returned.
        padding_side: "left", as answers are generated, or "right", as many trainers want it.
        pad_to_multiple_of: pad further, to a multiple of so many tokens.
        truncation: cut what is longer than ``max_length``, at its end; never through a picture.
        max_length: in tokens.
        add_special_tokens: of no effect, since prompts hold theirs.
        return_tensors: "pt", "np", or None for lists.
        return_attention_mask: whether the batch holds one.
        return_token_type_ids: False; there are none.
        max_tiles: most tiles of a picture, the thumbnail not counted; the processor's own if None.
        sampling_rate: of audio that is given as arrays, in Hz; the speech tokenizer's if None.

    Raises:
        InputError: a value is wrong, or does not go with another.
    """

    padding: bool | str | None = None
    padding_side: str = "left"
    pad_to_multiple_of: int | None = None
    truncation: bool | str = False
    max_length: int | None = None
    add_special_tokens: bool = False
    return_tensors: str | None = "pt"
    return_attention_mask: bool = True
    return_token_type_ids: bool = False
    max_tiles: int | None = None
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        _one_of("padding", self.padding, (True, False, None, _LONGEST, _MAX_LENGTH, "do_not_pad"))
        _one_of("padding_side", self.padding_side, ("left", "right"))
        _one_of("truncation", self.truncation, (True, False, "longest_first", "only_first", "do_not_truncate"))
        _one_of("return_tensors", self.return_tensors, ("pt", "np", None))
        _one_of("return_token_type_ids", self.return_token_type_ids, (False,))
        for name in ("max_length", "pad_to_multiple_of", "max_tiles", "sampling_rate"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name}: {value!r} is not a whole number above 0")
        if self.max_length is None and (self.padding == _MAX_LENGTH or self.cuts):
            raise InputError("max_length: padding='max_length' and truncation need it; say how many tokens")

    @classmethod
    def gather(cls, given: Mapping[str, object]) -> ProcessorOptions:
        """From keywords, plain or grouped as transformers groups them (``text_kwargs``, ``processor_kwargs`` …).

        Raises:
            InputError: one is unknown, stands twice with two values, or is wrong.
        """
        values: dict[str, Any] = {}  # checked by __post_init__
        known = tuple(field.name for field in fields(cls))
        for name, value in _ungrouped(given):
            if name not in known:
                raise InputError(f"{name}: the processor has no such option; there are {', '.join(known)}")
            if value is None and name != "return_tensors":
                continue
            value = cls.tensors(value) if name == "return_tensors" else getattr(value, "value", value)
            if values.get(name, value) != value:
                raise InputError(f"{name}: given twice, as {values[name]!r} and {value!r}; give it once")
            values[name] = value
        return cls(**values)

    @staticmethod
    def tensors(given: object) -> str | None:
        """``return_tensors`` as it is meant: transformers' enumeration, or "auto", which is "pt"."""
        given = getattr(given, "value", given)
        if given is not None and not isinstance(given, str):
            raise InputError(f"return_tensors: {given!r} is unknown; it is one of 'pt', 'np', None")
        return "pt" if given == "auto" else given

    @property
    def cuts(self) -> bool:
        """Whether what is too long is cut."""
        return self.truncation not in (False, "do_not_truncate")

    def width(self, lengths: Sequence[int]) -> int | None:
        """The T that a batch of these lengths is padded to; None: each stays as it is.

        Raises:
            InputError: tensors are wanted of rows that differ in length and are not padded.
        """
        padding = self.return_tensors is not None if self.padding is None else self.padding
        if padding in (False, "do_not_pad"):
            if self.return_tensors is not None and len(set(lengths)) > 1:
                raise InputError("padding: conversations of different lengths make no tensor; say padding=True")
            return None
        width = max(lengths, default=0)
        if padding == _MAX_LENGTH:
            assert self.max_length is not None
            width = max(width, self.max_length)
        step = self.pad_to_multiple_of or 1
        return -(-width // step) * step

    def padded(self, row: Sequence[int], width: int | None, filler: int) -> list[int]:
        """``row`` with ``filler`` at its side."""
        missing = [filler] * ((width or 0) - len(row))
        return [*missing, *row] if self.padding_side == "left" else [*row, *missing]


def _ungrouped(given: Mapping[str, object]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in given.items():
        if name == "processor_kwargs":
            found += _ungrouped(_mapping(name, value))
        elif name in _GROUPS:
            for inner, setting in _mapping(name, value).items():
                if inner not in _GROUPS[name]:
                    raise InputError(f"{name}: it has no option {inner!r}; there are {', '.join(_GROUPS[name])}")
                found.append((inner, setting))
        else:
            found.append((name, value))
    return found


def _mapping(name: str, value: object) -> Mapping[str, object]:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name}: not a dictionary of options")
    return value or {}


def _one_of(name: str, value: object, choices: Sequence[object]) -> None:
    # 1 and True are equal, but a length is no switch.
    if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
        raise InputError(f"{name}: {value!r} is unknown; it is one of {', '.join(map(repr, choices))}")
