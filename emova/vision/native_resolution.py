"""Pictures at their own size and shape, cut into patches: the preparation of Qwen2-VL (Wang et al. 2024, §2.1).

Shapes: P patches, V visual tokens (four patches each), C channels, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emova.core.errors import InputError
from emova.vision.slicing import Grid

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_MEAN, _STD = np.asarray(MEAN, dtype=np.float32), np.asarray(STD, dtype=np.float32)
WIDEST = 200
"""How many times longer than the other a side may be."""


@dataclass(frozen=True)
class NativeConfig:
    """The sizes of the EMOVA release; a visual token stands for ``merge * patch`` pixels a side."""

    patch: int = 14
    merge: int = 2
    frames: int = 2
    """A picture is a film of so many equal frames."""
    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 4096 * 28 * 28

    @property
    def factor(self) -> int:
        """Pixels a side of a visual token."""
        return self.patch * self.merge


def resized(height: int, width: int, config: NativeConfig) -> tuple[int, int]:
    """Height and width of the nearest size in whole visual tokens within the limits.

    Raises:
        InputError: one side is more than 200 times as long as the other.
    """
    factor = config.factor
    if min(height, width) < factor:  # a side of less than a token is raised to one, the other in proportion
        scale = factor / min(height, width)
        height, width = max(factor, int(height * scale)), max(factor, int(width * scale))
    if max(height, width) > WIDEST * min(height, width):
        raise InputError(f"the picture: one side is more than {WIDEST} times as long as the other; cut it")
    whole = [max(1, round(side / factor)) * factor for side in (height, width)]
    if math.prod(whole) > config.max_pixels:
        scale = math.sqrt(height * width / config.max_pixels)
        whole = [max(1, math.floor(side / scale / factor)) * factor for side in (height, width)]
    elif math.prod(whole) < config.min_pixels:
        scale = math.sqrt(config.min_pixels / (height * width))
        whole = [math.ceil(side * scale / factor) * factor for side in (height, width)]
    return whole[0], whole[1]


def patches(image: Image.Image, config: NativeConfig) -> tuple[Grid, Tensor]:
    """The grid of visual tokens of an RGB picture, and its normalised patches ``[P, C * frames * patch * patch]``.

    The patches of a token stand together, tokens row by row. Raises: InputError: the shape is too narrow.
    """
    height, width = resized(image.height, image.width, config)
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels_HWC = np.asarray(small, dtype=np.float32) / 255
    pixels_CHW = torch.from_numpy((pixels_HWC - _MEAN) / _STD).permute(2, 0, 1)
    rows, columns = height // config.factor, width // config.factor
    cut = pixels_CHW.reshape(3, rows, config.merge, config.patch, columns, config.merge, config.patch)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6)  # rows, columns, row in the token, column in it, channel, pixels
    film = cut[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, config.frames, -1, -1)
    return Grid(rows, columns), film.flatten(4).flatten(0, 3).contiguous()
