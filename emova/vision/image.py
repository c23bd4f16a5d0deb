"""Pictures in: RGB, upright, first frame, within limits that are checked from the header before decoding.

A large picture is made smaller while it is decoded, and two of them are never decoded at once: a small file can hold
many pixels.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.core.io import Source, read_source

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image

    Picture: TypeAlias = Source | Image.Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUPPORTED = "png, jpeg, webp, gif or bmp"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_UPRIGHT = 1
# What a decoder holds for each pixel, in bytes, by the mode it decodes to. PIL keeps three channels in four bytes.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_WIDEST = 4
_CANVAS_BYTES = 16  # four canvases of four channels, as WebP's decoder and its younger kin hold
_CANVAS_FORMATS = ("WEBP", "AVIF", "HEIF")
_PROGRESSIVE_BYTES = 6  # a progressive JPEG's coefficients, all of which are kept until its end
_STRIP_PIXELS = 1 << 20  # converted at once
_LARGE_PIXELS = 4_000_000  # from here on, one at a time


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted as a picture.

    Attributes:
        max_pixels: largest width times height, in pixels.
        max_side: largest width or height, in pixels.
        max_bytes: largest file, in bytes.
        max_decoded_bytes: most that the decoder may hold, in bytes.
        max_kept_pixels: a picture of more pixels is made smaller by the least whole factor that brings it below.
    """

    max_pixels: int = 40_000_000
    max_side: int = 32_768
    max_bytes: int = 64 << 20
    max_decoded_bytes: int = 256 << 20
    max_kept_pixels: int = 16_000_000


def load_image(source: Source | Image.Image, limits: ImageLimits = ImageLimits()) -> Image.Image:
    """Decode a picture to an RGB image: its first frame, turned as its EXIF data says, on white where transparent.

    Args:
        source: a path, the file's bytes, a binary stream, or an image that is already decoded.

    Raises:
        InputError: missing, empty, truncated, no picture, zero-sized, or over a limit.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_image(source, limits)
    data, name = read_source(source, "picture", limits.max_bytes)
    formats = (*FORMATS, *_extra_formats(data, name))
    # Decoders raise errors of many kinds, some with internals in their messages: all mean one thing to a user.
    try:
        opened = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too many pixels; make it smaller ({limits.max_pixels} pixels at most)") from None
    except Exception:
        raise InputError(f"{name}: not a picture that can be decoded; give {SUPPORTED}") from None
    with opened:
        _check_size(opened.size, name, limits)
        width, height = opened.size
        factor = _factor(opened.size, limits)
        if factor > 1:
            # A JPEG is decoded at a half, a quarter or an eighth; of other formats nothing happens.
            opened.draft(None, (-(-width // factor), -(-height // factor)))
        held = _held_bytes(opened, width * height)
        if held > limits.max_decoded_bytes:
            most = limits.max_decoded_bytes * width * height / held / 1e6
            raise InputError(
                f"{name}: {width}x{height} pixels take {held >> 20} MiB to decode; make it smaller "
                f"({most:.1f} megapixels at most as {opened.format}), or save it as png"
            )
        try:
            if width * height < _LARGE_PIXELS:
                return _decoded(opened, limits)
            return _large_ones().submit(_decoded, opened, limits).result()
        except Exception:
            raise InputError(f"{name}: the picture is damaged or truncated; copy or save it again") from None


def _from_image(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """An image of PIL's, opened or made by the caller: the same pixels as by its path. Raises: InputError."""
    from PIL import ExifTags

    _check_size(image.size, "the picture", limits)
    try:
        image.load()
        ready = image.mode == "RGB" and "transparency" not in image.info and _factor(image.size, limits) == 1
        if ready and image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) == _UPRIGHT:
            return image
        return _upright(image, limits)
    except Exception:  # closed, cut short, of a mode that PIL itself cannot convert
        raise InputError("the picture: closed, damaged or truncated; open it again, or give its path") from None


def _extra_formats(data: bytes, name: str) -> tuple[str, ...]:
    """PIL's names of formats that not every installation reads. Raises: InputError: the decoder is missing."""
    from PIL import features

    if data[4:8] != b"ftyp":
        return ()
    if data[8:12] in _AVIF_BRANDS:
        if features.check("avif"):
            return ("AVIF",)
        raise InputError(f"{name}: an AVIF picture; pip install a newer pillow, or save it as one of {SUPPORTED}")
    if data[8:12] not in _HEIF_BRANDS:
        return ()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(f"{name}: a HEIC picture; pip install pillow-heif, or save it as one of {SUPPORTED}") from None
    register_heif_opener()
    return ("HEIF",)


@lru_cache(maxsize=1)
def _large_ones() -> ThreadPoolExecutor:
    """One thread for all large pictures.

    A lock would do for one at a time, but glibc gives each thread a heap and keeps it: every thread of a server would
    come to hold the pixels of a large picture.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="large-picture")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_large_ones.cache_clear)  # threads do not live on in a forked process


def _decoded(opened: Image.Image, limits: ImageLimits) -> Image.Image:
    opened.load()
    image = _upright(opened, limits)
    opened.close()  # frees its pixels now, before the next large picture's turn
    return image


def _upright(opened: Image.Image, limits: ImageLimits) -> Image.Image:
    from PIL import ImageOps

    image = _flatten(opened, _factor(opened.size, limits))
    # How the picture is turned stands there; what was transparent is white now.
    image.info = {name: value for name, value in opened.info.items() if name != "transparency"}
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _factor(size: tuple[int, int], limits: ImageLimits) -> int:
    """By how much both sides are divided."""
    width, height = size
    factor = 1
    while -(-width // factor) * -(-height // factor) > limits.max_kept_pixels and factor < max(size):
        factor += 1
    return factor


def _held_bytes(opened: Image.Image, pixels: int) -> int:
    """What decoding will hold, from the head; ``pixels`` are those of the file, ``opened`` may give fewer."""
    if opened.format in _CANVAS_FORMATS:
        return pixels * _CANVAS_BYTES
    given = opened.width * opened.height * _MODE_BYTES.get(opened.mode, _WIDEST)
    return given + (pixels * _PROGRESSIVE_BYTES if opened.info.get("progressive") else 0)


def _check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name}: a picture of {width}x{height} pixels has no content; give another one")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise InputError(
            f"{name}: {width}x{height} pixels; make it smaller ({limits.max_pixels} pixels and {limits.max_side} a "
            "side at most)"
        )


def _flatten(image: Image.Image, factor: int) -> Image.Image:
    """RGB on white, each side divided by ``factor``. Done in strips, so that no second whole picture is held."""
    from PIL import Image

    width, height = image.size
    flat = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(1, _STRIP_PIXELS // width // factor) * factor
    for top in range(0, height, rows):
        strip = _on_white(image.crop((0, top, width, min(height, top + rows))))
        flat.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return flat


def _on_white(image: Image.Image) -> Image.Image:
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
