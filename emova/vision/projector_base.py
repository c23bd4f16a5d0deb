"""What projectors have in common: the fields of their shape, and how their output is scaled.

Shape letters: B tiles, P = p * p patches, S = s * s tokens, E width of the tower, D width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import nn

from emova.vision.protocol import ProjectorConfig

ConfigT = TypeVar("ConfigT", bound=ProjectorConfig)


@dataclass(frozen=True)
class ProjectorShape:
    """The shape of a projector that needs no fields of its own, see ``ProjectorConfig``."""

    input_width: int
    output_width: int
    input_side: int
    output_side: int
    kind: str


class ProjectorModule(nn.Module, Generic[ConfigT]):
    """A ``Projector`` but for ``forward``, from ``[B, P, E]`` to ``[B, S, D]``; built as ``Projector(config)``.

    Attributes:
        config_class: a frozen dataclass, see ``ProjectorConfig``.
    """

    config_class: ClassVar[type] = ProjectorShape

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Make all visual tokens ``factor`` times as large, by the linear layer that was made last."""
        last = [module for module in self.modules() if isinstance(module, nn.Linear)][-1]
        for parameter in last.parameters():
            parameter.mul_(factor)
