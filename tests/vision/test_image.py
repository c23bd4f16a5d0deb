"""Pictures: what is read, what is refused, and with which words."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from emova.core.errors import InputError
from emova.vision.image import ImageLimits, load_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def refusal(source, *limits: ImageLimits) -> str:
    with pytest.raises(InputError) as raised:
        load_image(source, *limits)
    message = str(raised.value)
    assert "\n" not in message and ";" in message, "one line with the reason and the fix"
    return message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats(tmp_path, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(Image.new("RGB", (30, 20), (200, 30, 40)), kind))
    image = load_image(path)
    assert image.mode == "RGB" and image.size == (30, 20)
    assert np.abs(np.asarray(image).astype(int) - [200, 30, 40]).max() < 12
    assert np.array_equal(np.asarray(image), np.asarray(load_image(path.read_bytes())))
    assert np.array_equal(np.asarray(image), np.asarray(load_image(io.BytesIO(path.read_bytes()))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_all_modes_become_rgb(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    assert load_image(image).mode == "RGB"
    if mode not in ("CMYK", "YCbCr"):
        assert load_image(encoded(image)).mode == "RGB"


def test_sixteen_bits_of_grey_are_scaled() -> None:
    values = np.asarray([[0, 128 << 8, 65535]], dtype=np.uint16)
    assert np.asarray(load_image(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_becomes_white() -> None:
    assert load_image(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (20, 30)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        pixel = load_image(data).getpixel((4, 4))
        assert isinstance(pixel, tuple) and pixel[0] > 200


def test_one_pixel_is_a_picture() -> None:
    assert load_image(encoded(Image.new("RGB", (1, 1), "red"))).size == (1, 1)


def test_huge_and_empty_pictures_are_refused_from_the_header() -> None:
    assert "smaller" in refusal(png_header(50_000, 50_000))
    assert "smaller" in refusal(png_header(2_000_000_000, 2_000_000_000))
    assert "smaller" in refusal(png_header(40_000, 10))
    refusal(png_header(0, 10))
    refusal(png_header(10, 0))
    assert "no content" in refusal(Image.new("RGB", (0, 5)))
    assert "smaller" in refusal(encoded(Image.new("RGB", (20, 20))), ImageLimits(max_pixels=399))
    assert "larger than" in refusal(encoded(Image.new("RGB", (20, 20))), ImageLimits(max_bytes=10))


def test_missing_folder_empty(tmp_path) -> None:
    assert "no such file" in refusal(tmp_path / "no.png")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty.png" in refusal(tmp_path / "empty.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), kind)
    for part in (0.1, 0.5, 0.9):
        refusal(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"no picture" * 30, bytes(3000), b"RIFF\x10\x00\x00\x00WEBP", b"%PDF-1.4", b"<svg/>"])
def test_files_without_a_picture_are_refused(data: bytes) -> None:
    assert "not a picture" in refusal(data) or "truncated" in refusal(data)


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        for _ in range(40):
            data = bytearray(encoded(picture, kind))
            for position in rng.integers(0, min(len(data), 200), 4):
                data[position] = rng.integers(256)
            try:
                assert load_image(bytes(data)).mode == "RGB"
            except InputError as error:
                assert "\n" not in str(error)


# --- many pixels in a small file --------------------------------------------------------------------------------------
_PEAK = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from emova.core.errors import InputError
from emova.vision.image import load_image
import numpy, PIL.Image
data = sys.stdin.buffer.read()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
before = peak()
try:
    with ThreadPoolExecutor() as pool:
        told = {image.size for image in pool.map(load_image, [data] * int(sys.argv[1]))}
except InputError as error:
    told = error
print(peak() - before, told)
"""


def peak_of(data: bytes, at_once: int = 1) -> tuple[int, str]:
    """By how many MiB a process grows that decodes ``data``, and what it says."""
    command = [sys.executable, "-c", _PEAK, str(at_once)]
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
    peak, told = done.stdout.decode().strip().split(" ", 1)
    return int(peak), told


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "I;16", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {"transparency": 0}),
        ("PNG", "RGBA", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("WEBP", "RGBA", {}),
        ("GIF", "P", {"transparency": 0}),
        ("BMP", "1", {}),
    ],
)
def test_no_small_file_takes_much_memory(kind: str, mode: str, options: dict) -> None:
    """40 megapixels in any format are decoded in a bounded space, or refused by their head."""
    data = encoded(Image.new(mode, (8000, 5000)), kind, **options)
    peak, told = peak_of(data)
    assert peak < 290, peak
    assert told == "{(4000, 2500)}" or "MiB to decode; make it smaller" in told
    if kind == "WEBP":
        assert "16.8 megapixels at most as WEBP" in told


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_large_pictures_are_decoded_one_after_the_other() -> None:
    """Three at once take no more than one of them and the results."""
    data = encoded(Image.new("RGBA", (8000, 5000)))
    (one, _), (three, told) = peak_of(data), peak_of(data, at_once=3)
    assert told == "{(4000, 2500)}" and three < one + 2 * 40 + 60, (one, three)


def test_what_a_decoder_would_hold_is_limited_by_the_head() -> None:
    data = encoded(Image.new("RGB", (100, 100)), "WEBP")
    limits = ImageLimits(max_decoded_bytes=159_999)
    assert re.search("100x100 pixels take .* to decode; make it smaller", refusal(data, limits))
    assert load_image(data, ImageLimits(max_decoded_bytes=160_000)).size == (100, 100)
    assert load_image(encoded(Image.new("RGB", (100, 100))), limits).size == (100, 100)


def test_a_large_picture_is_the_mean_of_its_pixels() -> None:
    """Made smaller in strips, it is what it would be in one piece; turned, flattened and scaled as small ones are."""
    rng = np.random.default_rng(0)
    limits = ImageLimits(max_kept_pixels=1_000_000)
    noise = Image.fromarray(rng.integers(0, 255, (1501, 1203, 4), dtype=np.uint8), "RGBA")
    for image in (noise, noise.convert("RGB"), noise.convert("L")):
        exif = Image.Exif()
        exif[0x0112] = 8
        whole = load_image(encoded(image, exif=exif))
        small = load_image(encoded(image, exif=exif), limits)
        assert whole.size == (1501, 1203) and small.size == (751, 602)
        upright = load_image(encoded(image)).reduce(2).transpose(Image.Transpose.ROTATE_90)
        assert np.array_equal(np.asarray(small), np.asarray(upright))
        assert np.array_equal(np.asarray(load_image(image, limits)), np.asarray(load_image(image).reduce(2)))


def test_a_large_jpeg_is_decoded_small() -> None:
    ramp = np.linspace(0, 255, 2000, dtype=np.uint8)[None].repeat(1000, 0)
    data = encoded(Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp], -1)), "JPEG", quality=95)
    small = load_image(data, ImageLimits(max_kept_pixels=500_000))
    assert small.size == (1000, 500)
    wanted = np.asarray(load_image(data).reduce(2)).astype(int)
    assert np.abs(np.asarray(small) - wanted).max() < 8


def test_pictures_of_usual_size_keep_each_pixel() -> None:
    values = np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(load_image(encoded(Image.fromarray(values), compress_level=1))), values)
