"""C-Abstractor: patch features to fewer visual tokens, keeping locality (Honeybee §3.2; EMOVA §3.1).

RegNet stage -> adaptive average pooling -> RegNet stage -> MLP. At the paper's size 32 x 32 patches become 16 x 16
tokens, at nano's size 16 x 16 become 8 x 8.

Shape letters: B tiles, P = p*p patches, S = s*s tokens, E encoder width, W projector width, D width of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import emova.core.compat  # noqa: F401  (torchvision must import before timm)

# isort: split
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from emova.vision.projector_base import ProjectorModule


@dataclass(frozen=True)
class CAbstractorConfig:
    """Shape of the projector; the defaults are the paper's beside LLaMA-3.1-8B."""

    input_width: int = 3200
    width: int = 1024
    output_width: int = 4096
    input_side: int = 32
    """Patches a side of a tile."""
    output_side: int = 16
    """Tokens a side of a tile."""
    depth: int = 2
    """Blocks in each of the two stages."""
    kind: str = "c_abstractor"

    @property
    def tokens(self) -> int:
        """Visual tokens a tile."""
        return self.output_side**2

    def __post_init__(self) -> None:
        if self.input_side % self.output_side:
            raise ValueError("projector input_side must be a multiple of output_side")


class CAbstractor(ProjectorModule[CAbstractorConfig]):
    """Patch features [B, P, E] to visual tokens [B, S, D]."""

    config_class: ClassVar[type] = CAbstractorConfig

    def __init__(self, config: CAbstractorConfig) -> None:
        super().__init__(config)
        stage = partial(RegStage, config.depth, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
        self.stage_in = stage(config.input_width, config.width)
        self.pool = nn.AvgPool2d(config.input_side // config.output_side)
        self.stage_out = stage(config.width, config.width)
        self.readout = nn.Sequential(
            nn.Linear(config.width, config.output_width), nn.GELU(), nn.Linear(config.output_width, config.output_width)
        )

    def trunk(self, patches_BPE: Tensor) -> Tensor:
        """The convolutional part alone: [B, P, E] to [B, S, W]; vision pre-training shares it."""
        side = self.config.input_side
        assert patches_BPE.shape[1] == side * side, "patches do not fill the tile"
        grid_BEpp = patches_BPE.transpose(1, 2).unflatten(2, (side, side))
        grid_BWss = self.stage_out(self.pool(self.stage_in(grid_BEpp)))
        return grid_BWss.flatten(2).transpose(1, 2)

    def forward(self, patches_BPE: Tensor) -> Tensor:
        """[B, P, E] to [B, S, D]."""
        return self.readout(self.trunk(patches_BPE))
