"""The speech encoder: stages of striding convolutions followed by transformer blocks, as in SPIRAL, made to stream.

Attention is block-causal: time is cut into blocks, a frame sees its own block whole and a bounded number of blocks to
its left. Centred convolutions look ahead by half a kernel. So a frame depends on a bounded piece of the
recording, and a stream can give it as soon as that piece is there. SPIRAL's self-supervised pre-training (EMOVA A.1)
trains this same module (``emova_train.s2u.pretrain``); emova-nano's starts from a supervised encoder's weights.

Shapes: B batch, F input frames, T frames of a stage, C channels in, D width, H heads, K keys, M mel bins, U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class SpiralConvConfig:
    """One convolution over time with GELU; ``ceil(length / stride)`` frames come out."""

    channels: int = 384
    kernel: int = 3
    stride: int = 1
    centred: bool = True  # looks ahead by half the kernel; else not at all, which a stage behind attention should do

    @property
    def left(self) -> int:
        """Frames before an output's stride that its kernel reaches back."""
        return (self.kernel - 1) // 2 if self.centred else max(0, self.kernel - self.stride)


@dataclass(frozen=True)
class SpiralStageConfig:
    """Convolutions, then ``layers`` transformer blocks as wide as the last convolution."""

    convolutions: list[SpiralConvConfig] = field(default_factory=list)
    layers: int = 2
    heads: int = 6
    ffn: int = 1536
    positions: bool = False  # sinusoidal positions are added after the convolutions

    @property
    def stride(self) -> int:
        return math.prod(convolution.stride for convolution in self.convolutions)

    @property
    def width(self) -> int:
        return self.convolutions[-1].channels


def sinusoids(start: Tensor, length: int, width: int) -> Tensor:
    """Whisper's fixed positions for frames ``start`` ... ``start + length``, any start: ``[B]`` to ``[B, T, D]``."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half, device=start.device, dtype=torch.float32))
    times = start[:, None].float() + torch.arange(length, device=start.device, dtype=torch.float32)[None]
    angles = times[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def keep(frames_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
    """``[B, T, C]`` with the frames beyond each row's length set to zero, as if the row ended there."""
    if lengths_B is None:
        return frames_BTC
    inside = torch.arange(frames_BTC.shape[1], device=frames_BTC.device)[None] < lengths_B[:, None]
    return frames_BTC * inside[:, :, None].to(frames_BTC.dtype)


def block_causal_mask(frames: int, block: int, left: int, lengths_B: Tensor | None, device: torch.device) -> Tensor:
    """True where a query (row) sees a key (column): own block and ``left`` blocks before it, ``[B or 1, 1, T, K]``."""
    index = torch.arange(frames, device=device)
    distance = (index // block)[:, None] - (index // block)[None, :]
    mask = ((distance >= 0) & (distance <= left))[None, None]
    if lengths_B is None:
        return mask
    # A frame beyond the end sees at least itself, so that no row of the softmax is empty.
    return mask & (index[None] < lengths_B[:, None])[:, None, None] | torch.eye(frames, dtype=torch.bool, device=device)


class TimeConvolution(nn.Module):
    """Centred convolution over time and GELU on ``[B, T, C]``, silence (zero) beyond both ends."""

    def __init__(self, channels_in: int, config: SpiralConvConfig) -> None:
        super().__init__()
        self.kernel, self.stride, self.left = config.kernel, config.stride, config.left
        self.conv = nn.Conv1d(channels_in, config.channels, config.kernel, config.stride)

    def forward(self, frames_BTC: Tensor) -> Tensor:
        length = frames_BTC.shape[1]
        outputs = -(-length // self.stride)
        right = max(0, (outputs - 1) * self.stride + self.kernel - self.left - length)
        return self.inner(functional.pad(frames_BTC, (0, 0, self.left, right)))

    def inner(self, frames_BTC: Tensor) -> Tensor:
        """Only the outputs whose whole kernel lies inside ``frames_BTC``."""
        return functional.gelu(self.conv(frames_BTC.transpose(1, 2))).transpose(1, 2)


def attend(q_BHTd: Tensor, k_BHKd: Tensor, v_BHKd: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention; ``mask`` is true where a query sees a key."""
    if q_BHTd.device.type != "cpu" or not (torch.is_grad_enabled() and q_BHTd.requires_grad):
        return functional.scaled_dot_product_attention(q_BHTd, k_BHKd, v_BHKd, attn_mask=mask)
    # On a CPU the backward of the fused kernel takes several times as long as these three lines'.
    scores_BHTK = (q_BHTd * q_BHTd.shape[-1] ** -0.5) @ k_BHKd.transpose(-1, -2)
    if mask is not None:
        scores_BHTK = scores_BHTK.masked_fill(~mask, float("-inf"))
    return scores_BHTK.softmax(-1).to(v_BHKd.dtype) @ v_BHKd


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values can be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, frames_BTD: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend over ``past`` and the frames themselves; also give all keys and values, ``[B, H, K, D/H]`` each."""
        q_BHTd, k_BHKd, v_BHKd = self.qkv(frames_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k_BHKd, v_BHKd = torch.cat([past[0], k_BHKd], dim=2), torch.cat([past[1], v_BHKd], dim=2)
        mixed = attend(q_BHTd, k_BHKd, v_BHKd, mask)
        return self.out(mixed.transpose(1, 2).flatten(2)), (k_BHKd, v_BHKd)


class Block(nn.Module):
    """A pre-norm transformer block.

    Attributes:
        dropout: in training, the share of what either branch adds that is left out.
    """

    dropout: float = 0.0

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.GELU(), nn.Linear(ffn, width))

    def forward(
        self, frames_BTD: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed_BTD, present = self.attention(self.attention_norm(frames_BTD), mask, past)
        frames_BTD = frames_BTD + self._thinned(mixed_BTD)
        return frames_BTD + self._thinned(self.ffn(self.ffn_norm(frames_BTD))), present

    def _thinned(self, added_BTD: Tensor) -> Tensor:
        return functional.dropout(added_BTD, self.dropout, self.training) if self.dropout else added_BTD


class SpiralStage(nn.Module):
    """Convolutions, positions, blocks, norm; ``block`` frames attend to each other and to ``left`` blocks before."""

    def __init__(self, channels_in: int, config: SpiralStageConfig, block: int, left: int) -> None:
        super().__init__()
        self.config, self.block, self.left = config, block, left
        channels = [channels_in, *(convolution.channels for convolution in config.convolutions)]
        self.convolutions = nn.ModuleList(
            TimeConvolution(c, convolution) for c, convolution in zip(channels, config.convolutions, strict=False)
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.ffn) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, frames_BTC: Tensor, lengths_B: Tensor | None = None, start_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, F, C]`` to ``[B, T, D]`` and the new lengths; ``start_B`` is the position of each first frame."""
        for convolution in self.convolutions:
            assert isinstance(convolution, TimeConvolution)
            frames_BTC = convolution(keep(frames_BTC, lengths_B))
            if lengths_B is not None:
                lengths_B = -(-lengths_B // convolution.stride)
        if self.config.positions:
            start_B = frames_BTC.new_zeros(1, dtype=torch.long) if start_B is None else start_B
            frames_BTC = frames_BTC + sinusoids(start_B, *frames_BTC.shape[1:]).to(frames_BTC.dtype)
        mask = block_causal_mask(frames_BTC.shape[1], self.block, self.left, lengths_B, frames_BTC.device)
        for block in self.blocks:
            frames_BTC, _ = block(frames_BTC, mask)
        return self.norm(frames_BTC), lengths_B


class SpiralEncoder(nn.Module):
    """All stages; ``block_units`` and ``left_blocks`` count in frames and blocks of the last one."""

    def __init__(self, channels_in: int, stages: list[SpiralStageConfig], block_units: int, left_blocks: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        rate = math.prod(stage.stride for stage in stages)
        self.stride = rate
        for config in stages:
            rate //= config.stride
            self.stages.append(SpiralStage(channels_in, config, block_units * rate, left_blocks))
            channels_in = config.width
        self.width = channels_in

    def forward(self, mel_BMF: Tensor, lengths_B: Tensor | None = None, start_B: Tensor | None = None) -> Tensor:
        """``[B, M, F]``, of which the first ``lengths_B`` frames count, to ``[B, U, D]``, U = ceil(F / stride).

        ``start_B`` shifts the positions of the first stage (training draws it at random, so that late positions of a
        long recording are known).
        """
        frames_BTC = mel_BMF.transpose(1, 2)
        for stage in self.stages:
            frames_BTC, lengths_B = stage(frames_BTC, lengths_B, start_B)
        return frames_BTC


class ConvolutionState:
    """A ``TimeConvolution`` in a stream: gives each output as soon as its kernel is filled."""

    def __init__(self, module: TimeConvolution) -> None:
        self.module, self.taken, self.given = module, 0, 0
        self.pending: Tensor | None = None

    def step(self, frames_BTC: Tensor, last: bool) -> Tensor:
        module = self.module
        self.taken += frames_BTC.shape[1]
        if self.pending is None:
            self.pending = functional.pad(frames_BTC, (0, 0, module.left, 0))
        else:
            self.pending = torch.cat([self.pending, frames_BTC], dim=1)
        outputs = (self.pending.shape[1] - module.kernel) // module.stride + 1
        if last:
            outputs = -(-self.taken // module.stride) - self.given
            short = (outputs - 1) * module.stride + module.kernel - self.pending.shape[1]
            self.pending = functional.pad(self.pending, (0, 0, 0, max(0, short)))
        if outputs <= 0:
            return frames_BTC.new_zeros(frames_BTC.shape[0], 0, module.conv.out_channels)
        result = module.inner(self.pending[:, : (outputs - 1) * module.stride + module.kernel])
        self.pending = self.pending[:, outputs * module.stride :]
        self.given += outputs
        return result


class StageState:
    """A ``SpiralStage`` in a stream: whole blocks go through attention, the keys of the last blocks are kept."""

    def __init__(self, module: SpiralStage) -> None:
        self.module = module
        self.convolutions = [ConvolutionState(convolution) for convolution in module.convolutions]  # type: ignore[arg-type]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(module.blocks)
        self.pending: Tensor | None = None
        self.position = 0

    def step(self, frames_BTC: Tensor, last: bool) -> Tensor:
        for convolution in self.convolutions:
            frames_BTC = convolution.step(frames_BTC, last)
        module = self.module
        if module.config.positions:
            start = torch.tensor([self.position], device=frames_BTC.device)
            frames_BTC = frames_BTC + sinusoids(start, *frames_BTC.shape[1:])
        self.position += frames_BTC.shape[1]
        frames_BTC = frames_BTC if self.pending is None else torch.cat([self.pending, frames_BTC], dim=1)
        whole = frames_BTC.shape[1] if last else frames_BTC.shape[1] // module.block * module.block
        self.pending = frames_BTC[:, whole:]
        if whole == 0:
            return frames_BTC[:, :0]
        return torch.cat([self._block(block) for block in frames_BTC[:, :whole].split(module.block, dim=1)], dim=1)

    def _block(self, frames_BTD: Tensor) -> Tensor:
        module = self.module
        window = module.left * module.block
        for index, block in enumerate(module.blocks):
            frames_BTD, (k_BHKd, v_BHKd) = block(frames_BTD, None, self.past[index])
            first = max(0, k_BHKd.shape[2] - window)
            self.past[index] = (k_BHKd[:, :, first:], v_BHKd[:, :, first:])
        return module.norm(frames_BTD)


class EncoderState:
    """A ``SpiralEncoder`` in a stream."""

    def __init__(self, module: SpiralEncoder) -> None:
        self.stages = [StageState(stage) for stage in module.stages]  # type: ignore[arg-type]

    def step(self, mel_BMF: Tensor, last: bool) -> Tensor:
        """The next ``[B, M, F]`` frames to the vectors that are now certain, ``[B, U, D]``."""
        frames_BTC = mel_BMF.transpose(1, 2)
        for stage in self.stages:
            frames_BTC = stage.step(frames_BTC, last)
        return frames_BTC
