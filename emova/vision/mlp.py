"""A projector of two dense layers, token by token: that of the EMOVA release (and of LLaVA-1.5, Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.vision.projector_base import ProjectorModule

KIND = "mlp"


@dataclass(frozen=True)
class MLPConfig:
    """Every token of the tower becomes one of the language model."""

    input_width: int
    output_width: int
    input_side: int = 1
    output_side: int = 1
    kind: str = KIND

    def __post_init__(self) -> None:
        if self.input_side != self.output_side:
            raise InputError(f"projector {KIND}: it merges no tokens; give one side for both, not {self.output_side}")


class MLPProjector(ProjectorModule[MLPConfig]):
    """Dense layer, GELU, dense layer."""

    config_class: ClassVar[type] = MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        self.enter = nn.Linear(config.input_width, config.output_width)
        self.leave = nn.Linear(config.output_width, config.output_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., E]`` to ``[..., D]``."""
        return self.leave(functional.gelu(self.enter(tokens)))
