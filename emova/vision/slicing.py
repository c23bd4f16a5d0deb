"""High-resolution slicing: which grid a picture is cut into, the tiles, and the order of its tokens (EMOVA §3.1).

The picture is fitted into the best grid of square tiles (anyres, as in LLaVA-NeXT) and a low-resolution thumbnail of
the whole goes first. Order of a picture's tiles: the thumbnail, then the grid's tiles row by row. Order of its tokens:

    image_start, thumbnail (row-major), [line of tokens across all the tiles of that row, image_row] per line, image_end

A line runs across the whole grid, so the sliced picture reads as one large raster with a separator after each line.
A picture that fits one tile has that tile alone: no thumbnail, no separators.

Shape letters: N tiles, S tokens a side of a tile, R grid rows, C grid columns, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

MAX_SIDE = 3
# A few more pixels are not worth another row of tiles.
NEARLY_ALL = 0.95


@dataclass(frozen=True)
class Grid:
    """Tiles down and across; ``Grid(1, 1)`` is a picture that is not sliced."""

    rows: int = 1
    columns: int = 1

    @property
    def sliced(self) -> bool:
        return self.rows * self.columns > 1

    @property
    def tiles(self) -> int:
        """Tiles the encoder sees, the thumbnail included."""
        return self.rows * self.columns + 1 if self.sliced else 1


@dataclass(frozen=True)
class Slices:
    """A picture cut into ``grid.tiles`` square pictures, thumbnail first."""

    grid: Grid
    tiles: tuple[Image.Image, ...]


def candidate_grids(max_tiles: int) -> list[Grid]:
    """All grids up to 3x3 with at most ``max_tiles`` tiles, fewest tiles first."""
    sides = range(1, MAX_SIDE + 1)
    grids = [Grid(rows, columns) for rows in sides for columns in sides if rows * columns <= max_tiles]
    return sorted(grids, key=lambda grid: (grid.tiles, grid.rows))


def best_grid(width: int, height: int, tile_size: int, max_tiles: int) -> Grid:
    """The smallest grid that keeps nearly as many of the picture's pixels as the best one does.

    Of equally small grids the one that keeps more pixels wins.

    Args:
        width, height: the picture's size in pixels.
        tile_size: a tile's side in pixels.
        max_tiles: most tiles, the thumbnail not counted.
    """
    assert width > 0 and height > 0 and max_tiles >= 1

    def kept_pixels(grid: Grid) -> int:
        scale = min(grid.columns * tile_size / width, grid.rows * tile_size / height)
        return min(round(width * scale) * round(height * scale), width * height)

    kept = {grid: kept_pixels(grid) for grid in candidate_grids(max_tiles)}
    enough = NEARLY_ALL * max(kept.values())
    return min((grid for grid in kept if kept[grid] >= enough), key=lambda grid: (grid.tiles, -kept[grid]))


def letterbox(image: Image.Image, width: int, height: int, fill: tuple[int, int, int]) -> Image.Image:
    """``image`` scaled to fit ``width`` x ``height``, centred, the rest filled: shapes keep their proportions."""
    scale = min(width / image.width, height / image.height)
    fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if fitted != image.size:
        image = image.resize(fitted, Image.Resampling.BICUBIC)
    if fitted == (width, height):
        return image
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    return canvas


def slice_image(image: Image.Image, tile_size: int, max_tiles: int, fill: tuple[int, int, int]) -> Slices:
    """Cut an RGB picture into its tiles, thumbnail first when there is more than one."""
    grid = best_grid(image.width, image.height, tile_size, max_tiles)
    if not grid.sliced:
        return Slices(grid, (letterbox(image, tile_size, tile_size, fill),))
    canvas = letterbox(image, grid.columns * tile_size, grid.rows * tile_size, fill)
    tiles = [letterbox(image, tile_size, tile_size, fill)]
    for row in range(grid.rows):
        for column in range(grid.columns):
            left, top = column * tile_size, row * tile_size
            tiles.append(canvas.crop((left, top, left + tile_size, top + tile_size)))
    return Slices(grid, tuple(tiles))


def token_layout(grid: Grid, side: int, image: str, row: str) -> list[str]:
    """The tokens between image_start and image_end: ``image`` once a visual token, ``row`` after each line."""
    tokens = [image] * (side * side)
    if grid.sliced:
        for _ in range(grid.rows * side):
            tokens += [image] * (grid.columns * side) + [row]
    return tokens


def arrange(features: Tensor, grids: list[Grid]) -> Tensor:
    """Bring tile features into token order.

    Args:
        features: [N, S*S, D], the tiles of all pictures one after another.
        grids: one for each picture.

    Returns:
        [tokens, D] in the order of ``token_layout``'s image placeholders.

    Raises:
        ValueError: the grids do not add up to N tiles.
    """
    expected = sum(grid.tiles for grid in grids)
    if expected != features.shape[0]:
        raise ValueError(f"image grids ask for {expected} tiles, pixel_values holds {features.shape[0]}")
    width = features.shape[-1]
    side = int(features.shape[1] ** 0.5)
    assert side * side == features.shape[1], "a tile's tokens form a square"
    parts, start = [], 0
    for grid in grids:
        parts.append(features[start])
        if grid.sliced:
            tiles = features[start + 1 : start + grid.tiles].view(grid.rows, grid.columns, side, side, width)
            parts.append(tiles.transpose(1, 2).reshape(-1, width))
        start += grid.tiles
    return torch.cat(parts) if parts else features.reshape(-1, width)
