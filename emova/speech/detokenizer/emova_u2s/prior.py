"""Units to the prior's mean and spread: the text encoder of VITS (Kim et al. 2021, §2.2.2) with units for phonemes.

Shapes: B batch, U units, C channels, H heads, d width of a head, R = 2 * reach + 1 relative places, Z latent channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the release; the rows before ``first_unit`` stand for letters and phones, which nothing here says."""

    rows: int = 4274
    first_unit: int = 178
    channels: int = 192
    ffn: int = 768
    heads: int = 2
    layers: int = 6
    kernel: int = 3
    reach: int = 4
    """Units to each side whose distance is known."""


class RelativeAttention(nn.Module):
    """Attention that knows how far near units are away (Shaw et al. 2018); further ones have no distance."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.heads, self.reach = config.heads, config.reach
        width = config.channels // config.heads
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (
            nn.Conv1d(config.channels, config.channels, 1) for _ in range(4)
        )
        self.emb_rel_k, self.emb_rel_v = (
            nn.Parameter(torch.randn(1, 2 * config.reach + 1, width) * width**-0.5) for _ in range(2)
        )

    def forward(self, x_BCU: Tensor) -> Tensor:
        q_BHUd, k_BHUd, v_BHUd = (
            conv(x_BCU).unflatten(1, (self.heads, -1)).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        places = torch.arange(x_BCU.shape[2], device=x_BCU.device)
        away_UU = places[None] - places[:, None] + self.reach
        near_UU = (away_UU >= 0) & (away_UU <= 2 * self.reach)
        away_UU = away_UU.clamp(0, 2 * self.reach)

        q_BHUd = q_BHUd / math.sqrt(q_BHUd.shape[3])
        by_place_BHUR = q_BHUd @ self.emb_rel_k[0].T
        index = away_UU.expand(*by_place_BHUR.shape[:2], -1, -1)
        scores_BHUU = q_BHUd @ k_BHUd.transpose(2, 3) + by_place_BHUR.gather(3, index) * near_UU
        weights_BHUU = scores_BHUU.softmax(-1)
        by_place_BHUR = torch.zeros_like(by_place_BHUR).scatter_add(3, index, weights_BHUU * near_UU)
        heard_BHUd = weights_BHUU @ v_BHUd + by_place_BHUR @ self.emb_rel_v[0]
        return self.conv_o(heard_BHUd.transpose(2, 3).flatten(1, 2))


class ChannelNorm(nn.Module):
    """Layer normalisation over C of ``[B, C, U]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCU: Tensor) -> Tensor:
        return functional.layer_norm(x_BCU.transpose(1, 2), self.gain.shape, self.gain, self.bias).transpose(1, 2)


class Layer(nn.Module):
    """Attention and two convolutions, each beside a residual path and followed by a normalisation."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        around = config.kernel // 2
        self.attention = RelativeAttention(config)
        self.attention_norm = ChannelNorm(config.channels)
        self.widen = nn.Conv1d(config.channels, config.ffn, config.kernel, padding=around)
        self.narrow = nn.Conv1d(config.ffn, config.channels, config.kernel, padding=around)
        self.ffn_norm = ChannelNorm(config.channels)

    def forward(self, x_BCU: Tensor) -> Tensor:
        x_BCU = self.attention_norm(x_BCU + self.attention(x_BCU))
        return self.ffn_norm(x_BCU + self.narrow(self.widen(x_BCU).relu()))


class Prior(nn.Module):
    """Embedding, layers, and a projection to mean and spread."""

    def __init__(self, config: PriorConfig, latent_channels: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.rows, config.channels)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.leave = nn.Conv1d(config.channels, 2 * latent_channels, 1)

    def forward(self, units_BU: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Units to what durations are told from, ``[B, C, U]``, and mean and logarithm of the spread ``[B, Z, U]``."""
        x_BUC = self.embedding(units_BU + self.config.first_unit) * math.sqrt(self.config.channels)
        x_BCU = x_BUC.transpose(1, 2)
        for layer in self.layers:
            x_BCU = layer(x_BCU)
        mean_BZU, log_spread_BZU = self.leave(x_BCU).chunk(2, dim=1)
        return x_BCU, mean_BZU, log_spread_BZU
