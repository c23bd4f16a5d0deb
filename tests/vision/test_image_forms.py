"""One picture, handed over as a path, as bytes or as an image of PIL's: the same pixels, or the same kind of error."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emova.core.errors import InputError
from emova.model import EmovaImageProcessor
from emova.vision.image import load_image

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8))


def saved(image: Image.Image, form: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def transparent(mode: str) -> Image.Image:
    image = RGB.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(RGB.size))
    return image.convert(mode) if mode == "LA" else image


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


FILES = {
    "RGB": saved(RGB),
    "L": saved(RGB.convert("L")),
    "1": saved(RGB.convert("1")),
    "P": saved(RGB.convert("P")),
    "RGBA": saved(transparent("RGBA")),
    "LA": saved(transparent("LA")),
    "P with a transparent colour": saved(RGB.convert("P"), transparency=3),
    "GIF": saved(RGB.convert("P"), "GIF", transparency=3),
    "CMYK": saved(RGB.convert("CMYK"), "JPEG"),
    "I;16": saved(Image.fromarray(np.asarray(RGB.convert("L"), np.uint16) * 257)),
    **{f"turned {number}": saved(RGB, "JPEG", exif=exif(number)) for number in range(1, 9)},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_an_opened_image_has_the_pixels_of_its_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    wanted = load_image(path)
    opened = Image.open(path)
    assert np.array_equal(np.asarray(load_image(opened)), np.asarray(wanted))
    assert np.array_equal(np.asarray(load_image(load_image(opened))), np.asarray(wanted))
    processor = EmovaImageProcessor(tile_size=28)
    assert processor.tiles(Image.open(path))[1].equal(processor.tiles(wanted)[1])


@pytest.mark.parametrize("name", ["transp_red.png", "wide_exif6.jpg"])
def test_the_handed_pictures(name: str) -> None:
    opened = load_image(Image.open(CASES / name))
    assert np.array_equal(np.asarray(opened), np.asarray(load_image(CASES / name)))


def test_grey_in_32_bits_is_a_picture() -> None:
    assert load_image(RGB.convert("I")).mode == load_image(RGB.convert("F")).mode == "RGB"


def test_closed_and_damaged_images_are_told() -> None:
    closed = Image.open(io.BytesIO(FILES["RGB"]))
    closed.close()
    cut = Image.open(io.BytesIO(FILES["turned 1"][:-60]))
    for image in (closed, cut):
        with pytest.raises(InputError, match="closed, damaged or truncated"):
            load_image(image)


def test_heic_is_read_or_told() -> None:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        for _ in range(2):  # and the same the second time
            with pytest.raises(InputError, match="HEIC picture; pip install pillow-heif"):
                load_image(CASES / "photo.heic")
    else:
        assert load_image(CASES / "photo.heic").mode == "RGB"


def test_avif_is_read_where_pillow_can() -> None:
    features = pytest.importorskip("PIL.features")
    if not features.check("avif"):
        pytest.skip("pillow without AVIF")
    plain = Image.new("RGB", (64, 48), (200, 30, 90))
    found = load_image(saved(plain, "AVIF", quality=100))
    assert found.size == plain.size and np.abs(np.asarray(found, float) - np.asarray(plain)).max() < 12
