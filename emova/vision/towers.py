"""Vision towers by configuration: InternViT of any shape, or an open_clip image tower.

A tower maps normalised pixels [B, 3, image_size, image_size] to patch features [B, P, D] without the class token, and
has ``width`` (D), ``side`` (P = side * side) and ``layers`` (blocks, first to last).

Shape letters: B tiles, P patches, D width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before timm and open_clip)

# isort: split
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.vision.internvit import InternViT, InternViTConfig

INTERNVIT, OPEN_CLIP = "internvit", "open_clip"


@dataclass(frozen=True)
class OpenClipConfig:
    """An image tower of open_clip: a model name it knows, or its ``vision_cfg`` fields."""

    model: str = ""
    vision: dict[str, Any] = field(default_factory=dict)

    def vision_cfg(self) -> dict[str, Any]:
        """The ``vision_cfg`` of the named model, with ``vision``'s fields over it."""
        import open_clip

        base: dict[str, Any] = {}
        if self.model:
            known = open_clip.get_model_config(self.model)
            if known is None:
                raise InputError(f"vision model {self.model!r}: open_clip has no such model; see its list of models")
            base = known["vision_cfg"]
        return {**base, **self.vision, "output_tokens": True}


@dataclass(frozen=True)
class VisionConfig:
    """Which tower, and its shape; ``open_clip`` counts only for that kind."""

    kind: str = INTERNVIT
    internvit: InternViTConfig = field(default_factory=InternViTConfig)
    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)

    def __post_init__(self) -> None:
        if self.kind not in (INTERNVIT, OPEN_CLIP):
            raise ValueError(f"vision kind is {self.kind!r}; it is 'internvit' or 'open_clip'")

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        return self.internvit.image_size if self.kind == INTERNVIT else int(self.open_clip.vision_cfg()["image_size"])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VisionConfig:
        """The inverse of ``dataclasses.asdict``; unknown keys raise TypeError."""
        values = dict(values)
        return cls(
            **{
                **values,
                "internvit": InternViTConfig(**values.get("internvit", {})),
                "open_clip": OpenClipConfig(**values.get("open_clip", {})),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class OpenClipTower(nn.Module):
    """The patch tokens of an open_clip VisionTransformer."""

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        fields = config.vision_cfg()
        if fields.get("timm_model_name") or not isinstance(fields.get("layers", 12), int):
            raise InputError("vision tower: only open_clip's own VisionTransformer models are supported")
        vision = CLIPVisionCfg(**fields)
        self.visual = _build_vision_tower(vision.width, vision)
        # The projection into CLIP's joint space has no use here, and an unused parameter would stop DDP.
        self.visual.proj = None
        self.width = vision.width
        self.side = self.visual.grid_size[0]

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.visual.transformer.resblocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.visual.set_grad_checkpointing(enable)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)[1]


def build_tower(config: VisionConfig) -> InternViT | OpenClipTower:
    """Build the tower; its weights are random."""
    return InternViT(config.internvit) if config.kind == INTERNVIT else OpenClipTower(config.open_clip)
