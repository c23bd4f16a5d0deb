"""EmovaImageProcessor: pictures to normalised tiles, with PIL and numpy alone.

Shape letters: N tiles, H and W pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from emova.core.errors import InputError
from emova.model import sources
from emova.vision.image import load_image
from emova.vision.native_resolution import NativeConfig, patches
from emova.vision.slicing import Grid, best_grid, slice_image, token_layout

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EmovaImageProcessor(BaseImageProcessor):
    """Slice a picture into tiles, scale to 0..1, normalise.

    Args:
        tile_size: side of a tile in pixels; 0 without ``max_pixels`` is of a model that sees nothing.
        max_tiles: most tiles a picture is cut into, the thumbnail not counted; 1 never slices.
        tile_side: visual tokens a side of a tile after the projector.
        image_mean, image_std: a channel's mean and deviation, of 0..1 values.
        min_pixels, max_pixels: pictures keep their shape and are cut into patches, within these limits; 0 cuts tiles.
    """

    model_input_names = ["pixel_values", "image_grids"]

    def __init__(
        self,
        tile_size: int = 224,
        max_tiles: int = 1,
        tile_side: int = 8,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        min_pixels: int = 0,
        max_pixels: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tile_size = tile_size
        self.max_tiles = max_tiles
        self.tile_side = tile_side
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.min_pixels, self.max_pixels = min_pixels, max_pixels

    def grid(self, width: int, height: int) -> Grid:
        """The grid a picture of this size is cut into."""
        return best_grid(width, height, self.tile_size, self.max_tiles)

    def tiles(self, image: Image.Image, max_tiles: int | None = None) -> tuple[Grid, Tensor]:
        """The grid and the normalised tiles [N, 3, H, W] of one picture, or its patches. Raises: InputError."""
        if self.max_pixels:
            return patches(load_image(image), NativeConfig(min_pixels=self.min_pixels, max_pixels=self.max_pixels))
        if not self.tile_size:
            raise InputError("the picture: this model sees none; leave it out")
        red, green, blue = (round(255 * value) for value in self.image_mean)
        slices = slice_image(load_image(image), self.tile_size, max_tiles or self.max_tiles, (red, green, blue))
        pixels_NHWC = np.stack([np.asarray(tile, dtype=np.float32) for tile in slices.tiles]) / 255
        return slices.grid, self.normalise(torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2))

    def layout(self, grid: Grid, image: str, row: str) -> list[str]:
        """The placeholders of a picture: ``image`` for each visual token, ``row`` at the end of a row of tiles."""
        return (
            [image] * (grid.rows * grid.columns) if self.max_pixels else token_layout(grid, self.tile_side, image, row)
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [..., 3, H, W] in 0..1 to zero mean and unit deviation."""
        mean = torch.tensor(self.image_mean)[:, None, None]
        std = torch.tensor(self.image_std)[:, None, None]
        return ((pixels - mean) / std).contiguous()

    def preprocess(
        self, images: object, return_tensors: str | None = "pt", max_tiles: int | None = None, **unknown: object
    ) -> BatchFeature:
        """Tiles of one picture or of a list: ``pixel_values`` [N, 3, H, W] and ``image_grids`` [pictures, 2].

        Args:
            images: as ``emova.model.sources.picture`` takes them, in lists, or lists in a list.
            max_tiles: in place of the processor's own.

        Raises:
            InputError: a picture cannot be used; there is another option.
        """
        if unknown:
            raise InputError(f"{min(unknown)}: pictures have no such option; there are return_tensors, max_tiles")
        cut = [self.tiles(sources.picture(image), max_tiles) for image in sources.flat(images)]
        data = {
            "pixel_values": torch.cat([pixels for _, pixels in cut]),
            "image_grids": torch.tensor([[grid.rows, grid.columns] for grid, _ in cut]),
        }
        return BatchFeature(data=data, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, object]:
        names = ("tile_size", "max_tiles", "tile_side", "image_mean", "image_std", "min_pixels", "max_pixels")
        return {"image_processor_type": type(self).__name__, **{name: getattr(self, name) for name in names}}
