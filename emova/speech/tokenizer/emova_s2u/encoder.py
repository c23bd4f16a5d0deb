"""The released SPIRAL encoder: convolutions and transformers with full attention, 25 vectors a second.

SPIRAL (Huang et al. 2022) with the transformer of wav2vec 2.0 (Baevski et al. 2020).

Shapes: B batch, C channels, F frames, M mel bins, H heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ConvConfig:
    """A convolution over time with normalisation; ``active`` puts a ReLU behind it."""

    width: int
    kernel: int
    stride: int = 1
    active: bool = True


@dataclass(frozen=True)
class StageConfig:
    """Convolutions, then a transformer of the last one's width."""

    convolutions: list[ConvConfig]
    layers: int
    heads: int
    ffn: int
    position_kernel: int = 128
    position_groups: int = 16

    @property
    def width(self) -> int:
        """C after the stage."""
        return self.convolutions[-1].width


def inside(lengths_B: Tensor, frames: int) -> Tensor:
    """``[B, F]``: true on the frames that count."""
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]


class NormedConv(nn.Module):
    """Convolution, normalisation over the channels, ReLU."""

    def __init__(self, channels_in: int, config: ConvConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv1d(channels_in, config.width, config.kernel, stride=config.stride)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_BCF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, F]``, F a multiple of the stride, to ``[B, C', F / stride]`` and the new lengths."""
        config = self.config
        if config.kernel > 1:
            x_BCF = x_BCF * inside(lengths_B, x_BCF.shape[2])[:, None]
        # As much as keeps F / stride frames; an odd frame more at the end.
        missing = config.kernel - config.stride
        x_BCF = self.conv(functional.pad(x_BCF, (missing // 2, missing - missing // 2)))
        x_BCF = self.norm(x_BCF.transpose(1, 2)).transpose(1, 2)
        return x_BCF.relu() if config.active else x_BCF, -(-lengths_B // config.stride)


class SelfAttention(nn.Module):
    """Every frame sees every frame that counts."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_BFC: Tensor, mask_B11F: Tensor) -> Tensor:
        q, k, v = (
            project(x_BFC).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        heard_BHFd = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11F)
        return self.out_proj(heard_BHFd.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and two dense layers, each after a normalisation and beside a residual path."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x_BFC: Tensor, mask_B11F: Tensor) -> Tensor:
        x_BFC = x_BFC + self.self_attn(self.self_attn_layer_norm(x_BFC), mask_B11F)
        return x_BFC + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x_BFC))))


class Transformer(nn.Module):
    """Positions by a wide grouped convolution, layers, a last normalisation."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        kernel = config.position_kernel
        self.positions = nn.Conv1d(
            config.width, config.width, kernel, padding=kernel // 2, groups=config.position_groups
        )
        self.layers = nn.ModuleList(Layer(config.width, config.heads, config.ffn) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, x_BCF: Tensor, lengths_B: Tensor) -> Tensor:
        inside_BF = inside(lengths_B, x_BCF.shape[2])
        x_BCF = x_BCF * inside_BF[:, None]
        # An even kernel makes one frame too many.
        x_BFC = (x_BCF + functional.gelu(self.positions(x_BCF)[..., : x_BCF.shape[2]])).transpose(1, 2)
        for layer in self.layers:
            x_BFC = layer(x_BFC, inside_BF[:, None, None])
        return self.layer_norm(x_BFC).transpose(1, 2)


class Stage(nn.Module):
    """Convolutions and their transformer."""

    def __init__(self, channels_in: int, config: StageConfig) -> None:
        super().__init__()
        inputs = [channels_in, *(each.width for each in config.convolutions)]
        self.convolutions = nn.ModuleList(
            NormedConv(channels, each) for channels, each in zip(inputs, config.convolutions, strict=False)
        )
        self.transformer = Transformer(config)

    def forward(self, x_BCF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convolutions:
            x_BCF, lengths_B = convolution(x_BCF, lengths_B)
        return self.transformer(x_BCF, lengths_B), lengths_B


class Encoder(nn.Module):
    """All stages."""

    def __init__(self, mels: int, stages: list[StageConfig]) -> None:
        super().__init__()
        inputs = [mels, *(stage.width for stage in stages)]
        self.stages = nn.ModuleList(Stage(channels, each) for channels, each in zip(inputs, stages, strict=False))

    def forward(self, features_BMF: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features to ``[B, U, C]`` and how many of them count in each row."""
        x_BCF = features_BMF
        for stage in self.stages:
            x_BCF, frames_B = stage(x_BCF, frames_B)
        return x_BCF.transpose(1, 2), frames_B
