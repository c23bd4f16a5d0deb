"""Batches of one size for what a GPU prepares anew for every size.

cuDNN plans, and may compile, a convolution for each shape that it meets: on an H200 a new number of pictures cost the
vision tower with its convolutional trunk six seconds, where a step takes a tenth of one. A pack holds as many pictures
as it happens to, so the tower and the projector are given a multiple of a fixed number, and what was filled up is cut
off behind them.

Shape letters: B tiles, ... the rest of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fill_up(module: nn.Module, multiple: int) -> None:
    """Let ``module`` see its first input ``[B, ...]`` filled up by zeros to a multiple of ``multiple``; the output is
    ``[B, ...]`` again. The module must treat the rows of a batch apart from each other.
    """
    assert multiple > 0
    waiting: list[int] = []  # rows of the passes that have begun

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = inputs[0].shape[0]
        waiting.append(rows)
        missing = -rows % multiple
        return (torch.cat([inputs[0], inputs[0].new_zeros(missing, *inputs[0].shape[1:])]), *inputs[1:])

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output[: waiting.pop()]

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
