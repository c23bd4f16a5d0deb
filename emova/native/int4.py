"""4-bit weights: whole numbers of -8 to 7 with a float16 scale a row and 32 columns, 4.5 bits a weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 32
"""Columns that share a scale, as in llama.cpp's ``Q4_0``."""
TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 1.05, -1.0, -0.95, -0.9)
"""Parts of the widest number's eighth that are tried as a scale; the negative ones let it be 8 of either sign."""


def int4_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """The weight as int8 tensors of -8 to 7 ``[O, I]`` and float16 scales ``[O, ceil(I / 32)]``.

    Of several scales the one with the least squared error is kept, after it was fitted to what was rounded with it.
    """
    outputs, inputs = weight_OI.shape
    groups = functional.pad(weight_OI.detach().float(), (0, -inputs % GROUP)).unflatten(1, (-1, GROUP))
    widest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True)) / -8
    best = torch.full_like(widest, torch.inf)
    scale, whole = torch.zeros_like(widest), torch.zeros_like(groups)
    for part in TRIED:
        tried = torch.where(widest == 0, 1.0, widest * part)
        rounded = (groups / tried).round().clamp(-8, 7)
        power = rounded.square().sum(dim=2, keepdim=True)
        fitted = ((groups * rounded).sum(dim=2, keepdim=True) / power.clamp(min=1)).half().float()
        error = (groups - fitted * rounded).square().sum(dim=2, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scale, whole = torch.where(better, fitted, scale), torch.where(better, rounded, whole)
    return whole.flatten(1)[:, :inputs].to(torch.int8).contiguous(), scale.squeeze(2).half()


def int4_floats(whole_OI: Tensor, scale_OG: Tensor) -> Tensor:
    """What ``int4_groups`` made, as float32 ``[O, I]``."""
    inputs = whole_OI.shape[1]
    groups = functional.pad(whole_OI.float(), (0, -inputs % GROUP)).unflatten(1, (-1, GROUP))
    return (groups * scale_OG.float()[:, :, None]).flatten(1)[:, :inputs]
