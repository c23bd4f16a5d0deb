"""Source pictures of named things: four emoji sets and the tuxpaint stamps, as cropped RGBA cut-outs.

Every name has several different pictures. One of them, chosen by a hash, is never used in training, so that the test
also asks about drawings that were never seen.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emova.core.errors import InputError
from emova_data.nano.pictures.vocabulary import OBJECTS

STAMPS = Path("/usr/share/tuxpaint/stamps")
NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 176  # longest side of a cut-out, pixels
MIN_FOR_HELD_OUT = 4

# name -> (code points, each drawn by all four emoji sets; stamps without their common folder)
CATALOGUE: dict[str, tuple[str, str]] = {
    "cat": ("1f408 1f431 1f408-200d-2b1b", "animals/mammals/cats/kitten.svg seasonal/halloween/blackcat.png"),
    "dog": ("1f415 1f436 1f429 1f415-200d-1f9ba", "animals/mammals/dogs/dog.png animals/mammals/dogs/dingo.png"),
    "horse": ("1f40e 1f434", "animals/mammals/equines/horse.png"),
    "cow": ("1f404 1f42e", "animals/mammals/bovines/cow.png animals/mammals/bovines/cow_white.png"),
    "pig": (
        "1f416 1f437",
        "animals/mammals/pig.png animals/mammals/pig_golden.png animals/mammals/pig_golden2.png",
    ),
    "sheep": ("1f411", "animals/mammals/bovines/sheep.png animals/mammals/bovines/sheep_lamb.png"),
    "rabbit": (
        "1f407 1f430",
        "animals/mammals/rodents/rabbit.png animals/mammals/rodents/rabbit-2.png animals/mammals/rabbit_little.png",
    ),
    "elephant": ("1f418", "animals/mammals/elephant.png"),
    "lion": (
        "1f981",
        "animals/mammals/cats/lion.png animals/mammals/cats/lion-2.png",
    ),
    "bear": ("1f43b", "animals/mammals/bears/bear.png animals/mammals/bears/european-bear.png"),
    "monkey": ("1f412 1f435", "animals/mammals/apes/chimp.png"),
    "frog": ("1f438", "animals/amphibians/frog.png animals/amphibians/frog-1.png"),
    "fish": (
        "1f41f 1f420",
        "animals/fish/clownfish.png animals/fish/butterflyfish.png animals/fish/stripedfish.png"
        " animals/fish/coraltrout.png animals/fish/moonwrasse.png",
    ),
    "duck": ("1f986", "animals/birds/duck.png animals/birds/drake.png household/rubberduck.png"),
    "chicken": (
        "1f414 1f413",
        "animals/birds/hen.png animals/birds/chicken_profile.png animals/birds/rooster.png",
    ),
    "owl": ("1f989", "animals/birds/owl.png"),
    "penguin": (
        "1f427",
        "animals/birds/penguin.png animals/birds/little-penguin.png animals/birds/magellanic_penguin.png"
        " animals/birds/cartoon/tux.png",
    ),
    "bee": ("1f41d", "animals/insects/bee.svg"),
    "butterfly": (
        "1f98b",
        "animals/insects/cartoon/butterfly.png animals/insects/cartoon/monarchbutterfly.svg"
        " seasonal/easter/butterfly.png",
    ),
    "spider": (
        "1f577",
        "animals/insects/cartoon/spider.svg animals/insects/cartoon/spider2.svg seasonal/halloween/spider.png",
    ),
    "snail": ("1f40c", "animals/insects/cartoon/snail.png animals/insects/cartoon/snail2.png"),
    "zebra": ("1f993", "animals/mammals/equines/zebra.png animals/mammals/equines/zebra2.svg"),
    "apple": (
        "1f34e 1f34f",
        "food/fruit/apple_fuji.png food/fruit/apple_granny_smith.png food/fruit/apple_green.png"
        " food/fruit/apple_red.png food/fruit/cartoon/apple.svg food/fruit/apple_sierra_beauty.png",
    ),
    "banana": ("1f34c", "food/fruit/banana.png food/fruit/cartoon/banana.svg"),
    "orange": (
        "1f34a",
        "food/fruit/orange.png food/fruit/cartoon/orange.svg food/fruit/orange_seville.png food/fruit/mandarine.png"
        " food/fruit/sliced_orange.png",
    ),
    "strawberry": (
        "1f353",
        "food/fruit/strawberry.png food/fruit/Strawberry2.png food/fruit/cartoon/strawberry.svg",
    ),
    "pineapple": ("1f34d", "food/fruit/pineapple.png food/fruit/cartoon/pineapple.svg"),
    "tomato": ("1f345", "food/vegetables/tomato.png"),
    "carrot": ("1f955", "food/vegetables/carrot.png"),
    "mushroom": (
        "1f344",
        "food/vegetables/mushroom.png plants/toadstool.svg plants/mushrooms/cep-1.png plants/mushrooms/cep.png",
    ),
    "cheese": ("1f9c0", "food/cheese.svg"),
    "cake": (
        "1f382 1f370",
        "food/dessert/cartoon/birthday_cake.svg food/dessert/cartoon/pink_cake.svg food/dessert/smallcake.svg",
    ),
    "car": (
        "1f697 1f699",
        "vehicles/auto/beetle.png vehicles/auto/sedan.png vehicles/auto/sportscar.svg"
        " vehicles/auto/sportscar2.png vehicles/auto/sportscar3.svg",
    ),
    "bus": (
        "1f68c 1f68d",
        "vehicles/iso_bus.svg vehicles/masstransit/cartoon/double_decker_bus.png"
        " vehicles/masstransit/cartoon/schoolbus.svg vehicles/masstransit/green_korean_bus.png",
    ),
    "train": (
        "1f682 1f686",
        "vehicles/locomotive/cartoon/toy_train.png vehicles/locomotive/white_train.svg",
    ),
    "plane": (
        "2708 1f6e9",
        "vehicles/flight/planes/747.png vehicles/flight/planes/plane.svg military/vehicles/mustang.svg",
    ),
    "boat": (
        "26f5 1f6a4 1f6e5",
        "vehicles/ship/sail_boat1.svg vehicles/ship/sail_boat2.svg vehicles/ship/cartoon/tugboat.png"
        " vehicles/ship/chineseJunk.png",
    ),
    "bicycle": ("1f6b2", "vehicles/cycle/bluebike.svg"),
    "rocket": (
        "1f680",
        "space/rocket1.svg space/rocket2.svg space/rocket3.svg space/rocket4.svg space/rocket5.svg space/toyrocket.svg",
    ),
    "guitar": (
        "1f3b8",
        "hobbies/music/string/guitar2.png hobbies/music/string/guitar_classical.png"
        " hobbies/music/string/guitar_electric.png hobbies/music/string/guitar_electric_bass2.svg",
    ),
    "camera": (
        "1f4f7 1f4f8",
        "hobbies/camera_35mm.png household/electronics/DSLR_Camera.svg household/electronics/camera.svg"
        " household/electronics/digitalcamera.svg",
    ),
    "key": ("1f511 1f5dd", "household/key.png"),
    "umbrella": ("2602 2614", "household/umbrella.svg"),
    "hammer": (
        "1f528",
        "household/tools/hammer.png household/tools/hammer2.svg household/tools/mallet_metal.png",
    ),
    "house": (
        "1f3e0 1f3e1",
        "town/houses/cartoon/pinkhome.svg town/houses/cartoon/swisshome.svg town/houses/cartoon/wooden_cottage.svg",
    ),
    "tree": (
        "1f333 1f332",
        "plants/trees/birch.png plants/trees/holm_oak.png seasonal/christmas/tree.png plants/trees/tree336.png",
    ),
    "flower": (
        "1f33b 1f33c 1f337 1f339 1f338",
        "plants/flowers/daffodil.png plants/flowers/flower1.png plants/flowers/flower2.png"
        " plants/flowers/flower3.png plants/flowers/flower5.png plants/flowers/marigold.png"
        " plants/flowers/rose.png plants/flowers/red-gazania.png",
    ),
    "balloon": ("1f388", "seasonal/balloon.svg vehicles/flight/balloon360.png"),
    "snowman": (
        "26c4 2603",
        "people/cartoon/snowman.png seasonal/winter/snowman.svg seasonal/winter/snowman2.svg",
    ),
    "crown": ("1f451", "clothes/hats/crown1.svg"),
    "fire": ("1f525", ""),
    "broken heart": ("1f494", ""),
}

_SETS = ("openmoji", "twemoji", "noto", "fluent")


@dataclass(frozen=True)
class Cutout:
    """One source picture. ``image``: RGBA, cropped, at most ``SIZE`` pixels a side. ``held_out``: test split only."""

    name: str
    source: str
    image: Image.Image
    held_out: bool


Library = Mapping[str, Sequence[Cutout]]


def _crop(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 20)).getbbox()
    if box is None:
        raise InputError("a source picture is empty")
    image = image.crop(box)
    scale = SIZE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Premultiplied, so that no dark or white fringe appears at the edges.
    pixels = np.asarray(image, np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    small = [Image.fromarray(pixels[..., c]).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0) for c in range(4)]
    out = np.stack([np.asarray(p) for p in small], -1)
    alpha = np.clip(out[..., 3:], 0, 255)
    rgb = np.where(alpha > 1, out[..., :3] * 255 / np.maximum(alpha, 1), 0)
    return Image.fromarray(np.concatenate([np.clip(rgb, 0, 255), alpha], -1).astype(np.uint8), "RGBA")


def _svg(path: Path) -> Image.Image:
    import resvg_py  # a build-time dependency of the recipe only

    text = path.read_text(encoding="utf-8", errors="replace")
    # Without dpi, sizes in points are taken for empty.
    data = resvg_py.svg_to_bytes(svg_string=text, width=300, dpi=96.0, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data)))


def _stamp(path: Path) -> Image.Image:
    if path.suffix == ".svg":
        return _svg(path)
    with Image.open(path) as image:
        return image.convert("RGBA")


def _noto(code: str) -> Image.Image | None:
    text = "".join(chr(int(part, 16)) for part in code.split("-"))
    font = ImageFont.truetype(str(NOTO), 109)
    image = Image.new("RGBA", (300, 160))
    ImageDraw.Draw(image).text((10, 10), text + ("" if "-" in code else "\ufe0f"), font=font, embedded_color=True)
    return image if image.getchannel("A").getbbox() else None


def _emoji(sources: Path, kind: str, code: str) -> Image.Image | None:
    if kind == "noto":
        return _noto(code) if NOTO.is_file() else None
    folder = sources / kind
    candidates = {
        "openmoji": [f"svg/{code.upper()}.svg"],
        "twemoji": [f"{code}.svg"],
        "fluent": [f"{code}.webp", f"{code}-fe0f.webp"],
    }[kind]
    for name in candidates:
        path = folder / name
        if path.is_file():
            return _stamp(path)
    return None


def held_out_source(sources: Iterable[str]) -> str:
    """The source picture of a name that only the test uses."""
    return min(sources, key=lambda source: hashlib.sha256(f"held out {source}".encode()).digest())


def load_library(sources: Path) -> dict[str, list[Cutout]]:
    """Read and cut out all source pictures below ``sources`` (the recipe's sources folder) and of the stamps package.

    Raises:
        InputError: a name has fewer than two pictures, since the sources are not there.
    """
    library: dict[str, list[Cutout]] = {}
    for name in OBJECTS:
        codes, stamps = CATALOGUE[name]
        found: list[tuple[str, Image.Image]] = []
        for code in codes.split():
            for kind in _SETS:
                image = _emoji(sources, kind, code)
                if image is not None:
                    found.append((f"{kind}/{code}", image))
        for stamp in stamps.split():
            path = STAMPS / stamp
            if path.is_file():
                found.append((f"stamps/{stamp}", _stamp(path)))
        if len(found) < 2:
            raise InputError(
                f"pictures of '{name}' are missing; run `emova data fetch nano` and install tuxpaint-stamps-default"
            )
        held = held_out_source(source for source, _ in found) if len(found) >= MIN_FOR_HELD_OUT else ""
        library[name] = [Cutout(name, source, _crop(image), source == held) for source, image in found]
    return library
