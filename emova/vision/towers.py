"""Which vision tower a model has, and its shape; ``emova.checkpoint.registry`` finds the class of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from emova.checkpoint.registry import TOWERS
from emova.core.config import config_from_dict
from emova.vision.internvit import InternViTConfig
from emova.vision.open_clip import OpenClipConfig
from emova.vision.protocol import TowerConfig, VisionTower

INTERNVIT, OPEN_CLIP = "internvit", "open_clip"


@dataclass(frozen=True)
class VisionConfig:
    """Which tower, and its shape: that of its kind counts.

    Attributes:
        kind: ``internvit``, ``open_clip``, or one that is registered from outside.
        options: the shape of a kind from outside: the fields of its config class.

    Raises:
        InputError: the kind is unknown.
    """

    kind: str = INTERNVIT
    internvit: InternViTConfig = field(default_factory=InternViTConfig)
    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        TOWERS.find(self.kind)

    @property
    def tower(self) -> TowerConfig:
        """The shape of the kind."""
        if self.kind == INTERNVIT:
            return self.internvit
        if self.kind == OPEN_CLIP:
            return self.open_clip
        made: TowerConfig = config_from_dict(TOWERS.find(self.kind).config_class, self.options, self.kind)
        return made

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        return self.tower.image_size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionConfig:
        """The inverse of ``to_dict``; unknown keys raise TypeError."""
        values = dict(values)
        values["internvit"] = InternViTConfig(**values.get("internvit", {}))
        values["open_clip"] = OpenClipConfig(**values.get("open_clip", {}))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for ``config.json``."""
        return asdict(self)


def build_tower(config: VisionConfig) -> VisionTower:
    """Build the tower; its weights are random."""
    return TOWERS.find(config.kind)(config.tower)  # type: ignore[call-arg]  # a protocol says nothing of __init__
