"""A picture whose header promises more rows than the file holds is found out, whole ones are not."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from emova_data.records.records import BadRecord, image_media


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(content: bytes, width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def jpeg_of(content: bytes, width: int, height: int) -> bytes:
    at = next(content.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in content)
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_whole_pngs_pass(mode: str) -> None:
    assert image_media(encoded("PNG", (63, 47), mode)).member == "0.png"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 5}, {"subsampling": 0}])
def test_whole_jpegs_pass(options: dict[str, Any]) -> None:
    assert image_media(encoded("JPEG", **options)).member == "0.jpg"
    plain = io.BytesIO()
    Image.new("RGB", (50, 30), "grey").save(plain, "JPEG", **options)
    assert image_media(plain.getvalue()).member == "0.jpg"


@pytest.mark.parametrize(("width", "height"), [(64, 4000), (64, 96)])
def test_missing_rows_are_found_out(width: int, height: int) -> None:
    for lying in (png_of(encoded("PNG"), width, height), jpeg_of(encoded("JPEG"), width, height)):
        with pytest.raises(BadRecord, match="an image that lies about its size"):
            image_media(lying)


@pytest.mark.parametrize("length", [40, 200, 1000])
def test_cut_files_cannot_be_decoded(length: int) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        with pytest.raises(BadRecord, match="an image that cannot be decoded"):
            image_media(encoded(kind)[:length])
