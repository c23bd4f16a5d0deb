"""A picture as a camera sees it on a screen or on paper: perspective, blur, glare, grain, JPEG."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from emova_data.nano.pictures.canvas import Rng, muted
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.regions import Region, hull


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix [3, 3] that maps four points [4, 2] to four others."""
    rows = []
    for (x, y), (u, w) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -w * x, -w * y]]
    solved = np.linalg.solve(np.asarray(rows, float), target.reshape(-1))
    return np.append(solved, 1.0).reshape(3, 3)


def photographed(drawn: Drawn, rng: Rng) -> Drawn:
    """``drawn`` seen a little from the side, with its regions."""
    width, height = drawn.image.size
    corners = np.asarray([[0, 0], [width, 0], [width, height], [0, height]], float)
    seen = corners + rng.uniform(0, 0.09, (4, 2)) * [width, height] * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    back = _homography(seen, corners)
    image = drawn.image.transform(
        (width, height), Image.Transform.PERSPECTIVE, tuple(back.reshape(-1)[:8]), Image.Resampling.BICUBIC,
        fillcolor=muted(rng),
    )  # fmt: skip
    pixels = np.asarray(image, np.float64)
    if rng.random() < 0.5:  # glare
        y, x = np.mgrid[0:height, 0:width]
        far = np.hypot((x - rng.uniform(0, width)) / width, (y - rng.uniform(0, height)) / height)
        pixels += 90 * rng.random() * np.exp(-((far / 0.3) ** 2))[..., None]
    pixels = pixels * rng.uniform(0.75, 1.05) * rng.uniform(0.94, 1.06, 3) + rng.normal(
        0, rng.uniform(1, 6), pixels.shape
    )
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9))))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(45, 92)))
    forward = np.linalg.inv(back)

    def place(x: float, y: float) -> tuple[float, float]:
        px, py, scale = forward @ (x, y, 1.0)
        return float(px / scale), float(py / scale)

    def moved(region: Region) -> Region:
        left, top, right, bottom = region.box
        box = hull(place(x, y) for x in (left, right) for y in (top, bottom))
        kept = (max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3]))
        return replace(region, box=kept)

    return replace(
        drawn, image=Image.open(buffer).convert("RGB"), regions=tuple(moved(region) for region in drawn.regions)
    )
