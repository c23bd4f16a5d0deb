"""How long each unit sounds: the stochastic duration predictor of VITS (Kim et al. 2021, §2.2.2 and A.1), from noise
to durations.

Shapes: B batch, U units, C channels, K bins of a spline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.detokenizer.emova_u2s.prior import ChannelNorm

LEAST = 1e-3
"""Of a spline's widths, heights and slopes."""


@dataclass(frozen=True)
class DurationConfig:
    """Sizes of the release; ``flows`` counts the splines that are used."""

    channels: int = 192
    kernel: int = 3
    depth: int = 3  # separable convolutions before each spline
    flows: int = 3
    bins: int = 10
    bound: float = 5.0
    """Beyond it a spline changes nothing."""


class SeparableConvs(nn.Module):
    """Depthwise convolutions of growing dilation, each followed by a pointwise one, beside a residual path."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        channels, kernel = config.channels, config.kernel
        self.depthwise = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, groups=channels, dilation=dilation, padding=dilation * (kernel // 2))
            for dilation in (kernel**index for index in range(config.depth))
        )
        self.pointwise = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(config.depth))
        self.depthwise_norms = nn.ModuleList(ChannelNorm(channels) for _ in range(config.depth))
        self.pointwise_norms = nn.ModuleList(ChannelNorm(channels) for _ in range(config.depth))

    def forward(self, x_BCU: Tensor) -> Tensor:
        parts = zip(self.depthwise, self.depthwise_norms, self.pointwise, self.pointwise_norms, strict=True)
        for depthwise, depthwise_norm, pointwise, pointwise_norm in parts:
            hidden = functional.gelu(depthwise_norm(depthwise(x_BCU)))
            x_BCU = x_BCU + functional.gelu(pointwise_norm(pointwise(hidden)))
        return x_BCU


class SplineFlow(nn.Module):
    """A monotone spline of the second channel whose shape is told by the first channel and the units."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv1d(1, config.channels, 1)
        self.convs = SeparableConvs(config)
        self.leave = nn.Conv1d(config.channels, 3 * config.bins - 1, 1)

    def inverse(self, z_B2U: Tensor, units_BCU: Tensor) -> Tensor:
        """From noise one step nearer to durations."""
        config = self.config
        kept_B1U, moved_B1U = z_B2U.chunk(2, dim=1)
        shape_BUP = self.leave(self.convs(self.enter(kept_B1U) + units_BCU)).transpose(1, 2)
        widths, heights, slopes = shape_BUP.split([config.bins, config.bins, config.bins - 1], dim=2)
        scale = math.sqrt(config.channels)
        moved_BU = spline_inverse(moved_B1U[:, 0], widths / scale, heights / scale, slopes, config.bound)
        return torch.cat([kept_B1U, moved_BU[:, None]], dim=1)


def spline_inverse(y_BU: Tensor, widths_BUK: Tensor, heights_BUK: Tensor, slopes_BUJ: Tensor, bound: float) -> Tensor:
    """The inverse of a monotone rational-quadratic spline (Durkan et al. 2019, §3 and A.1) with linear tails.

    Args:
        y_BU: what is inverted.
        widths_BUK, heights_BUK: of the bins, before normalisation.
        slopes_BUJ: at the J = K - 1 inner edges, before normalisation; at the outer ones the slope is 1.
        bound: the spline lies within plus and minus it.
    """

    def edges(sizes_BUK: Tensor) -> Tensor:
        count = sizes_BUK.shape[-1]
        sizes_BUK = LEAST + (1 - LEAST * count) * sizes_BUK.softmax(-1)
        inner = functional.pad(sizes_BUK.cumsum(-1), (1, 0))[..., :-1] * (2 * bound) - bound
        return torch.cat([inner, torch.full_like(inner[..., :1], bound)], dim=-1)

    x_edges, y_edges = edges(widths_BUK), edges(heights_BUK)
    slopes = functional.pad(LEAST + functional.softplus(slopes_BUJ), (1, 1), value=1.0)
    inside_BU = (y_BU >= -bound) & (y_BU <= bound)
    clipped_BU1 = y_BU.clamp(-bound, bound)[..., None]
    bin_BU1 = ((clipped_BU1 >= y_edges).sum(-1, keepdim=True) - 1).clamp(0, widths_BUK.shape[-1] - 1)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index)

    left, right = at(x_edges, bin_BU1), at(x_edges, bin_BU1 + 1)
    low, high = at(y_edges, bin_BU1), at(y_edges, bin_BU1 + 1)
    first, last = at(slopes, bin_BU1), at(slopes, bin_BU1 + 1)
    steep, rise = (high - low) / (right - left), clipped_BU1 - low
    bend = rise * (first + last - 2 * steep)
    a, b, c = bend + (high - low) * (steep - first), (high - low) * first - bend, -steep * rise
    root = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    x_BU = (root * (right - left) + left)[..., 0]
    return torch.where(inside_BU, x_BU, y_BU)


class Durations(nn.Module):
    """Logarithms of durations from units, a style and noise."""

    def __init__(self, config: DurationConfig, unit_channels: int, style_size: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(unit_channels, config.channels, 1)
        self.from_style = nn.Linear(style_size, config.channels)
        self.convs = SeparableConvs(config)
        self.leave = nn.Conv1d(config.channels, config.channels, 1)
        self.flows = nn.ModuleList(SplineFlow(config) for _ in range(config.flows))
        self.shift, self.log_scale = (nn.Parameter(torch.zeros(2, 1)) for _ in range(2))

    def forward(self, units_BCU: Tensor, style_BS: Tensor, noise_B2U: Tensor) -> Tensor:
        """What the prior makes of the units, ``[B, C, U]``, and noise to logarithms of frames, ``[B, U]``."""
        hidden = self.enter(units_BCU) + self.from_style(style_BS)[:, :, None]
        hidden = self.leave(self.convs(hidden))
        z_B2U = noise_B2U.flip(1)
        for flow in reversed(self.flows):
            assert isinstance(flow, SplineFlow)
            z_B2U = flow.inverse(z_B2U, hidden).flip(1)
        return ((z_B2U - self.shift) * (-self.log_scale).exp())[:, 0]
