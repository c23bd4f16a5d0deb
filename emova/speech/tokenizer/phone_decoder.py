"""The phone decoder: what phones a sequence of units stands for. It trains, measures and judges.

Shapes: B batch, U units, C dimensions of a code, W width, N labels a unit, P phone classes (0 = blank or silence).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emova.speech.tokenizer.phones import collapse
from emova.speech.tokenizer.spiral import Block, block_causal_mask


@dataclass(frozen=True)
class PhoneDecoderConfig:
    """A small transformer over units; ``labels_per_unit`` labels a unit leave CTC room for fast speech."""

    width: int = 256
    layers: int = 2
    heads: int = 4
    ffn: int = 512
    labels_per_unit: int = 2


@dataclass(frozen=True)
class PhoneLogits:
    """Both readings of the units, ``[B, U * N, P]``: CTC in context, and frame by frame from each unit alone."""

    ctc: Tensor
    frame: Tensor


class PhoneDecoder(nn.Module):
    """Quantised codes to phones (EMOVA A.1), in context for CTC and unit by unit for frame labels.

    The frame reading sees one unit only, which makes the unit itself say what sounds in its 40 ms; under CTC alone
    the code may tell a phone anywhere near it. CTC starts from that reading (frame labels without their repetitions
    are the phones, but for doubled ones) and learns what the context changes in it.
    """

    def __init__(
        self, code_dim: int, config: PhoneDecoderConfig, block_units: int, left_blocks: int, classes: int
    ) -> None:
        super().__init__()
        self.classes = classes  # phones, and the blank
        self.config, self.block_units, self.left_blocks = config, block_units, left_blocks
        self.lift = nn.Sequential(
            nn.Linear(5 * code_dim, config.width), nn.GELU(), nn.Linear(config.width, config.width), nn.GELU()
        )
        self.frame_head = nn.Linear(config.width, config.labels_per_unit * classes)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.ffn) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.ctc_head = nn.Linear(config.width, config.labels_per_unit * classes)

    def forward(self, codes_BUC: Tensor, lengths_B: Tensor | None = None) -> PhoneLogits:
        """Codes ``[B, U, C]`` to logits."""
        # Waves over the levels let the first layer tell neighbouring levels apart from the start.
        waves = [wave(torch.pi * rate * codes_BUC) for rate in (1, 2) for wave in (torch.sin, torch.cos)]
        lifted_BUW = self.lift(torch.cat([codes_BUC, *waves], dim=-1))
        mask = block_causal_mask(codes_BUC.shape[1], self.block_units, self.left_blocks, lengths_B, codes_BUC.device)
        frames_BUW = lifted_BUW
        for block in self.blocks:
            frames_BUW, _ = block(frames_BUW, mask)
        frame = self.frame_head(lifted_BUW).unflatten(-1, (-1, self.classes)).flatten(1, 2)
        context = self.ctc_head(self.norm(frames_BUW)).unflatten(-1, (-1, self.classes)).flatten(1, 2)
        return PhoneLogits(ctc=frame.detach() + context, frame=frame)

    @torch.inference_mode()
    def log_probs(self, codes_BUC: Tensor) -> Tensor:
        """The log-probabilities ``[B, U * N, P]`` of CTC, float32."""
        return self(codes_BUC).ctc.float().log_softmax(-1)

    @torch.inference_mode()
    def read(self, codes_BUC: Tensor, lengths_B: Tensor) -> list[list[int]]:
        """The phones of each row by greedy CTC, as class numbers; ``lengths_B`` in units."""
        best = self(codes_BUC, lengths_B).ctc.argmax(dim=-1)
        ends = (lengths_B * self.config.labels_per_unit).tolist()
        return [collapse(row[:end].tolist()) for row, end in zip(best, ends, strict=True)]
