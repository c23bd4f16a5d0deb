from __future__ import annotations

import pytest
import torch
from PIL import Image

from emova.vision.slicing import Grid, arrange, best_grid, candidate_grids, slice_image, token_layout


def test_candidates_are_all_grids_up_to_three_by_three():
    grids = candidate_grids(9)
    assert len(grids) == 9 and grids[0] == Grid(1, 1) and grids[-1] == Grid(3, 3)
    assert candidate_grids(1) == [Grid(1, 1)]
    assert {(grid.rows, grid.columns) for grid in candidate_grids(4)} == {
        (1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 100), (1, 1)),
        ((448, 448), (1, 1)),
        ((449, 449), (1, 1)),
        ((520, 520), (2, 2)),
        ((1344, 448), (1, 3)),
        ((448, 1344), (3, 1)),
        ((640, 480), (2, 2)),
        ((4000, 3000), (3, 3)),
        ((1300, 900), (2, 3)),
        ((5000, 100), (1, 3)),
    ],
)
def test_best_grid(size, expected):
    width, height = size
    grid = best_grid(width, height, tile_size=448, max_tiles=9)
    assert (grid.rows, grid.columns) == expected


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (30, 90), (61, 59)])
@pytest.mark.parametrize("max_tiles", [1, 4, 9])
def test_slices_are_whole_tiles_within_the_limit(size, max_tiles):
    slices = slice_image(Image.new("RGB", size, "red"), 28, max_tiles, (0, 0, 0))
    assert len(slices.tiles) == slices.grid.tiles <= max_tiles + 1
    assert {tile.size for tile in slices.tiles} == {(28, 28)}


def test_tiles_of_a_fitting_picture_put_it_back_together():
    image = Image.frombytes("RGB", (84, 56), bytes(range(256)) * 55 + bytes(84 * 56 * 3 - 256 * 55))
    slices = slice_image(image, 28, 9, (0, 0, 0))
    assert (slices.grid.rows, slices.grid.columns) == (2, 3)
    whole = Image.new("RGB", (84, 56))
    for index, tile in enumerate(slices.tiles[1:]):
        whole.paste(tile, (index % 3 * 28, index // 3 * 28))
    assert whole.tobytes() == image.tobytes()


def test_features_come_in_reading_order_across_tiles():
    grid, side = Grid(2, 3), 2
    # A feature says where its token lies in the whole raster; the thumbnail's are negative.
    raster = torch.arange(24).view(4, 6)
    tiles = [raster[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(4) for r in range(2) for c in range(3)]
    features = torch.stack([-torch.arange(1, 5), *tiles, 100 + torch.arange(4)])[..., None].float()
    ordered = arrange(features, [grid, Grid()])[:, 0].tolist()
    assert ordered == [-1, -2, -3, -4, *range(24), 100, 101, 102, 103]
    layout = token_layout(grid, side, "image", "row")
    assert layout.count("image") == 28 and layout.count("row") == 4
    assert layout[4:11] == ["image"] * 6 + ["row"] and layout[-1] == "row"


def test_grids_must_add_up():
    with pytest.raises(ValueError, match="3 tiles"):
        arrange(torch.zeros(4, 4, 8), [Grid(1, 2)])
