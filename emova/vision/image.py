"""Pictures in: RGB, upright, first frame, within limits that are checked from the header before decoding."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.core.io import Source, read_source

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUPPORTED = "png, jpeg, webp, gif or bmp"


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted as a picture.

    Attributes:
        max_pixels: largest width times height, in pixels.
        max_side: largest width or height, in pixels.
        max_bytes: largest file, in bytes.
    """

    max_pixels: int = 40_000_000
    max_side: int = 32_768
    max_bytes: int = 64 << 20


def load_image(source: Source | Image.Image, limits: ImageLimits = ImageLimits()) -> Image.Image:
    """Decode a picture to an RGB image: its first frame, turned as its EXIF data says, on white where transparent.

    Args:
        source: a path, the file's bytes, a binary stream, or an image that is already decoded.

    Raises:
        InputError: missing, empty, truncated, no picture, zero-sized, or over a limit.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Image.Image):
        _check_size(source.size, "the picture", limits)
        return _flatten(source)
    data, name = read_source(source, "picture", limits.max_bytes)
    # Decoders raise errors of many kinds, some with internals in their messages: all mean one thing to a user.
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        size = opened.size
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too many pixels; make it smaller ({limits.max_pixels} pixels at most)") from None
    except Exception:
        raise InputError(f"{name}: not a picture that can be decoded; give {SUPPORTED}") from None
    _check_size(size, name, limits)
    try:
        with opened:
            opened.load()
            return _flatten(ImageOps.exif_transpose(opened))
    except Exception:
        raise InputError(f"{name}: the picture is damaged or truncated; copy or save it again") from None


def _check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name}: a picture of {width}x{height} pixels has no content; give another one")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise InputError(
            f"{name}: {width}x{height} pixels; make it smaller ({limits.max_pixels} pixels and {limits.max_side} a "
            "side at most)"
        )


def _flatten(image: Image.Image) -> Image.Image:
    """RGB on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        # 16 bits of grey: PIL would clip them at 255.
        import numpy as np

        values = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(background, layered).convert("RGB")
    return image.convert("RGB")
