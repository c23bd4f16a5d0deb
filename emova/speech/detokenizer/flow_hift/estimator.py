"""The velocity of the flow: a U-Net over time with transformers, as in Matcha-TTS (Mehta et al. 2024, §2.3).

Shapes: B batch, C channels, F frames, M mel bins, E width of the time embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError


@dataclass(frozen=True)
class EstimatorConfig:
    """The defaults are the release's. ``blocks`` counts transformers behind each residual block."""

    channels: int = 256
    heads: int = 8
    head_width: int = 64
    blocks: int = 4
    middle: int = 12
    groups: int = 8

    def __post_init__(self) -> None:
        if min(self.channels, self.heads, self.head_width, self.groups) < 1 or min(self.blocks, self.middle) < 0:
            raise InputError("estimator: no such sizes; give 1 or more")
        if self.channels % self.groups:
            raise InputError(f"estimator.channels={self.channels}: no whole groups; give a multiple of {self.groups}")


class ConvBlock(nn.Module):
    """Convolution, normalisation, Mish."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x_BCF: Tensor) -> Tensor:
        return functional.mish(self.norm(self.convolution(x_BCF)))


class ResidualBlock(nn.Module):
    """Two convolutional blocks, the time added between them."""

    def __init__(self, inputs: int, outputs: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.from_time = nn.Linear(time_width, outputs)
        self.first, self.second = ConvBlock(inputs, outputs, groups), ConvBlock(outputs, outputs, groups)
        self.beside = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x_BCF: Tensor, time_BE: Tensor) -> Tensor:
        hidden = self.first(x_BCF) + self.from_time(functional.mish(time_BE))[..., None]
        return self.second(hidden) + self.beside(x_BCF)


class Transformer(nn.Module):
    """Attention over all frames and two dense layers."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        width, inner = config.channels, config.heads * config.head_width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.leave = nn.Linear(inner, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BFC: Tensor) -> Tensor:
        normed = self.attention_norm(x_BFC)
        q, k, v = (
            layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        x_BFC = x_BFC + self.leave(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x_BFC + self.narrow(functional.gelu(self.widen(self.ffn_norm(x_BFC))))


class Stage(nn.Module):
    """A residual block, transformers, and what changes the rate, if anything does."""

    def __init__(self, inputs: int, config: EstimatorConfig, resample: nn.Module | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, config.channels, 4 * config.channels, config.groups)
        self.transformers = nn.ModuleList(Transformer(config) for _ in range(config.blocks))
        self.resample = resample

    def forward(self, x_BCF: Tensor, time_BE: Tensor) -> Tensor:
        x_BFC = self.residual(x_BCF, time_BE).transpose(1, 2)
        for transformer in self.transformers:
            x_BFC = transformer(x_BFC)
        return x_BFC.transpose(1, 2)


class Estimator(nn.Module):
    """Noisy mel frames, what they are conditioned on, and a time, to a velocity."""

    def __init__(self, config: EstimatorConfig, mels: int) -> None:
        super().__init__()
        width, inputs = config.channels, 4 * mels
        self.time_size = inputs
        self.time_enter, self.time_leave = nn.Linear(inputs, 4 * width), nn.Linear(4 * width, 4 * width)
        self.down = nn.ModuleList(
            [
                Stage(inputs, config, nn.Conv1d(width, width, 3, stride=2, padding=1)),
                Stage(width, config, nn.Conv1d(width, width, 3, padding=1)),
            ]
        )
        self.middle = nn.ModuleList(Stage(width, config, None) for _ in range(config.middle))
        self.up = nn.ModuleList(
            [
                Stage(2 * width, config, nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)),
                Stage(2 * width, config, nn.Conv1d(width, width, 3, padding=1)),
            ]
        )
        self.last = ConvBlock(width, width, config.groups)
        self.leave = nn.Conv1d(width, mels, 1)

    def time(self, time_B: Tensor) -> Tensor:
        """Times in [0, 1] to ``[B, E]``."""
        half = self.time_size // 2
        rates = torch.exp(torch.arange(half, device=time_B.device) * -(math.log(10_000.0) / (half - 1)))
        angles = 1000.0 * time_B[:, None] * rates
        return self.time_leave(functional.silu(self.time_enter(torch.cat([angles.sin(), angles.cos()], dim=1))))

    def forward(self, x_BMF: Tensor, mean_BMF: Tensor, speaker_BM: Tensor, given_BMF: Tensor, time_B: Tensor) -> Tensor:
        """The velocity ``[B, M, F]`` at ``x_BMF``; ``given_BMF`` are frames that are known, 0 elsewhere."""
        time_BE = self.time(time_B)
        speaker_BMF = speaker_BM[..., None].expand(-1, -1, x_BMF.shape[2])
        x_BCF = torch.cat([x_BMF, mean_BMF, speaker_BMF, given_BMF], dim=1)
        skipped: list[Tensor] = []
        for stage in self.down:
            x_BCF = stage(x_BCF, time_BE)
            skipped.append(x_BCF)
            x_BCF = stage.resample(x_BCF)  # type: ignore[operator, union-attr]  # a module there
        for stage in self.middle:
            x_BCF = stage(x_BCF, time_BE)
        for stage in self.up:
            beside = skipped.pop()
            x_BCF = stage(torch.cat([x_BCF[..., : beside.shape[2]], beside], dim=1), time_BE)
            x_BCF = stage.resample(x_BCF)  # type: ignore[operator, union-attr]
        return self.leave(self.last(x_BCF))
