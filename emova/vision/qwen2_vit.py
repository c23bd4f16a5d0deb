"""Qwen2-VL's vision transformer at native resolution, by transformers' own class.

Shapes: N pictures, P patches of all of them, V visual tokens of all of them, E width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor, nn
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from emova.vision.native_resolution import NativeConfig


@dataclass(frozen=True)
class Qwen2ViTConfig:
    """The defaults are the EMOVA release's ``qwen2vit600m``: Qwen2-VL's tower with its merger."""

    depth: int = 32
    inner_width: int = 1280
    heads: int = 16
    mlp_ratio: int = 4
    width: int = 3584
    """E, of the merged tokens."""
    min_pixels: int = NativeConfig.min_pixels
    max_pixels: int = NativeConfig.max_pixels

    @property
    def native(self) -> NativeConfig:
        """How pictures are prepared."""
        return NativeConfig(min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    @property
    def image_size(self) -> int:
        """There are no tiles; 0 stands for a picture's own size."""
        return 0

    @property
    def side(self) -> int:
        """Of a visual token, in tokens."""
        return 1


class Qwen2ViT(nn.Module):
    """Patches of whole pictures to merged tokens. Attention stays within a picture."""

    config_class: ClassVar[type] = Qwen2ViTConfig

    def __init__(self, config: Qwen2ViTConfig) -> None:
        super().__init__()
        self.config, self.width, self.side = config, config.width, config.side
        native = config.native
        self.visual = Qwen2VisionTransformerPretrainedModel(
            Qwen2VLVisionConfig(
                depth=config.depth,
                embed_dim=config.inner_width,
                hidden_size=config.width,
                mlp_ratio=config.mlp_ratio,
                num_heads=config.heads,
                patch_size=native.patch,
                spatial_merge_size=native.merge,
                temporal_patch_size=native.frames,
            )
        )

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return list(self.visual.blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations anew in the backward pass, or not."""
        if enable:
            self.visual.gradient_checkpointing_enable()
        else:
            self.visual.gradient_checkpointing_disable()

    def blank(self) -> tuple[Tensor, Tensor]:
        """Patches and grid of a picture of one token."""
        native = self.config.native
        values = 3 * native.frames * native.patch**2
        return torch.zeros(native.merge**2, values), torch.ones(1, 2, dtype=torch.long)

    def forward(self, patches: Tensor, grids_N2: Tensor) -> Tensor:
        """Patches ``[P, 1176]`` of pictures whose tokens have so many rows and columns to ``[V, E]``."""
        merge = self.config.native.merge
        ones_N1 = torch.ones_like(grids_N2[:, :1])
        return self.visual(patches, grid_thw=torch.cat([ones_N1, merge * grids_N2], dim=1)).pooler_output
