"""Finite scalar quantisation (FSQ), always in float32.

Shapes: B batch, U units, C dimensions of the code, D encoder width, N vectors that count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import FSQ


class EvenProjection(nn.Module):
    """A map to the code's dimensions, each kept at mean 0 and variance 1 over the training data.

    With ``hidden`` > 0 a layer of that width comes first: phones that a linear map would leave between two levels can
    then be drawn to the middle of one.

    ``tanh`` of such numbers uses the levels of FSQ nearly evenly, so no dimension can saturate or fall asleep, which a
    free projection does within a few steps. In training the statistics are those of the batch; in evaluation the
    running ones, which makes this a plain affine map of each vector by itself. Processes that train together keep the
    same running ones, of all their batches, so a checkpoint of any of them is that of all.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, dim: int, hidden: int = 0, momentum: float = 0.05) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(width, hidden), nn.GELU()) if hidden else nn.Identity()
        self.linear = nn.Linear(hidden or width, dim, bias=False)
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, hidden_BUD: Tensor, inside_BU: Tensor | None = None) -> Tensor:
        """``[B, U, D]`` to ``[B, U, C]`` float32; ``inside_BU`` is true where a vector counts for the statistics."""
        with torch.autocast(hidden_BUD.device.type, enabled=False):
            raw_BUC = self.linear(self.lift(hidden_BUD.float()))
            if not self.training:
                return (raw_BUC - self.mean) * (self.variance + 1e-5).rsqrt()
            counted_NC = raw_BUC.flatten(0, 1) if inside_BU is None else raw_BUC[inside_BU]
            variance, mean = torch.var_mean(counted_NC, dim=0, correction=0)
            with torch.no_grad():
                all_mean, all_variance = _over_processes(mean.detach(), variance.detach())
                self.mean.lerp_(all_mean, self.momentum)
                self.variance.lerp_(all_variance, self.momentum)
            return (raw_BUC - mean) * (variance + 1e-5).rsqrt()


def _over_processes(mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of what all processes of a training saw, each counting alike."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return mean_C, variance_C
    moments_2C = torch.stack([mean_C, variance_C + mean_C**2])
    distributed.all_reduce(moments_2C)
    mean_C, square_C = moments_2C / distributed.get_world_size()
    return mean_C, (square_C - mean_C**2).clamp(min=0)


class FiniteScalarQuantizer(nn.Module):
    """Vectors of C numbers to C small integers and their common index (EMOVA section 3.2; Mentzer et al., 2023).

    In bfloat16 the index of a code comes out wrong more often than right (the sum of products needs 12 bits), so
    autocast is switched off here whatever the caller runs under.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        with torch.device("cpu"):  # its constants are computed with, even when the rest is on the meta device
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
