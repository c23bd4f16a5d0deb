"""Pictures that hold less than their header says: decoders fill what is missing and complain of nothing."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types


def holds_its_size(content: bytes, decoded: Image.Image) -> bool:
    """Whether a PNG or JPEG has the rows that its header promises; other formats fail to decode where they lack some.

    Args:
        content: the file.
        decoded: the same, as Pillow decoded it.
    """
    if content.startswith(b"\x89PNG"):
        return _png_is_filled(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg_is_filled(content, decoded)
    return True


def _png_is_filled(content: bytes) -> bool:
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    depth, colour, interlaced = content[24], content[25], content[28]
    if interlaced or colour not in _CHANNELS:
        return True
    wanted = height * (1 + -(-width * _CHANNELS[colour] * depth // 8))
    inflate, found, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(content) and found < wanted:
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"IDAT":
            try:
                found += len(inflate.decompress(content[at + 8 : at + 8 + length], wanted + 1 - found))
            except zlib.error:
                return False
        at += length + 12
    return found >= wanted


def _jpeg_is_filled(content: bytes, decoded: Image.Image) -> bool:
    """A strict decoder objects and the last rows are one colour: what libjpeg fills missing rows with."""
    last = np.asarray(decoded.convert("RGB"))[-4:].reshape(-1, 3)
    if np.ptp(last, axis=0).max() > 2:
        return True
    import av

    codec = av.CodecContext.create("mjpeg", "r")
    codec.options = {"err_detect": "explode"}
    try:
        return bool(codec.decode(av.Packet(content)))  # type: ignore[attr-defined]
    except av.FFmpegError:
        return False
