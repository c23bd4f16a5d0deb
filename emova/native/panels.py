"""Weights as ``matrix.h`` reads them: panels of sixteen rows, in the fewest bytes that change no number.

Shape letters: O outputs, I inputs, P panels, G groups of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from emova.core.weights import int8_rows

LANES = 16
"""Rows of a panel."""
GROUP = 32
"""Columns of 4-bit weights that share a scale; all whole numbers have their columns filled up to a multiple of it."""


class Kind(IntEnum):
    """How weights are stored, as in ``matrix.h``."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8 = 3
    INT4 = 4

    @property
    def bytes(self) -> float:
        """Of one weight, its share of a scale included where that is one a group."""
        return {0: 4.0, 1: 2.0, 2: 2.0, 3: 1.0, 4: 0.5 + 2 / GROUP}[self.value]


_FLOATS = {torch.float32: Kind.FLOAT32, torch.float16: Kind.FLOAT16, torch.bfloat16: Kind.BFLOAT16}


class Linear(Protocol):
    """A matrix ``[O, I]``: float weights, int8 weights with a scale a row ``[O]``, or whole numbers of -8 to 7 with a
    scale a row and 32 columns ``[O, ceil(I / 32)]``."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def scale(self) -> Tensor | None: ...


def kind_of(linear: Linear) -> Kind:
    """How its weights are stored, before anything is made of them."""
    if linear.scale is None:
        return _FLOATS[linear.weight.dtype]
    return Kind.INT8 if linear.scale.dim() == 1 else Kind.INT4


@dataclass(frozen=True)
class Panels:
    """A matrix in panels.

    Attributes:
        weight: as ``matrix.h`` says.
        scale: of whole numbers: ``[P * 16]`` float32, or ``[P, G, 16]`` float16.
        rows, columns: of the matrix, what was filled up not counted.
    """

    kind: Kind
    weight: Tensor
    scale: Tensor | None
    rows: int
    columns: int


def packed(weight_OI: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight in the fewest bytes that change no number of it: int8 with a scale a row, 16 bits or float32."""
    weight_OI = weight_OI.float()
    if _is_int8(weight_OI[:4]) and _is_int8(weight_OI):  # a glance tells most weights
        return int8_rows(weight_OI)
    for dtype in (torch.float16, torch.bfloat16):
        short_OI = weight_OI.to(dtype)
        if torch.equal(short_OI.float(), weight_OI) and (dtype == torch.float16 or weight_OI.shape[1] % 2 == 0):
            return short_OI.contiguous(), None
    return weight_OI.contiguous(), None


def _is_int8(weight: Tensor) -> bool:
    whole, scale = int8_rows(weight)
    return torch.equal(whole.float() * scale.float()[:, None], weight)


def panels(weight_OI: Tensor, scale: Tensor | None = None) -> Panels:
    """The matrix in panels.

    Args:
        weight_OI: floats; or int8 with a scale a row ``[O]``; or whole numbers of -8 to 7 with a scale a row and 32
            columns ``[O, G]``.
    """
    if scale is None:
        weight_OI, scale = packed(weight_OI)
    rows, columns = weight_OI.shape
    more = -rows % LANES
    if scale is None:
        kind = _FLOATS[weight_OI.dtype]
        across = 2 if kind is Kind.BFLOAT16 else 1
        side_by_side = functional.pad(weight_OI, (0, 0, 0, more)).view(-1, LANES, columns // across, across)
        return Panels(kind, side_by_side.transpose(1, 2).contiguous(), None, rows, columns)
    filled = functional.pad(weight_OI, (0, -columns % GROUP, 0, more))
    if scale.dim() == 1:
        four = (filled.to(torch.int16) + 128).to(torch.uint8).view(-1, LANES, filled.shape[1] // 4, 4)
        scale_O = functional.pad(scale.float(), (0, more)).contiguous()
        return Panels(Kind.INT8, four.transpose(1, 2).contiguous(), scale_O, rows, columns)
    eight = (filled + 8).to(torch.uint8).view(-1, LANES, filled.shape[1] // GROUP, 2, 4, 4)
    nibbles = (eight[:, :, :, 0] | eight[:, :, :, 1] << 4).permute(0, 2, 3, 1, 4).contiguous()
    scale_PGL = functional.pad(scale.half(), (0, 0, 0, more)).view(-1, LANES, scale.shape[1]).transpose(1, 2)
    return Panels(Kind.INT4, nibbles, scale_PGL.contiguous(), rows, columns)
