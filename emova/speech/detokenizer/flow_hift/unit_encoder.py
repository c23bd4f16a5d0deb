"""Units to what the flow is conditioned on: a block-causal transformer and a stretch to the rate of mel frames.

CosyVoice (Du et al. 2024) with the block-causal attention of GLM-4-Voice (Zeng et al. 2024, §3.2).

Shapes: B batch, U units, D width, H heads, d width of a head, M mel bins, F frames, S the style's vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError


@dataclass(frozen=True)
class UnitEncoderConfig:
    """The defaults are the release's; ``block`` is how many units see each other."""

    codes: int = 16_384
    width: int = 512
    heads: int = 8
    ffn: int = 2048
    layers: int = 6
    block: int = 10

    def __post_init__(self) -> None:
        if min(self.codes, self.width, self.heads, self.ffn, self.block) < 1 or self.layers < 0:
            raise InputError("units: no such sizes; give 1 or more")
        if self.width % self.heads:
            raise InputError(
                f"units.width={self.width}: cannot be shared by the heads; give a multiple of {self.heads}"
            )


def relative_sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """Positions of all distances, ``[2 * count - 1, D]``, from ``count - 1`` down to its negative."""
    distances = torch.arange(count - 1, -count, -1, device=device, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * -(math.log(10_000.0) / width))
    angles = distances[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class RelativeAttention(nn.Module):
    """Attention whose scores know the distance (Dai et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.leave = (nn.Linear(width, width) for _ in range(4))
        self.distance = nn.Linear(width, width, bias=False)
        self.content_bias, self.distance_bias = (nn.Parameter(torch.zeros(heads, width // heads)) for _ in range(2))

    def forward(self, x_BUD: Tensor, distances_RD: Tensor, mask_UU: Tensor) -> Tensor:
        q_BHUd, k_BHUd, v_BHUd = (
            layer(x_BUD).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        p_HRd = self.distance(distances_RD).unflatten(1, (self.heads, -1)).transpose(0, 1)
        by_distance_BHUR = (q_BHUd + self.distance_bias[:, None]) @ p_HRd.transpose(1, 2)
        places = torch.arange(x_BUD.shape[1], device=x_BUD.device)
        index_UU = places[None] - places[:, None] + x_BUD.shape[1] - 1
        by_distance_BHUU = by_distance_BHUR.gather(3, index_UU.expand(*by_distance_BHUR.shape[:2], -1, -1))
        scores_BHUU = (q_BHUd + self.content_bias[:, None]) @ k_BHUd.transpose(2, 3) + by_distance_BHUU
        scores_BHUU = (scores_BHUU / math.sqrt(q_BHUd.shape[3])).masked_fill(~mask_UU, float("-inf"))
        return self.leave((scores_BHUU.softmax(-1) @ v_BHUd).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and two dense layers, each after a normalisation and beside a residual path."""

    def __init__(self, config: UnitEncoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = RelativeAttention(config.width, config.heads)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.widen, self.narrow = nn.Linear(config.width, config.ffn), nn.Linear(config.ffn, config.width)

    def forward(self, x_BUD: Tensor, distances_RD: Tensor, mask_UU: Tensor) -> Tensor:
        x_BUD = x_BUD + self.attention(self.attention_norm(x_BUD), distances_RD, mask_UU)
        return x_BUD + self.narrow(functional.silu(self.widen(self.ffn_norm(x_BUD))))


class UnitEncoder(nn.Module):
    """Embedding, layers, projection to mel bins.

    Args:
        style_size: S of a style that is heard beside the units; 0: none is.
    """

    def __init__(self, config: UnitEncoderConfig, mels: int, style_size: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codes, config.width)
        self.enter, self.enter_norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        self.style = nn.Linear(style_size, config.width) if style_size else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, mels)

    def forward(self, units_BU: Tensor, style_BS: Tensor) -> Tensor:
        """Units and a style of length 1 to ``[B, U, M]``; a unit sees those before it and its block."""
        count = units_BU.shape[1]
        x_BUD = self.enter_norm(self.enter(self.embedding(units_BU)))
        if self.style is not None:  # as large as a normalised embedding
            x_BUD = x_BUD + self.style(style_BS * math.sqrt(style_BS.shape[1]))[:, None]
        x_BUD = x_BUD * math.sqrt(self.config.width)
        blocks = torch.arange(count, device=units_BU.device) // self.config.block
        mask_UU = blocks[:, None] >= blocks[None]
        distances_RD = relative_sinusoids(count, self.config.width, units_BU.device)
        for layer in self.layers:
            x_BUD = layer(x_BUD, distances_RD, mask_UU)
        return self.leave(self.norm(x_BUD))


class Regulator(nn.Module):
    """Units' rate to mel frames' rate: nearest neighbours, then convolutions."""

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(mels, mels, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.GroupNorm(1, mels) for _ in range(4))
        self.leave = nn.Conv1d(mels, mels, 1)

    def forward(self, x_BUM: Tensor, frames: int) -> Tensor:
        """``[B, U, M]`` to ``[B, M, F]``."""
        x_BMF = functional.interpolate(x_BUM.transpose(1, 2), size=frames, mode="nearest")
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BMF = functional.mish(norm(convolution(x_BMF)))
        return self.leave(x_BMF)
