"""No eyes: the vision tower and the projector of a model that reads and hears alone, such as GLM-4-Voice's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

KIND = "none"


@dataclass(frozen=True)
class NoTowerConfig:
    """There is no shape; the fields are what every tower has."""

    width: int = 1
    image_size: int = 0
    side: int = 1


@dataclass(frozen=True)
class NoProjectorConfig:
    """Likewise."""

    input_width: int = 1
    output_width: int = 1
    input_side: int = 1
    output_side: int = 1
    kind: str = KIND


class NoTower(nn.Module):
    """A ``VisionTower`` without weights; pictures are refused before they come here."""

    config_class: ClassVar[type] = NoTowerConfig

    def __init__(self, config: NoTowerConfig) -> None:
        super().__init__()
        self.width, self.side = config.width, config.side

    @property
    def layers(self) -> list[nn.Module]:
        """None."""
        return []

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is nothing to compute."""

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, ...]`` to ``[B, 0, 1]``."""
        return torch.zeros(pixels.shape[0], 0, self.width)


class NoProjector(nn.Module):
    """A ``Projector`` without weights."""

    config_class: ClassVar[type] = NoProjectorConfig

    def __init__(self, config: NoProjectorConfig) -> None:
        super().__init__()
        self.config = config

    def scale_output(self, factor: float) -> None:
        """There is no output."""

    def forward(self, patches: Tensor) -> Tensor:
        """``[B, 0, 1]`` to ``[B, 0, D]``."""
        return patches.new_zeros(*patches.shape[:-1], self.config.output_width)
