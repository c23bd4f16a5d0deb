"""What all kinds share: fonts, backgrounds, cards laid on them with a shadow, and the camera's faults.

What has edges is drawn at twice its size and reduced, which smooths them. Colours are RGB tuples of 0..255; sizes are
pixels of the finished 224 x 224 picture unless they are called ``big``.
"""

from __future__ import annotations

import colorsys
import functools
import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from emova_data.nano.pictures.regions import Box, Region, moved

SIZE = 224
SCALE = 2
BIG = SIZE * SCALE

Colour = tuple[int, int, int]
Rng = np.random.Generator

_FONT_FILES = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSansCondensed-Bold.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Bold.ttf",
    "/usr/share/fonts/truetype/freefont/FreeSansBold.ttf",
    "/usr/share/fonts/opentype/urw-base35/URWGothic-Demi.otf",
    "/usr/share/fonts/truetype/liberation/LiberationSerif-Bold.ttf",
)


@functools.cache
def fonts() -> tuple[str, ...]:
    """Bold font files found here; DejaVu as matplotlib carries it is always among them."""
    import matplotlib

    always = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return (str(always), *(f for f in _FONT_FILES if Path(f).is_file()))


@functools.lru_cache(maxsize=512)
def font(path: str, big: int) -> ImageFont.FreeTypeFont:
    """A font at a size in drawing pixels."""
    return ImageFont.truetype(path, big)


def pick_font(rng: Rng) -> str:
    """One font file for a picture."""
    return str(rng.choice(fonts()))


def fit_font(path: str, text: str, width: float, largest: int, smallest: int = 12) -> ImageFont.FreeTypeFont:
    """The largest font, in steps of a pixel, in which ``text`` is at most ``width`` wide (both finished pixels)."""
    for size in range(largest, smallest, -1):
        if font(path, size * SCALE).getlength(text) <= width * SCALE:
            return font(path, size * SCALE)
    return font(path, smallest * SCALE)


def uniform(rng: Rng, low: float, high: float) -> float:
    """A plain float."""
    return float(rng.uniform(low, high))


def chance(rng: Rng, share: float) -> bool:
    """True in this share of the draws."""
    return bool(rng.random() < share)


def jitter(rng: Rng, colour: Colour, amount: int = 14) -> Colour:
    """A colour near this one, never so far that its name changes."""
    r, g, b = (int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)
    return r, g, b


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (below one) or lighter."""
    r, g, b = (int(np.clip(c * factor, 0, 255)) for c in colour)
    return r, g, b


def luminance(colour: Colour) -> float:
    """0 (black) .. 255 (white)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def ink_on(rng: Rng, colour: Colour) -> Colour:
    """A text colour that is easy to read on ``colour``."""
    return jitter(rng, (246, 246, 242), 8) if luminance(colour) < 140 else jitter(rng, (26, 26, 34), 18)


def muted(rng: Rng, light: bool | None = None) -> Colour:
    """A greyish colour for backgrounds, that is none of the named ones."""
    bright = chance(rng, 0.7) if light is None else light
    value = uniform(rng, 0.66, 0.9) if bright else uniform(rng, 0.26, 0.46)
    r, g, b = colorsys.hsv_to_rgb(uniform(rng, 0, 1), uniform(rng, 0.03, 0.24), value)
    return int(r * 255), int(g * 255), int(b * 255)


def vivid(rng: Rng) -> Colour:
    """A strong colour for bars and decorations."""
    r, g, b = colorsys.hsv_to_rgb(uniform(rng, 0, 1), uniform(rng, 0.55, 0.9), uniform(rng, 0.5, 0.9))
    return int(r * 255), int(g * 255), int(b * 255)


def _smooth_noise(rng: Rng, cells: int, size: int) -> np.ndarray:
    grid = Image.fromarray(rng.random((cells, cells), np.float32) * 2 - 1)
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def background(rng: Rng, light: bool | None = None) -> Image.Image:
    """A 224 x 224 ground: wall, paper, wood, tiles, blurred room or a table before a wall."""
    size = SIZE
    first, second = np.array(muted(rng, light), np.float32), np.array(muted(rng, light), np.float32)
    second = first + (second - first) * uniform(rng, 0.15, 0.7)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) / size
    angle = uniform(rng, 0, 2 * math.pi)
    ramp = (np.cos(angle) * (xs - 0.5) + np.sin(angle) * (ys - 0.5)) + 0.5
    style = int(rng.integers(6))
    if style == 1:  # light falls on the middle
        ramp = 1.4 * np.hypot(xs - uniform(rng, 0.3, 0.7), ys - uniform(rng, 0.3, 0.7))
    pixels = first + (second - first) * np.clip(ramp, 0, 1)[..., None]
    if style == 2:  # wood: stretched noise along one direction
        grain = Image.fromarray(rng.random((int(rng.integers(20, 60)), 3), np.float32) * 2 - 1)
        wood = np.asarray(grain.resize((size, size), Image.Resampling.BICUBIC))
        pixels += (wood.T if chance(rng, 0.5) else wood)[..., None] * uniform(rng, 8, 18)
    elif style == 3:  # a table before a wall
        edge = uniform(rng, 0.5, 0.85) + 0.05 * (xs - 0.5) * uniform(rng, -1, 1)
        blend = np.clip((ys - edge) * uniform(rng, 12, 60), 0, 1)[..., None]
        pixels = pixels * (1 - blend) + np.array(muted(rng, light), np.float32) * blend
    elif style == 4:  # a room out of focus
        for channel in range(3):
            pixels[..., channel] += _smooth_noise(rng, int(rng.integers(3, 7)), size) * uniform(rng, 8, 26)
    elif style == 5:  # tiles
        count = uniform(rng, 2, 6)
        joint = np.minimum(np.abs((xs * count) % 1 - 0.5), np.abs((ys * count) % 1 - 0.5))
        pixels -= np.clip(1 - joint * size / count / 1.5, 0, 1)[..., None] * uniform(rng, 8, 22)
    if chance(rng, 0.6):  # grain of the material
        pixels += _smooth_noise(rng, int(rng.integers(24, 90)), size)[..., None] * uniform(rng, 2, 7)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def layer() -> Image.Image:
    """An empty transparent drawing of 448 x 448."""
    return Image.new("RGBA", (BIG, BIG), (0, 0, 0, 0))


def paste(rng: Rng, ground: Image.Image, top: Image.Image, at: tuple[int, int] = (0, 0), shadow: float = 0.4) -> None:
    """Lay a reduced RGBA picture on the ground in place, with a soft shadow below it (``shadow``: its darkness)."""
    alpha = top.getchannel("A")
    if shadow > 0:
        # A shadow is soft: it is made at half the size.
        pad = 8
        small = Image.new("L", (top.width // 2 + 2 * pad, top.height // 2 + 2 * pad))
        small.paste(alpha.resize((max(1, top.width // 2), max(1, top.height // 2)), Image.Resampling.BOX), (pad, pad))
        small = small.filter(ImageFilter.BoxBlur(uniform(rng, 1, 3)))
        mask = small.resize((small.width * 2, small.height * 2), Image.Resampling.BILINEAR)
        mask = mask.point([int(i * shadow) for i in range(256)])
        dx, dy = int(rng.integers(-5, 6)), int(rng.integers(1, 7))
        ground.paste((12, 12, 18), (at[0] - 2 * pad + dx, at[1] - 2 * pad + dy), mask)
    ground.paste(top.convert("RGB"), at, alpha)


def tilt(
    rng: Rng,
    drawing: Image.Image,
    regions: Iterable[Region],
    degrees: float = 4.0,
    shrink: tuple[float, float] = (0.93, 1.0),
    shift: float = 4.0,
) -> tuple[Image.Image, tuple[Region, ...]]:
    """Reduce a 448 x 448 layer, and turn, scale, shear and move it a little, as a hand-held camera would see it.

    The layer's regions move along.
    """
    angle = math.radians(uniform(rng, -degrees, degrees))
    scale = 1 / uniform(rng, *shrink)
    shear = uniform(rng, -0.04, 0.04)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    c = SIZE / 2
    tx, ty = uniform(rng, -shift, shift), uniform(rng, -shift, shift)
    a, b, d, e = cos, sin + shear, -sin, cos
    matrix = (a, b, c - a * (c + tx) - b * (c + ty), d, e, c - d * (c + tx) - e * (c + ty))
    top = drawing.reduce(SCALE).transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return top, tuple(moved(regions, matrix))


def _text(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, fill: Colour
) -> Box:
    draw.text(start, text, font=face, fill=fill)
    left, top, right, bottom = (value / SCALE for value in draw.textbbox(start, text, font=face))
    return left, top, right, bottom


def text_centre(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, fill: Colour
) -> Box:
    """Text whose ink is centred on a point (finished pixels); returns the ink's box."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=face)
    start = (at[0] * SCALE - (left + right) / 2, at[1] * SCALE - (top + bottom) / 2)
    return _text(draw, start, text, face, fill)


def text_left(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, fill: Colour
) -> Box:
    """Text that starts at a point and whose capitals are centred on it vertically; returns the ink's box.

    All in finished pixels.
    """
    _, top, _, bottom = draw.textbbox((0, 0), "H", font=face)
    return _text(draw, (at[0] * SCALE, at[1] * SCALE - (top + bottom) / 2), text, face, fill)


def light_from_above(rng: Rng, top: Image.Image, amount: float = 0.16) -> Image.Image:
    """Brighten one side of a layer and darken the other, which gives flat shapes a body."""
    slope = uniform(rng, -0.7, 0.7)
    xs = np.linspace(-0.5, 0.5, top.width, dtype=np.float32)
    ys = np.linspace(-0.5, 0.5, top.height, dtype=np.float32)
    factor = 1 - amount * (ys[:, None] + slope * xs[None])
    pixels = np.array(top)
    pixels[..., :3] = np.clip(pixels[..., :3] * factor[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def camera(rng: Rng, picture: Image.Image) -> Image.Image:
    """Add a camera's faults to a 224 x 224 picture: light, colour cast, vignette, blur, noise, JPEG blocks."""
    assert picture.size == (SIZE, SIZE)
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    contrast, brightness = uniform(rng, 0.86, 1.1), uniform(rng, -14, 14)
    cast = rng.uniform(-5, 5, 3).astype(np.float32)
    pixels = (pixels - 128) * contrast + 128 + brightness + cast
    if chance(rng, 0.5):
        ys, xs = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)  # type: ignore[misc]
        dx, dy = uniform(rng, -0.3, 0.3), uniform(rng, -0.3, 0.3)
        pixels *= 1 - uniform(rng, 0.05, 0.16) * ((xs - dx) ** 2 + (ys - dy) ** 2)[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if chance(rng, 0.35):
        image = image.filter(ImageFilter.GaussianBlur(uniform(rng, 0.2, 0.7)))
    if chance(rng, 0.3):
        channels = 1 if chance(rng, 0.5) else 3
        noise = rng.standard_normal((SIZE, SIZE, channels), np.float32) * np.float32(uniform(rng, 1.5, 6))
        image = Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
    if chance(rng, 0.5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
        image = Image.open(buffer).convert("RGB")
    return image


def rounded_card(rng: Rng, colour: Colour, inset: float = 4) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A layer with a sheet of paper nearly as large as the picture; draw on it."""
    sheet = layer()
    draw = ImageDraw.Draw(sheet)
    edge = inset * SCALE
    draw.rounded_rectangle((edge, edge, BIG - edge, BIG - edge), int(rng.integers(0, 28)), fill=(*colour, 255))
    return sheet, draw
