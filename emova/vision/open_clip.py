"""Image towers of open_clip.

Shape letters: B tiles, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import emova.core.compat  # noqa: F401  (torchvision must import before open_clip)

# isort: split
from torch import Tensor, nn

from emova.core.errors import InputError


@dataclass(frozen=True)
class OpenClipConfig:
    """An image tower of open_clip: a model name it knows, or its ``vision_cfg`` fields."""

    model: str = ""
    vision: dict[str, Any] = field(default_factory=dict)

    def vision_cfg(self) -> Mapping[str, Any]:
        """The ``vision_cfg`` of the named model, with ``vision``'s fields over it.

        Raises:
            InputError: open_clip has no such model.
        """
        import open_clip

        base: dict[str, Any] = {}
        if self.model:
            known = open_clip.get_model_config(self.model)
            if known is None:
                raise InputError(f"vision model {self.model!r}: open_clip has no such model; see its list of models")
            base = known["vision_cfg"]
        return {**base, **self.vision, "output_tokens": True}

    @property
    def quick_gelu(self) -> bool:
        """Whether the named model has OpenAI's approximation of GELU."""
        import open_clip

        known = open_clip.get_model_config(self.model) if self.model else None
        return bool((known or {}).get("quick_gelu", False))

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        return int(self.vision_cfg().get("image_size", 224))

    @property
    def width(self) -> int:
        """Channels of a patch."""
        return int(self.vision_cfg().get("width", 768))

    @property
    def side(self) -> int:
        """Patches a side of a tile."""
        return self.image_size // int(self.vision_cfg().get("patch_size", 16))


class OpenClipTower(nn.Module):
    """The patch tokens of an open_clip VisionTransformer."""

    config_class: ClassVar[type] = OpenClipConfig

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        fields = config.vision_cfg()
        if fields.get("timm_model_name") or not isinstance(fields.get("layers", 12), int):
            raise InputError("vision tower: only open_clip's own VisionTransformer models are supported")
        vision = CLIPVisionCfg(**fields)
        self.visual = _build_vision_tower(vision.width, vision, quick_gelu=config.quick_gelu)
        # The projection into CLIP's joint space has no use here, and an unused parameter would stop DDP.
        self.visual.proj = None
        self.width = vision.width
        self.side = self.visual.grid_size[0]

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return list(self.visual.transformer.resblocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations anew in the backward pass, or not."""
        self.visual.set_grad_checkpointing(enable)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, image_size, image_size]``, normalised, to ``[B, P, D]``."""
        return self.visual(pixels)[1]
