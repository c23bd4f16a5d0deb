"""The tensors of a PyTorch file of the form before 1.6, read as data: nothing in it is unpickled or called.

Such a file is five pickles (a magic number, a version, the machine, the state dict, the storages' keys) and behind them
each storage's length and numbers. The state dict's pickle is walked instruction by instruction for names, sizes and
storages alone, so what it would have Python do is never done.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError

DType = np.dtype[np.float32] | np.dtype[np.int64]
_TYPES: dict[str, DType] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
_TEXT, _NUMBERS = ("BINUNICODE", "SHORT_BINUNICODE"), ("BININT", "BININT1", "BININT2")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")


@dataclass(frozen=True)
class _Entry:
    name: str
    storage: str
    dtype: DType
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> Tensor:
        """The tensor in its storage."""
        last = self.start + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if last >= len(numbers):
            raise ValueError("a tensor beyond its storage")
        return torch.from_numpy(numbers.copy()).as_strided(self.shape, self.stride, self.start).contiguous()


def read_torch_file(data: bytes, source: str) -> dict[str, Tensor]:
    """The state dict in its order.

    Args:
        data: the file's bytes.
        source: what errors call it.

    Raises:
        InputError: it is of another form, or cut short.
    """
    stream = io.BytesIO(data)
    try:
        for _ in range(3):
            list(pickletools.genops(stream))
        entries = _entries(stream)
        keys = [str(text) for op, text, _ in pickletools.genops(stream) if op.name in _TEXT]
        types = {entry.storage: entry.dtype for entry in entries}
        storages: dict[str, np.ndarray] = {}
        for key in keys:
            (length,) = np.frombuffer(stream.read(8), "<i8")
            dtype = types[key]
            storages[key] = np.frombuffer(stream.read(int(length) * dtype.itemsize), dtype)
        return {entry.name: entry.of(storages[entry.storage]) for entry in entries}
    except (ValueError, KeyError, IndexError):
        raise InputError(f"{source}: no state dict in PyTorch's old form, or cut short; fetch it again") from None


def _entries(stream: io.BytesIO) -> list[_Entry]:
    """What the state dict's pickle names. Of each tensor it has: the name, the storage's type and key, then numbers and
    tuples: where in the storage it begins, its shape, its strides."""
    found: list[_Entry] = []
    memory: dict[int, str] = {}
    name = storage = kind = value = ""
    numbers: list[int] = []
    tuples: list[tuple[int, ...]] | None = None
    for op, argument, _ in pickletools.genops(stream):
        if op.name in ("BINPUT", "LONG_BINPUT"):
            assert isinstance(argument, int), "the opcode's own kind"
            memory[argument] = value
            continue
        value = (
            str(argument) if op.name == "GLOBAL" else memory.get(int(argument or 0), "") if op.name == "BINGET" else ""
        )
        if value in _TYPES:
            kind = value
        elif op.name in _TEXT and str(argument).isdigit():
            storage = str(argument)
        elif op.name in _TEXT and argument not in ("storage", "cpu"):
            name = str(argument)
        elif op.name == "BINPERSID":
            numbers, tuples = [], []
        elif op.name in _NUMBERS:
            assert isinstance(argument, int), "the opcode's own kind"
            numbers.append(argument)
        elif op.name in _TUPLES and tuples is not None:
            tuples.append(tuple(numbers))
            numbers = []
            if len(tuples) == 2:
                (start, *shape), stride = tuples
                found.append(_Entry(name, storage, _TYPES[kind], start, tuple(shape), stride))
                tuples = None
    return found
