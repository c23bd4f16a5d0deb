"""Compiled code against torch on a few numbers, in milliseconds: a compiler that is wrong must not be believed.

Shapes: N new positions, D width, H heads, K key-value heads, C head width, P positions, as in ``step.c``.
"""

from __future__ import annotations

import math
from ctypes import CDLL
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.native.convolution import EPS, Convolutions
from emova.native.int4 import int4_floats, int4_groups
from emova.native.panels import Kind
from emova.native.step import NativeLlama

# Every branch of the C is taken: rows and columns that no vector divides, groups of more than four queries, a hole.
WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, FFN, LAYERS, POSITIONS, TOKENS = 24, 10, 2, 8, 42, 2, 16, 11


@dataclass(frozen=True)
class _Linear:
    weight: Tensor
    scale: Tensor | None = None

    def __call__(self, x_NI: Tensor) -> Tensor:
        if self.scale is not None and self.scale.dim() == 2:
            return functional.linear(x_NI, int4_floats(self.weight, self.scale))
        made = functional.linear(x_NI, self.weight.float())
        return made if self.scale is None else made * self.scale


@dataclass(frozen=True)
class _Layer:
    qkv: _Linear
    out: _Linear
    gate_up: _Linear
    down: _Linear
    before_attention: Tensor
    before_mlp: Tensor


@dataclass
class _Weights:
    layers: list[_Layer]
    head: _Linear
    norm: Tensor
    rotation: Tensor
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    width: int = HEAD_WIDTH
    eps: float = 1e-5


@dataclass
class _Cache:
    """A sequence that has been read up to ``length``; its later positions do not see the hole."""

    keys: Tensor
    values: Tensor
    length: int
    unseen: tuple[int, int] = field(default=(0, 0))

    def hole(self, position: int, /) -> tuple[int, int]:
        return self.unseen if position >= self.unseen[1] else (0, 0)


def step_agrees(lib: CDLL) -> bool:
    """Whether ``step.c`` computes what torch does: each kind of weights and of caches, two sequences at once."""
    return all(_case_agrees(lib, kind, half) for kind in Kind for half in (False, True))


@torch.no_grad()
def _case_agrees(lib: CDLL, kind: Kind, half: bool) -> bool:
    generator = torch.Generator().manual_seed(7)
    weights = _weights(kind, generator)
    dtype = torch.float16 if half else torch.float32
    shape = 2, 2, LAYERS, KV_HEADS, POSITIONS, HEAD_WIDTH
    caches = [
        _Cache(keys.to(dtype), values.to(dtype), *read)
        for (keys, values), read in zip(
            torch.randn(shape, generator=generator), ((2, (0, 0)), (9, (4, 8))), strict=True
        )
    ]
    counts, x_ND = (3, 1), torch.randn(4, WIDTH, generator=generator)
    expected = _step(weights, [replace(each, keys=each.keys.clone(), values=each.values.clone()) for each in caches],
                     counts, x_ND)  # fmt: skip
    native = NativeLlama(lib, weights)
    hidden_ND, middle_ND = native.step(caches, counts, x_ND, middle_layers=1)
    assert middle_ND is not None
    made = middle_ND, hidden_ND, native.scores(hidden_ND, 1, TOKENS)
    # A key that rounds the other way; inputs that become whole numbers of 16 bits; sums in another order.
    close = 4e-3 if half else 1e-3 if kind >= Kind.INT8 else 1e-4
    return all(
        torch.allclose(mine, torchs, atol=close, rtol=close) for mine, torchs in zip(made, expected, strict=True)
    )


def _weights(kind: Kind, generator: torch.Generator) -> _Weights:
    def linear(outputs: int, inputs: int) -> _Linear:
        weight = torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs)
        match kind:
            case Kind.FLOAT32:
                return _Linear(weight)
            case Kind.FLOAT16:
                return _Linear(weight.half().float())
            case Kind.BFLOAT16:
                weight[0, 0] = 1e-30  # no float16 number, so that it stays bfloat16
                return _Linear(weight.bfloat16().float())
            case Kind.INT8:
                whole = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
                return _Linear(whole, (0.5 + torch.rand(outputs, generator=generator)) / (64 * math.sqrt(inputs)))
            case Kind.INT4:
                return _Linear(*int4_groups(weight))

    def gain() -> Tensor:
        return 1 + 0.1 * torch.randn(WIDTH, generator=generator)

    layers = [
        _Layer(
            linear((HEADS + 2 * KV_HEADS) * HEAD_WIDTH, WIDTH), linear(WIDTH, HEADS * HEAD_WIDTH),
            linear(2 * FFN, WIDTH), linear(WIDTH, FFN), gain(), gain(),
        )
        for _ in range(LAYERS)
    ]  # fmt: skip
    angle = torch.rand(POSITIONS, 1, HEAD_WIDTH // 2, generator=generator)
    return _Weights(layers, linear(TOKENS, WIDTH), gain(), torch.polar(torch.ones_like(angle), angle))


def _step(
    weights: _Weights, caches: list[_Cache], counts: tuple[int, ...], x_ND: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden states after the first layer and at the end, and the scores of all tokens but the first."""
    middle_ND = x_ND
    places = [(cache, cache.length + new) for cache, count in zip(caches, counts, strict=True) for new in range(count)]
    rotated = HEADS + KV_HEADS
    for index, layer in enumerate(weights.layers):
        qkv = layer.qkv(_normalise(x_ND, layer.before_attention, weights.eps)).unflatten(1, (-1, HEAD_WIDTH))
        turns = weights.rotation[[position for _, position in places]]
        pairs = torch.view_as_complex(qkv[:, :rotated].unflatten(2, (-1, 2)).contiguous())
        qk = torch.view_as_real(pairs * turns).flatten(2)
        mixed = []
        for row, (cache, position) in enumerate(places):
            cache.keys[index, :, position] = qk[row, HEADS:]
            cache.values[index, :, position] = qkv[row, rotated:]
            first, last = cache.hole(position)
            seen = [place for place in range(position + 1) if not first <= place < last]
            keys_HPC, values_HPC = (
                kept[index, :, seen].float().repeat_interleave(HEADS // KV_HEADS, dim=0)
                for kept in (cache.keys, cache.values)
            )
            scores_HP = (keys_HPC @ qk[row, :HEADS, :, None]).squeeze(2) / math.sqrt(HEAD_WIDTH)
            mixed.append((scores_HP.softmax(dim=1)[:, None] @ values_HPC).flatten())
        x_ND = x_ND + layer.out(torch.stack(mixed))
        gate, up = layer.gate_up(_normalise(x_ND, layer.before_mlp, weights.eps)).chunk(2, dim=1)
        x_ND = x_ND + layer.down(functional.silu(gate) * up)
        if index == 0:
            middle_ND = x_ND
    hidden_ND = _normalise(x_ND, weights.norm, weights.eps)
    return middle_ND, hidden_ND, weights.head(hidden_ND)[:, 1:]


def _normalise(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x_ND, (x_ND.shape[1],), weight_D, eps)


@torch.no_grad()
def convolutions_agree(convolutions: Convolutions) -> bool:
    """Whether ``convolution.c`` computes what torch does: numbers of frames and outputs that no vector divides."""
    generator = torch.Generator().manual_seed(7)

    def conv(inputs: int, outputs: int, taps: int, dilation: int = 1, groups: int = 1) -> nn.Conv1d:
        made = nn.utils.skip_init(nn.Conv1d, inputs, outputs, taps, dilation=dilation, groups=groups)
        assert made.bias is not None
        for numbers in (made.weight, made.bias):
            numbers.normal_(generator=generator).div_(math.sqrt(numbers[0].numel()))
        return made

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    wide = conv(5, 13, 3, dilation=2)
    depthwise, widen, narrow = conv(7, 7, 5, dilation=2, groups=7), conv(7, 20, 1), conv(20, 7, 1)
    gain_BC, bias_BC, scale_C1 = normal(2, 7), normal(2, 7), normal(7, 1)
    for frames in (1, 17, 69):
        window = normal(2, 5, frames + 4)
        if not torch.allclose(convolutions.convolve(window, wide), wide(window), atol=1e-4, rtol=1e-4):
            return False
        window, left = normal(2, 7, frames + 8), 6
        normed_BFC = functional.layer_norm(depthwise(window).transpose(1, 2), (7,), eps=EPS)
        normed_BCF = (normed_BFC * gain_BC[:, None] + bias_BC[:, None]).transpose(1, 2)
        expected = window[..., left : left + frames] + scale_C1 * narrow(functional.gelu(widen(normed_BCF)))
        made = convolutions.conv_block(window, left, depthwise, gain_BC, bias_BC, widen, narrow, scale_C1)
        if not torch.allclose(made, expected, atol=1e-4, rtol=1e-4):
            return False
    return True
