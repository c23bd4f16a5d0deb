"""Kind "scenes": one to five coloured shapes, in five places or three in a row."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import SCALE, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn, listing
from emova_data.nano.pictures.regions import Region, opaque_box

_CENTRES = {
    "top left": (56, 56),
    "top right": (168, 56),
    "bottom left": (56, 168),
    "bottom right": (168, 168),
    "middle": (112, 112),
}
_ROW = ((42, 112), (112, 112), (182, 112))


def outline(shape: str) -> list[tuple[float, float]]:
    """Corner points of a shape in a circle of radius one."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(math.sin(a) * 1.05, 0.18 - math.cos(a) * 1.05) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    if shape == "star":
        return [
            (math.sin(i * math.pi / 5) * (1.08 if i % 2 == 0 else 0.46),
             0.06 - math.cos(i * math.pi / 5) * (1.08 if i % 2 == 0 else 0.46))
            for i in range(10)
        ]  # fmt: skip
    if shape == "heart":
        points = []
        for i in range(48):
            t = 2 * math.pi * i / 48
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x / 17, -(y + 2) / 16))
        return points
    return [(math.cos(2 * math.pi * i / 60), math.sin(2 * math.pi * i / 60)) for i in range(60)]


def draw_shape(rng: Rng, shape: str, colour: str, radius: float) -> Image.Image:
    """One shape as RGBA, shaded, with or without an outline; ``radius`` in finished pixels."""
    big = int(radius * SCALE)
    side = int(big * 2.6)
    tile = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    fill = canvas.jitter(rng, v.COLOURS[colour], 12)
    turn = math.radians(canvas.uniform(rng, -12, 12))
    cos, sin, centre = big * math.cos(turn), big * math.sin(turn), side / 2
    points = [(centre + x * cos - y * sin, centre + x * sin + y * cos) for x, y in outline(shape)]
    edge = canvas.shade(fill, 0.6) if canvas.luminance(fill) > 60 else (92, 92, 96)
    width = int(rng.integers(3, 7)) if canvas.chance(rng, 0.5) or colour in ("white", "black") else 0
    draw = ImageDraw.Draw(tile)
    draw.polygon(points, fill=(*fill, 255))
    if width:
        draw.line([*points, points[0], points[1]], fill=(*edge, 255), width=width, joint="curve")
    return canvas.light_from_above(rng, tile.reduce(SCALE), canvas.uniform(rng, 0.0, 0.4))


def draw(rng: Rng, split: str) -> Drawn:
    """Shapes with distinct (colour, shape) pairs."""
    row = canvas.chance(rng, 0.3)
    count = 3 if row else int(rng.integers(1, 6))
    if row:
        shapes = [str(s) for s in rng.permutation(v.SHAPES)[:3]]
        colours = [str(c) for c in rng.permutation(list(v.COLOURS))[:3]]
        pairs = list(zip(colours, shapes, strict=True))
        places = ["", "middle", ""]
        centres = list(_ROW)
    else:
        # Two or three sorts of shape make counting worth asking.
        sorts = [str(s) for s in rng.permutation(v.SHAPES)[: int(rng.integers(1, 4))]]
        pool = [(c, s) for c in v.COLOURS for s in sorts]
        pairs = [pool[int(i)] for i in rng.permutation(len(pool))[:count]]
        places = [str(p) for p in rng.permutation(v.PLACES)[:count]]
        centres = [_CENTRES[p] for p in places]
    ground = canvas.background(rng, light=None)
    regions = []
    for (colour, shape), (x, y) in zip(pairs, centres, strict=True):
        radius = canvas.uniform(rng, 26, 33)
        tile = draw_shape(rng, shape, colour, radius)
        dx, dy = canvas.uniform(rng, -7, 7), canvas.uniform(rng, -7, 7) * (2.5 if row else 1)
        at = (round(x + dx - tile.width / 2), round(y + dy - tile.height / 2))
        canvas.paste(rng, ground, tile, at, shadow=canvas.uniform(rng, 0.1, 0.45))
        regions.append(Region(f"{colour} {shape}", opaque_box(tile, at)))
    facts = {
        "shapes": [
            {"colour": c, "shape": s, "place": p} for (c, s), p in zip(pairs, places, strict=True)
        ],
        "row": row,
    }  # fmt: skip
    if row:
        left, middle, right = (v.with_article(f"{c} {s}") for c, s in pairs)
        caption = f"There are three shapes in a row: {left}, {middle} and {right}."
    else:
        parts = [
            f"{v.with_article(f'{c} {s}')} {'in' if p == 'middle' else 'at'} the {p}"
            for (c, s), p in zip(pairs, places, strict=True)
        ]
        number = f"{v.NUMBERS[count]} {v.plural('shape', count)}"
        caption = f"There {'is' if count == 1 else 'are'} {number}: {listing(parts)}."
    return Drawn(canvas.camera(rng, ground), facts, caption, tuple(_asks(rng, pairs, places, row)), tuple(regions))


def _asks(rng: Rng, pairs: list[tuple[str, str]], places: list[str], row: bool) -> list[Ask]:
    shapes = [s for _, s in pairs]
    colours = [c for c, _ in pairs]
    asks = [Ask("count", v.NUMBERS[len(pairs)], weight=1.2), Ask("kind", v.KIND_NAMES["scenes"], weight=0.2)]
    for shape in dict.fromkeys(shapes):
        asks.append(Ask("count_shape", f"{v.NUMBERS[shapes.count(shape)]}|{shape}", shape, weight=0.6))
    missing = [s for s in v.SHAPES if s not in shapes]
    if canvas.chance(rng, 0.3):
        shape = str(rng.choice(missing))
        asks.append(Ask("count_shape", f"no|{shape}", shape, weight=0.5))
    for colour, shape in pairs:
        if shapes.count(shape) == 1:
            asks.append(Ask("colour", colour, shape, weight=1.0))
        if colours.count(colour) == 1:
            asks.append(Ask("shape", shape, colour, weight=0.8))
    if row:
        asks.append(Ask("left_of", " ".join(pairs[0]), shapes[1], weight=3.0))
        asks.append(Ask("right_of", " ".join(pairs[2]), shapes[1], weight=3.0))
    else:
        for (colour, shape), place in zip(pairs, places, strict=True):
            asks.append(Ask("where", place, f"{colour} {shape}", weight=1.0))
            where = f"{'in' if place == 'middle' else 'at'} the {place}"
            asks.append(Ask("at_place", f"{colour} {shape}", where, weight=0.8))
    # Yes and no are asked equally often.
    there, absent = str(rng.choice(shapes)), str(rng.choice(missing))
    asks += [Ask("is_there", f"yes|{there}", there, weight=0.5), Ask("is_there", f"no|{absent}", absent, weight=0.5)]
    there = f"{rng.choice(colours)} shape"
    absent = f"{rng.choice([c for c in v.COLOURS if c not in colours])} shape"
    asks += [Ask("is_there", f"yes|{there}", there, weight=0.5), Ask("is_there", f"no|{absent}", absent, weight=0.5)]
    return asks
