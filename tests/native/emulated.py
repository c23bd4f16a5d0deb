"""``step.c`` for another processor, run by an emulator, in place of the loaded library."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Sequence
from ctypes import CDLL, string_at
from pathlib import Path
from typing import Any, cast

from emova.native.build import FOLDER
from emova.native.panels import GROUP, LANES, Kind

PROGRAM = Path(__file__).with_name("step_program.c")


def compiled(compiler: str, flags: Sequence[str], folder: Path) -> Path:
    """The program for another processor."""
    made = folder / "step"
    command = [compiler, "-O2", *flags, f"-I{FOLDER}", str(PROGRAM), "-static", "-lm", "-o", str(made)]
    subprocess.run(command, check=True, timeout=150)
    return made


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def sized(content: bytes) -> bytes:
    return numbers(len(content)) + content


def matrix(m: Any) -> bytes:
    """A ``_Matrix`` with all that it points to."""
    kind = Kind(m.kind)
    rows, columns = -(-m.rows // LANES) * LANES, m.columns
    weight, scale = rows * columns * int(kind.bytes), 0
    if kind >= Kind.INT8:
        columns = -(-columns // GROUP) * GROUP
        weight = rows * columns // (1 if kind is Kind.INT8 else 2)
        scale = 4 * rows if kind is Kind.INT8 else 2 * rows * columns // GROUP
    return (
        numbers(m.kind, m.rows, m.columns)
        + sized(string_at(m.weight, weight))
        + sized(string_at(m.scale, scale) if scale else b"")
    )


class Emulated:
    """What callers use of the library; every call is a run of the program.

    Args:
        command: the emulator with its options, and the program.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.calls = 0

    def as_library(self) -> CDLL:
        return cast(CDLL, self)

    def _run(self, given: bytes, size: int) -> bytes:
        made = subprocess.run(self.command, input=given, capture_output=True, check=True, timeout=60).stdout
        assert len(made) == size
        self.calls += 1
        return made

    def scratch_size(self, *_: object) -> int:
        return 1

    def product_words(self, *_: object) -> int:
        return 1

    def product(self, m: Any, threads: int, start: int, rows: int, count: int, x: int, y: int, words: int) -> None:
        m = m._obj
        given = numbers(0) + matrix(m) + numbers(start, rows, count) + sized(string_at(x, 4 * count * m.columns))
        ctypes.memmove(y, self._run(given, 4 * count * rows), 4 * count * rows)

    def step(
        self, model: Any, count: int, caches: Any, x: int, hidden: int, middle: int, middle_layers: int, scratch: int,
        longest: int,
    ) -> None:  # fmt: skip
        m = model._obj
        shape = m.layers, m.width, m.heads, m.kv_heads, m.head_width, m.ffn
        given = numbers(1, *shape) + sized(struct.pack("<d", m.eps))
        for layer in m.layer[: m.layers]:
            given += b"".join(matrix(getattr(layer, name)) for name in ("qkv", "out", "gate", "up", "down"))
            given += b"".join(sized(string_at(v, 4 * m.width)) for v in (layer.before_attention, layer.before_mlp))
        rows = list(caches[:count])
        sequences = list({cache.keys: cache for cache in rows}.values())
        rotation = 4 * m.head_width * rows[0].positions
        given += sized(string_at(m.norm, 4 * m.width)) + sized(string_at(m.rotation, rotation))
        given += numbers(count, len(sequences), longest, middle_layers)
        parts = []
        for cache in sequences:
            size = m.layers * m.kv_heads * cache.positions * m.head_width * (2 if cache.half else 4)
            parts += [(cache.keys, size), (cache.values, size)]
            given += b"".join(sized(string_at(*part)) for part in parts[-2:]) + numbers(cache.half, cache.positions)
        places = [cache.keys for cache in sequences]
        for row in rows:
            given += numbers(places.index(row.keys), row.start, row.hole, row.hole_end)
        states = 4 * count * m.width
        given += sized(string_at(x, states))
        parts = [(hidden, states), (middle, states), *parts]
        made = self._run(given, sum(size for _, size in parts))
        for to, size in parts:
            ctypes.memmove(to, made[:size], size)
            made = made[size:]
