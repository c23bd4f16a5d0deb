"""Whisper's encoder up to the codebook of GLM-4-Voice (Zeng et al. 2024, §3.1), whole or block by block.

Convolutions see the past alone, attention sees the past and the frame's own block, so that a block can be encoded when
it has ended; what a stream keeps of the past is in ``EncoderPast``.

Shapes: B batch, M mel bins, F mel frames (100 a second), T frames (50 a second), D width, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.tokenizer.spiral import Block, block_causal_mask


@dataclass(frozen=True)
class EncoderConfig:
    """The defaults are the release's: half of Whisper large-v3's encoder.

    Attributes:
        block: frames that see each other, 20 ms each.
        left_blocks: blocks before its own that a frame sees; 0 for all of the clip.
        pooling: frames whose mean becomes a unit: 1, 2, 4 or 8 for 50, 25, 12.5 or 6.25 units a second.
        positions: frames that have one; a clip is no longer.
    """

    mels: int = 128
    width: int = 1280
    heads: int = 20
    ffn: int = 5120
    layers: int = 16
    positions: int = 1500
    block: int = 200
    pooling: int = 4
    codes: int = 16_384
    left_blocks: int = 0

    def __post_init__(self) -> None:
        sizes = (self.mels, self.width, self.heads, self.ffn, self.layers, self.positions, self.block, self.codes)
        if min(*sizes, self.pooling) < 1 or self.left_blocks < 0 or self.width % self.heads:
            raise InputError("encoder: no such sizes; give 1 or more, left_blocks 0 or more, width a multiple of heads")
        if self.block % self.pooling or self.positions < self.block:
            raise InputError(
                f"block={self.block}: no whole units, or more frames than positions; give a multiple of "
                f"pooling={self.pooling} up to positions={self.positions}"
            )

    @property
    def clip(self) -> int:
        """Frames of the longest clip: whole units that have positions."""
        return self.positions // self.pooling * self.pooling


class CausalConv(nn.Conv1d):
    """Kernel 3 over the last frames, and GELU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 3, stride=stride)

    def forward(self, x_BCF: Tensor, before_BC2: Tensor | None = None) -> Tensor:
        """``[B, C, F]``, after the two frames before it; silence if there are none."""
        x_BCF = functional.pad(x_BCF, (2, 0)) if before_BC2 is None else torch.cat([before_BC2, x_BCF], dim=2)
        return functional.gelu(super().forward(x_BCF))


@dataclass
class EncoderPast:
    """What a stream keeps: the last two frames before each convolution, keys and values of each layer."""

    features_BM2: Tensor | None = None
    hidden_BD2: Tensor | None = None
    attention: list[tuple[Tensor, Tensor]] | None = None
    frames: int = 0


class WhisperVQEncoder(nn.Module):
    """Log-mel frames to the vectors that are quantised, and to units."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = CausalConv(config.mels, config.width, 1)
        self.conv2 = CausalConv(config.width, config.width, 2)
        self.positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(Block(config.width, config.heads, config.ffn) for _ in range(config.layers))
        self.codebook = nn.Embedding(config.codes, config.width)

    def forward(self, features_BMF: Tensor, frames_B: Tensor) -> Tensor:
        """``[B, M, F]``, F even, of which the first ``frames_B`` count, to pooled vectors ``[B, U, D]``."""
        x_BTD = self.conv2(self.conv1(features_BMF)).transpose(1, 2)
        count = x_BTD.shape[1]
        x_BTD = x_BTD + self.positions.weight[:count]
        inside_BT = torch.arange(count, device=x_BTD.device) < -(-frames_B // 2)[:, None]
        # Frames of the padding see all before them too: the last unit has some of them in its mean.
        left = self.config.left_blocks or count
        mask = block_causal_mask(count, self.config.block, left, None, x_BTD.device) & inside_BT[:, None, None]
        if self.config.left_blocks:  # far in the padding no frame that counts is near enough: those see each other
            mask = mask | ~mask.any(-1, keepdim=True)
        for layer in self.layers:
            x_BTD, _ = layer(x_BTD, mask)
        return self._pool(x_BTD)

    def step(self, features_BMF: Tensor, past: EncoderPast, frames: int) -> Tensor:
        """One block, or the clip's last part of one, whose first ``frames`` mel frames count; changes ``past``.

        All blocks joined equal ``forward`` of the whole.
        """
        hidden_BDF = self.conv1(features_BMF, past.features_BM2)
        x_BTD = self.conv2(hidden_BDF, past.hidden_BD2).transpose(1, 2)
        past.features_BM2, past.hidden_BD2 = features_BMF[..., -2:], hidden_BDF[..., -2:]
        new = x_BTD.shape[1]
        x_BTD = x_BTD + self.positions.weight[past.frames : past.frames + new]
        kept = [] if past.attention is None else past.attention
        before = kept[0][0].shape[2] if kept else 0
        inside_K = torch.arange(before + new, device=x_BTD.device) < before + -(-frames // 2)
        reach = self.config.left_blocks * self.config.block or self.config.positions
        past.attention = []
        for index, layer in enumerate(self.layers):
            x_BTD, (k_BHKd, v_BHKd) = layer(x_BTD, inside_K[None, None, None], kept[index] if kept else None)
            past.attention.append((k_BHKd[:, :, -reach:], v_BHKd[:, :, -reach:]))
        past.frames += new
        return self._pool(x_BTD)

    def _pool(self, x_BTD: Tensor) -> Tensor:
        pooling = self.config.pooling
        padded_BTD = functional.pad(x_BTD, (0, 0, 0, -x_BTD.shape[1] % pooling))
        return padded_BTD.unflatten(1, (-1, pooling)).mean(dim=2)

    def nearest(self, vectors_BUD: Tensor) -> Tensor:
        """The nearest codes of vectors, ``[B, U]`` int64; the first of equal ones."""
        with torch.autocast(vectors_BUD.device.type, enabled=False):
            vectors_BUD, codes_ND = vectors_BUD.float(), self.codebook.weight.float()
            distances = codes_ND.square().sum(1) + vectors_BUD.square().sum(2, keepdim=True)
            return (distances - 2 * vectors_BUD @ codes_ND.T).argmin(-1)
