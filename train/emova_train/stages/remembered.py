"""What the frozen part of a tower made of a picture is kept, since small worlds show each of their pictures often."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor, nn

from emova.vision.internvit import InternViT

LIMIT_BYTES = 1 << 30
"""Of features that are kept; pictures beyond them are computed each time, alone all the same."""


class Remembered:
    """The features of tiles, computed once each.

    Each is computed alone, so that they do not depend on which others a batch holds, nor on what a resumed run has
    already seen.

    Args:
        compute: tiles [B, 3, H, W] to features [B, ...], each tile for itself; nothing of it learns.
        limit_bytes: that are kept.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], limit_bytes: int = LIMIT_BYTES) -> None:
        self._compute, self._left = compute, limit_bytes
        self._kept: dict[tuple[bool, bytes], Tensor] = {}

    def __call__(self, tiles_B3HW: Tensor) -> Tensor:
        if tiles_B3HW.device.type != "cpu":  # an accelerator computes them faster than it would look them up
            return self._compute(tiles_B3HW)
        return torch.cat([self._of(tile_13HW) for tile_13HW in tiles_B3HW.split(1)])

    def _of(self, tile_13HW: Tensor) -> Tensor:
        cast = torch.is_autocast_enabled("cpu")
        key = cast, blake2b(tile_13HW.contiguous().view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
        found = self._kept.get(key)
        if found is None:
            with torch.no_grad():
                found = self._compute(tile_13HW)
            if found.nbytes <= self._left:
                self._kept[key] = found
                self._left -= found.nbytes
        return found


def remember_frozen_part(tower: nn.Module) -> int | None:
    """Let a tower compute what does not learn, from its pixels on, once for each picture.

    Returns: how many blocks are in it, behind the embedding; None where nothing is remembered.
    """
    if not isinstance(tower, InternViT) or tower.config.drop_path:
        return None
    blocks = next((place for place, block in enumerate(tower.layers) if _learns(block)), len(tower.layers))
    deep = {id(each) for part in (*tower.layers[blocks:], tower.norm) for each in part.parameters()}
    if any(each.requires_grad and id(each) not in deep for each in tower.parameters()):
        return None
    shallow = Remembered(lambda tiles_B3HW: tower.shallow(tiles_B3HW, blocks))

    def forward(tiles_B3HW: Tensor) -> Tensor:
        return tower.deep(shallow(tiles_B3HW), blocks)

    tower.forward = forward  # type: ignore[method-assign,assignment]  # so that its parameters keep their names
    return blocks


def _learns(part: nn.Module) -> bool:
    return any(each.requires_grad for each in part.parameters())
