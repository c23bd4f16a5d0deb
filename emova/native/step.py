"""``step.c``: a decoding step of a LLaMA in compiled code, with weights as short as they are and without overhead.

Shape letters: B sequences, D width, O outputs, I inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import CDLL, POINTER, Structure, byref, c_double, c_int64, c_void_p
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from emova.native.kernel import Scratch
from emova.native.large_pages import LargePages
from emova.native.panels import Kind, Linear, Panels, panels

SOURCE = Path(__file__).with_name("step.c")
MOST_POSITIONS = 16
"""Of all sequences in a step, as in ``step.c``. For more of them torch's matrix products are faster."""
EIGHT = 8
"""A head's width must be a multiple of it."""
ROWS = 4
"""Positions of a cache that are read at once: what is left out is a multiple of it, and begins at one."""


class _Matrix(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("kind", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
    ]


class _Layer(Structure):
    _fields_ = [
        ("qkv", _Matrix),
        ("out", _Matrix),
        ("gate", _Matrix),
        ("up", _Matrix),
        ("down", _Matrix),
        ("before_attention", c_void_p),
        ("before_mlp", c_void_p),
    ]


class _Model(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("layers", "width", "heads", "kv_heads", "head_width", "ffn", "threads")),
        ("eps", c_double),
        ("layer", POINTER(_Layer)),
        ("norm", c_void_p),
        ("rotation", c_void_p),
    ]


class _Cache(Structure):
    _fields_ = [
        ("keys", c_void_p),
        ("values", c_void_p),
        ("half", c_int64),
        ("positions", c_int64),
        ("start", c_int64),
        ("hole", c_int64),
        ("hole_end", c_int64),
    ]


class Layer(Protocol):
    """A layer's weights; query and key rows have their rotary pairs side by side, gates lie before what they open."""

    @property
    def qkv(self) -> Linear: ...
    @property
    def out(self) -> Linear: ...
    @property
    def gate_up(self) -> Linear: ...
    @property
    def down(self) -> Linear: ...
    @property
    def before_attention(self) -> Tensor: ...
    @property
    def before_mlp(self) -> Tensor: ...


class LlamaWeights(Protocol):
    """What the step needs of a LLaMA on the CPU; ``rotation`` is complex, ``[P, 1, C / 2]``."""

    heads: int
    kv_heads: int
    width: int
    eps: float

    @property
    def layers(self) -> Sequence[Layer]: ...
    @property
    def head(self) -> Linear: ...
    @property
    def norm(self) -> Tensor: ...
    @property
    def rotation(self) -> Tensor: ...


class Cache(Protocol):
    """Keys and values of a sequence, ``[L, K, P, C]`` each, float32 or float16, of which ``length`` positions are read.

    ``hole`` gives the first position that a new one does not see, and the first after it that it sees again.
    """

    keys: Tensor
    values: Tensor
    length: int

    def hole(self, position: int, /) -> tuple[int, int]: ...


def bind(lib: CDLL) -> CDLL:
    """``step.c`` as it was loaded, its functions' types declared."""
    lib.scratch_size.restype = lib.product_words.restype = c_int64
    lib.scratch_size.argtypes = [POINTER(_Model), c_int64, c_int64]
    lib.product_words.argtypes = [POINTER(_Matrix), c_int64, c_int64]
    lib.step.restype = lib.product.restype = None
    lib.step.argtypes = [
        POINTER(_Model), c_int64, POINTER(_Cache), c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_int64,
    ]  # fmt: skip
    lib.product.argtypes = [
        POINTER(_Matrix), c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p,
    ]  # fmt: skip
    return lib


class _Workspace(threading.local):
    """What a step writes into besides its results, kept from one step to the next; each thread has its own.

    Args:
        model: the thread's own copy, since threads may decode side by side with different numbers of threads.
        width: D.
    """

    def __init__(self, model: _Model, width: int) -> None:
        self.model = _Model.from_buffer_copy(model)
        self.caches = (_Cache * MOST_POSITIONS)()
        self.x_ND, self.hidden_ND = torch.empty(2, MOST_POSITIONS, width)
        self.scratch, self.scores = Scratch(), Scratch()


class NativeLlama:
    """The step over a LLaMA's weights.

    Args:
        lib: of ``bind``.
        llama: on the CPU.
    """

    def __init__(self, lib: CDLL, llama: LlamaWeights) -> None:
        self._lib = lib
        self._kept: list[Tensor] = []  # what the structures point to
        self._pages = LargePages()
        layers = (_Layer * len(llama.layers))()
        for to, layer in zip(layers, llama.layers, strict=True):
            for name in ("qkv", "out", "down"):
                setattr(to, name, self._matrix(getattr(layer, name)))
            to.gate, to.up = self._halves(layer.gate_up)
            to.before_attention, to.before_mlp = (
                self._vector(weight) for weight in (layer.before_attention, layer.before_mlp)
            )
        self._layers = layers
        self._head = self._matrix(llama.head)
        ffn = llama.layers[0].down.weight.shape[1]
        rotation = torch.view_as_real(llama.rotation[:, 0]).contiguous()
        self._model = _Model(
            len(layers), llama.norm.numel(), llama.heads, llama.kv_heads, llama.width, ffn, 1, llama.eps,
            layers, self._vector(llama.norm), self._vector(rotation),
        )  # fmt: skip
        self._workspace = _Workspace(self._model, llama.norm.numel())

    @property
    def kind(self) -> Kind:
        """How the weights of the layers are stored; those of the head and the first may have more bits."""
        return Kind(self._layers[len(self._layers) - 1].down.kind)

    def bytes_read(self, head_rows: int) -> int:
        """What a step reads of the weights, and of so many rows of the head."""
        matrices = [getattr(layer, name) for layer in self._layers for name in ("qkv", "out", "gate", "up", "down")]
        sizes = [(matrix.rows * matrix.columns, Kind(matrix.kind)) for matrix in matrices]
        sizes.append((head_rows * self._head.columns, Kind(self._head.kind)))
        return round(sum(size * kind.bytes for size, kind in sizes))

    def _vector(self, weight: Tensor) -> int:
        self._kept.append(weight.float().contiguous())
        return self._kept[-1].data_ptr()

    def _matrix(self, linear: Linear) -> _Matrix:
        return self._laid_out(panels(linear.weight, linear.scale))

    def _halves(self, linear: Linear) -> tuple[_Matrix, ...]:
        """The first and the second half of the rows, each in panels of its own."""
        half = linear.weight.shape[0] // 2
        scales = (None, None) if linear.scale is None else linear.scale.split(half)
        return tuple(
            self._laid_out(panels(weight, scale))
            for weight, scale in zip(linear.weight.split(half), scales, strict=True)
        )

    def _laid_out(self, made: Panels) -> _Matrix:
        weight, scale = self._pages.keep(made.weight), None if made.scale is None else self._pages.keep(made.scale)
        self._kept += [weight] if scale is None else [weight, scale]
        address = None if scale is None else scale.data_ptr()
        return _Matrix(weight.data_ptr(), address, made.kind, made.rows, made.columns)

    def step(
        self, caches: Sequence[Cache], counts: Sequence[int], x_ND: Tensor, middle_layers: int = 0, lasting: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Read new embeddings of each sequence, ``counts`` of them, into its cache.

        Args:
            x_ND: N at most ``MOST_POSITIONS``.
            lasting: if not, the hidden states lie where this thread's next step will write, and nothing is allocated.

        Returns:
            The normalised hidden states ``[N, D]``, and those after ``middle_layers`` layers, if any are asked for.
        """
        work, count = self._workspace, len(x_ND)
        assert count == sum(counts) <= MOST_POSITIONS
        row = longest = 0
        for cache, new in zip(caches, counts, strict=True):
            for position in range(cache.length, cache.length + new):
                at = work.caches[row]
                at.keys, at.values = cache.keys.data_ptr(), cache.values.data_ptr()
                at.half, at.positions = cache.keys.dtype == torch.float16, cache.keys.shape[2]
                at.start = position
                at.hole, at.hole_end = cache.hole(position)
                row += 1
            longest = max(longest, cache.length + new)
        work.model.threads = torch.get_num_threads()
        x = work.x_ND[:count].copy_(x_ND)
        hidden_ND = torch.empty_like(x) if lasting else work.hidden_ND[:count]
        middle_ND = torch.empty_like(x) if middle_layers else None
        scratch = work.scratch.floats(self._lib.scratch_size(byref(work.model), count, longest))
        self._lib.step(
            byref(work.model), count, work.caches, x.data_ptr(), hidden_ND.data_ptr(),
            None if middle_ND is None else middle_ND.data_ptr(), middle_layers, scratch.data_ptr(), longest,
        )  # fmt: skip
        for cache, new in zip(caches, counts, strict=True):
            cache.length += new
        return hidden_ND, middle_ND

    def scores(self, hidden_BD: Tensor, start: int, stop: int, lasting: bool = True) -> Tensor:
        """The head's rows ``start`` to ``stop``: ``[B, stop - start]``; ``lasting`` as in ``step``."""
        hidden_BD = hidden_BD.contiguous()
        threads, count = torch.get_num_threads(), len(hidden_BD)
        shape = count, stop - start
        work, head = self._workspace, self._head
        made = torch.empty(shape) if lasting else work.scores.floats(prod(shape)).view(shape)
        words = work.scratch.floats(self._lib.product_words(byref(head), threads, count))
        self._lib.product(
            byref(head), threads, start, stop - start, count, hidden_BD.data_ptr(), made.data_ptr(), words.data_ptr()
        )
        return made
