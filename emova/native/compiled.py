"""The compiled kernels of this process: which run, and why those that do not do not."""

from __future__ import annotations

import torch
from torch import Tensor

from emova.native import convolution, parity, step
from emova.native.kernel import Kernel, Status

STEP = Kernel(step.SOURCE, step.bind, parity.step_agrees)
"""Decoding on the CPU."""
CONVOLUTION = Kernel(convolution.SOURCE, convolution.Convolutions, parity.convolutions_agree)
"""A streamed voice on the CPU."""


def statuses() -> dict[str, Status]:
    """What runs here, by what it is for. Raises: InputError: the switch says nonsense."""
    return {"decoding": STEP.status(), "voice": CONVOLUTION.status()}


def convolutions_for(x_BCW: Tensor, weight: Tensor) -> convolution.Convolutions | None:
    """The compiled convolutions where they can do what torch would: float32 on the CPU, no gradients."""
    if (
        x_BCW.dtype == weight.dtype == torch.float32
        and x_BCW.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    ):
        return CONVOLUTION.ready
    return None
