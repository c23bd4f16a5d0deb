"""Finite scalar quantisation (FSQ), always in float32.

Shapes: B batch, U units, C dimensions of the code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ


class FiniteScalarQuantizer(nn.Module):
    """Vectors of C numbers to C small integers and their common index (EMOVA section 3.2; Mentzer et al., 2023).

    In bfloat16 the index of a code comes out wrong more often than right (the sum of products needs 12 bits), so
    autocast is switched off here whatever the caller runs under.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.fsq = FSQ(list(levels))

    @property
    def codebook_size(self) -> int:
        return int(self.fsq.codebook_size)

    @property
    def dim(self) -> int:
        return int(self.fsq.codebook_dim)

    def forward(self, vectors_BUC: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, U, C]`` to the codes in [-1, 1] (with straight-through gradients) and the indices ``[B, U]`` int64."""
        with torch.autocast(vectors_BUC.device.type, enabled=False):
            codes_BUC, indices_BU = self.fsq(vectors_BUC.float())
        return codes_BUC, indices_BU.long()

    def codes(self, indices_BU: Tensor) -> Tensor:
        """``[B, U]`` indices to the codes ``[B, U, C]`` in [-1, 1]."""
        return self.fsq.indices_to_codes(indices_BU)

    def bounded(self, vectors_BUC: Tensor) -> Tensor:
        """The vectors as the rounding sees them, one level = 1: ``[B, U, C]``, for losses before the rounding."""
        with torch.autocast(vectors_BUC.device.type, enabled=False):
            levels = self.fsq._levels.float()
            half = (levels - 1) * (1 + 1e-3) / 2
            offset = torch.where(self.fsq._levels % 2 == 0, 0.5, 0.0)
            return torch.tanh(vectors_BUC.float() + torch.atanh(offset / half)) * half - offset
