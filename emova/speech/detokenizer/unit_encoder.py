"""Units to the prior of the latent frames (EMOVA A.2, the unit encoder; the prior of VITS).

Shapes: B batch, U units, C channels, F = U * frames_per_unit frames, S style channels, Z latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.speech.detokenizer.layers import Context, ConvBlock, Past, Pointwise, total_context


@dataclass(frozen=True)
class UnitEncoderConfig:
    """Each ``*_lookahead`` names the future taps of the block in the same place of ``*_dilations``."""

    codebook_size: int = 4096
    # The levels of a finite scalar quantizer, least significant digit first; empty for a codebook without digits.
    levels: tuple[int, ...] = (8, 8, 8, 8)
    # A vector of its own for every code, added to that of its digits. Needed where ``levels`` is empty.
    table: bool = False
    digit_channels: int = 32
    channels: int = 160
    widening: float = 2.5  # hidden channels of a block / channels
    unit_kernel: int = 5
    unit_dilations: tuple[int, ...] = (1, 1, 2, 2)
    unit_lookahead: tuple[int, ...] = (2, 1, 1, 0)
    frame_kernel: int = 7
    frame_dilations: tuple[int, ...] = (1, 1, 1)
    frame_lookahead: tuple[int, ...] = (2, 1, 1)

    def __post_init__(self) -> None:
        if not self.levels and not self.table:
            raise InputError("units: a unit needs digits or a vector of its own; give levels, or table=true")
        if self.levels and prod(self.levels) != self.codebook_size:
            raise InputError(
                f"units: levels={list(self.levels)} make {prod(self.levels)} units, codebook_size is "
                f"{self.codebook_size}; make them agree"
            )


class UnitEmbedding(nn.Module):
    """Units to vectors through their digits, so that a rare code shares what its digits mean in common ones."""

    place: Tensor
    base: Tensor

    def __init__(self, config: UnitEncoderConfig) -> None:
        super().__init__()
        levels = tuple(config.levels)
        self.register_buffer("place", torch.tensor([prod(levels[:i]) for i in range(len(levels))]), persistent=False)
        self.register_buffer("base", torch.tensor(levels), persistent=False)
        self.digits = nn.ModuleList(nn.Embedding(level, config.digit_channels) for level in levels)
        if levels:
            self.mix = nn.Sequential(
                nn.Linear(config.digit_channels * len(levels), 2 * config.channels),
                nn.GELU(),
                nn.Linear(2 * config.channels, config.channels),
            )
        self.table = nn.Embedding(config.codebook_size, config.channels) if config.table else None

    def digits_of(self, units_BU: Tensor) -> Tensor:
        """``[B, U, D]`` digits of the units, least significant first."""
        return units_BU[..., None].div(self.place, rounding_mode="floor") % self.base

    def forward(self, units_BU: Tensor) -> Tensor:
        """``[B, U]`` int64 to ``[B, C, U]``."""
        vectors: list[Tensor] = []
        if len(self.digits):
            digits_BUD = self.digits_of(units_BU)
            parts = [embed(digits_BUD[..., index]) for index, embed in enumerate(self.digits)]
            vectors.append(self.mix(torch.cat(parts, dim=-1)))
        if self.table is not None:
            vectors.append(self.table(units_BU))
        return sum(vectors[1:], vectors[0]).transpose(1, 2)


class UnitEncoder(nn.Module):
    """Blocks at the rate of units, each unit repeated for its frames, blocks at the rate of frames."""

    def __init__(self, config: UnitEncoderConfig, frames_per_unit: int, latent_channels: int, style_size: int) -> None:
        super().__init__()
        self.frames_per_unit = frames_per_unit
        self.embedding = UnitEmbedding(config)

        def blocks(kernel: int, dilations: tuple[int, ...], lookahead: tuple[int, ...]) -> nn.ModuleList:
            return nn.ModuleList(
                ConvBlock(
                    config.channels, round(config.channels * config.widening), kernel, dilation=dilation,
                    lookahead=taps, style_size=style_size,
                )
                for dilation, taps in zip(dilations, lookahead, strict=True)
            )  # fmt: skip

        self.unit_blocks = blocks(config.unit_kernel, config.unit_dilations, config.unit_lookahead)
        self.position = nn.Parameter(torch.randn(config.channels, frames_per_unit) * 0.1)
        self.frame_blocks = blocks(config.frame_kernel, config.frame_dilations, config.frame_lookahead)
        self.to_prior = Pointwise(config.channels, 2 * latent_channels)
        self.unit_context: Context = total_context(self.unit_blocks)
        self.frame_context: Context = total_context(self.frame_blocks)

    def forward(
        self, units_BU: Tensor, style_BS: Tensor, mask_B1U: Tensor | None = None, keep: tuple[int, int] | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Hidden ``[B, C, F]``, prior mean and log scale ``[B, Z, F]``.

        Args:
            keep: (start, end) of the units that go on to the rate of frames; the others were context.
        """
        x_BCU = self.embedding(units_BU)
        for block in self.unit_blocks:
            x_BCU = block(x_BCU, style_BS, mask_B1U, past)
        if keep is not None:
            x_BCU = x_BCU[..., keep[0] : keep[1]]
            mask_B1U = mask_B1U[..., keep[0] : keep[1]] if mask_B1U is not None else None
        x_BCF = (x_BCU[..., None] + self.position[:, None]).flatten(2)
        mask_B1F = mask_B1U.repeat_interleave(self.frames_per_unit, dim=-1) if mask_B1U is not None else None
        for block in self.frame_blocks:
            x_BCF = block(x_BCF, style_BS, mask_B1F, past)
        mean_BZF, log_scale_BZF = self.to_prior(x_BCF).float().chunk(2, dim=1)
        return x_BCF, mean_BZF, log_scale_BZF.clamp(-6.0, 3.0)
