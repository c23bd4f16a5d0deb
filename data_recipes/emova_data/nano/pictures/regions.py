"""What is drawn where: a region names one thing of a picture and gives its box.

Figures are named in words, as captions and answers name them. What belongs together, as the name and the score of a
table's row, has one box, so that each place in it tells of both.

While a kind draws, boxes are in finished pixels of what is drawn on, ``left, top, right, bottom``; ``record`` turns
them into fractions of the finished picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """``text``: how a caption or an answer names the thing, or what is written there. ``box``: where it is."""

    text: str
    box: Box


def hull(points: Iterable[tuple[float, float]]) -> Box:
    """The smallest upright box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def together(boxes: Iterable[Box]) -> Box:
    """The smallest box around boxes."""
    return hull((x, y) for left, top, right, bottom in boxes for x, y in ((left, top), (right, bottom)))


def opaque_box(image: Image.Image, at: tuple[int, int] = (0, 0)) -> Box:
    """Where an RGBA picture laid at ``at`` covers the ground."""
    box = image.getchannel("A").point([255 * (a > 100) for a in range(256)]).getbbox() or (0, 0, *image.size)
    return box[0] + at[0], box[1] + at[1], box[2] + at[0], box[3] + at[1]


def moved(regions: Iterable[Region], matrix: tuple[float, float, float, float, float, float]) -> list[Region]:
    """Regions after ``Image.transform`` with an affine ``matrix``, which maps finished places to those drawn on."""
    a, b, c, d, e, f = matrix
    back = np.linalg.inv([[a, b], [d, e]])

    def place(x: float, y: float) -> tuple[float, float]:
        px, py = back @ (x - c, y - f)
        return float(px), float(py)

    return [
        replace(region, box=hull(place(x, y) for x in region.box[::2] for y in region.box[1::2]))
        for region in regions
    ]  # fmt: skip


def record(regions: Iterable[Region], size: int) -> list[dict[str, object]]:
    """As written into a shard: fractions of a picture of ``size`` pixels a side; what lies outside is cut off."""
    rows: list[dict[str, object]] = []
    for region in regions:
        left, top, right, bottom = (round(min(max(value / size, 0.0), 1.0), 4) for value in region.box)
        if left < right and top < bottom:
            rows.append({"text": region.text, "box": [left, top, right, bottom]})
    return rows
