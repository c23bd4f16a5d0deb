"""Kinds "faces" and "weather": a face with a feeling, and a sky."""

from __future__ import annotations

import math

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import BIG, SCALE, Colour, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn
from emova_data.nano.pictures.regions import Box, Region, hull

_SKINS: tuple[Colour, ...] = (
    (250, 208, 60), (250, 208, 60), (246, 208, 176), (226, 172, 130), (172, 116, 76), (112, 72, 48), (150, 200, 130),
    (150, 180, 230),
)  # fmt: skip


def _box(points: list[tuple[float, float]], margin: float = 0) -> Box:
    """The box of big points, a big ``margin`` wider on all sides, in finished pixels."""
    left, top, right, bottom = hull(points)
    return (left - margin) / SCALE, (top - margin) / SCALE, (right + margin) / SCALE, (bottom + margin) / SCALE


def _face(rng: Rng, feeling: str) -> tuple[canvas.Image.Image, Box]:
    """The face and its box without hair and ears."""
    sheet = canvas.layer()
    pen = canvas.ImageDraw.Draw(sheet)
    skin = canvas.jitter(rng, _SKINS[int(rng.integers(len(_SKINS)))], 10)
    ink = canvas.jitter(rng, (40, 28, 24), 14)
    radius_x, radius_y = canvas.uniform(rng, 150, 186), canvas.uniform(rng, 160, 190)
    if canvas.chance(rng, 0.4):  # hair behind
        hair = canvas.jitter(rng, [(60, 40, 30), (30, 26, 26), (200, 160, 80), (150, 70, 40)][int(rng.integers(4))], 12)
        pen.ellipse((224 - radius_x - 14, 212 - radius_y - 22, 224 + radius_x + 14, 212 + radius_y * 0.5), fill=hair)
    if canvas.chance(rng, 0.4):
        for side in (-1, 1):
            x = 224 + side * radius_x
            pen.ellipse((x - 26, 194, x + 26, 260), fill=canvas.shade(skin, 0.94))
    edge = canvas.shade(skin, 0.7)
    pen.ellipse((224 - radius_x, 224 - radius_y, 224 + radius_x, 224 + radius_y), fill=skin, outline=edge, width=5)
    gap, eye_y = canvas.uniform(rng, 58, 78), canvas.uniform(rng, 168, 192)
    mouth_y, wide = canvas.uniform(rng, 290, 308), canvas.uniform(rng, 62, 92)
    stroke = int(rng.integers(11, 16))
    for side in (-1, 1):
        _eye(rng, pen, feeling, side, 224 + side * gap, eye_y, ink, stroke)
    if canvas.chance(rng, 0.4):
        pen.arc((212, 224, 236, 254), 20, 160, fill=edge, width=7)
    if feeling == "happy":
        if canvas.chance(rng, 0.5):
            pen.pieslice((224 - wide, mouth_y - 70, 224 + wide, mouth_y + 50), 10, 170, fill=(120, 24, 30), outline=ink)
            pen.rectangle((224 - wide * 0.7, mouth_y - 6, 224 + wide * 0.7, mouth_y + 8), fill=(250, 250, 250))
        else:
            pen.arc((224 - wide, mouth_y - 90, 224 + wide, mouth_y + 40), 15, 165, fill=ink, width=stroke)
    elif feeling == "sad":
        pen.arc((224 - wide, mouth_y, 224 + wide, mouth_y + 110), 200, 340, fill=ink, width=stroke)
    elif feeling == "angry":
        if canvas.chance(rng, 0.5):
            pen.arc((224 - wide, mouth_y + 6, 224 + wide, mouth_y + 100), 205, 335, fill=ink, width=stroke)
        else:
            box = (224 - wide * 0.8, mouth_y, 224 + wide * 0.8, mouth_y + 40)
            pen.rounded_rectangle(box, 12, fill=(250, 250, 250), outline=ink, width=9)
            for i in range(1, 5):
                x = box[0] + (box[2] - box[0]) * i / 5
                pen.line((x, box[1], x, box[3]), fill=ink, width=6)
    elif feeling == "surprised":
        r = canvas.uniform(rng, 26, 42)
        pen.ellipse((224 - r, mouth_y - r * 0.9, 224 + r, mouth_y + r * 1.3), fill=(110, 24, 30), outline=ink, width=7)
    else:
        r = canvas.uniform(rng, 12, 20)
        pen.ellipse((224 - r, mouth_y - r, 224 + r, mouth_y + r), fill=(110, 30, 34), outline=ink, width=6)
        path = canvas.pick_font(rng)
        for i, size in enumerate((30, 24, 18)):
            blue = canvas.jitter(rng, (60, 80, 150))
            canvas.text_centre(pen, (206 - 18 * i, 26 + 22 * i), "Z", canvas.font(path, size * 2), blue)
    return sheet, _box([(224 - radius_x, 224 - radius_y), (224 + radius_x, 224 + radius_y)])


def _eye(
    rng: Rng, pen: canvas.ImageDraw.ImageDraw, feeling: str, side: int, x: float, y: float, ink: Colour, stroke: int
) -> None:
    if feeling == "sleepy":
        pen.arc((x - 36, y - 30, x + 36, y + 26), 20, 160, fill=ink, width=stroke)
        return
    size = 34.0 if feeling == "surprised" else 26.0
    if feeling == "happy" and canvas.chance(rng, 0.25):
        pen.arc((x - 32, y - 16, x + 32, y + 44), 200, 340, fill=ink, width=stroke)
        return
    pen.ellipse((x - size, y - size * 1.15, x + size, y + size * 1.15), fill=(252, 252, 252), outline=ink, width=4)
    pupil = size * (0.42 if feeling == "surprised" else 0.55)
    drop = 8 if feeling == "sad" else 0
    pen.ellipse((x - pupil, y - pupil + drop, x + pupil, y + pupil + drop), fill=ink)
    brow = y - size * 1.15 - 16
    if feeling == "angry":
        pen.line((x - side * 40, brow + 26, x + side * 40, brow - 14), fill=ink, width=stroke + 3)
    elif feeling == "sad":
        pen.line((x - side * 36, brow - 14, x + side * 36, brow + 12), fill=ink, width=stroke)
        if side == 1:
            tear = (90, 160, 235)
            pen.ellipse((x - 14, y + 46, x + 14, y + 80), fill=tear)
            pen.polygon([(x - 13, y + 58), (x + 13, y + 58), (x, y + 28)], fill=tear)
    elif feeling == "surprised":
        pen.arc((x - 36, brow - 26, x + 36, brow + 24), 200, 340, fill=ink, width=stroke)


def draw_face(rng: Rng, split: str) -> Drawn:
    """One of five feelings."""
    feeling = str(rng.choice(v.FACES))
    ground = canvas.background(rng)
    sheet, box = _face(rng, feeling)
    face, placed = canvas.tilt(rng, sheet, [Region(f"{feeling} face", box)], 9.0, (0.8, 1.02), 10.0)
    canvas.paste(rng, ground, canvas.light_from_above(rng, face, 0.2))
    mood = v.FACE_MOODS[feeling]
    other = str(rng.choice([f for f in v.FACES if f != feeling]))
    asks = (
        Ask("feeling", feeling, mood=mood, weight=2.0),
        Ask("feeling", feeling, mood=mood, weight=2.0),
        Ask("feeling", feeling, mood=mood, weight=2.0),
        Ask("is_feeling", f"yes|{feeling}", feeling, mood),
        Ask("is_feeling", f"no|{feeling}", other, mood),
        Ask("kind", v.KIND_NAMES["faces"], weight=0.6),
    )
    caption = f"A drawing of a face that looks {feeling}."
    return Drawn(canvas.camera(rng, ground), {"feeling": feeling}, caption, asks, placed)


def _cloud(rng: Rng, pen: canvas.ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Colour) -> Box:
    """Draws; returns where the cloud is."""
    puffs = ((-0.62, 0.08, 0.36), (-0.22, -0.14, 0.46), (0.26, -0.08, 0.42), (0.66, 0.1, 0.32), (0.0, 0.14, 0.4))
    for dx, dy, r in puffs:
        r *= size * canvas.uniform(rng, 0.92, 1.08)
        pen.ellipse((x + dx * size - r, y + dy * size - r, x + dx * size + r, y + dy * size + r), fill=colour)
    return _box([(x - 0.98 * size, y - 0.6 * size), (x + 0.98 * size, y + 0.54 * size)])


def _sky(rng: Rng, weather: str) -> canvas.Image.Image:
    tops: dict[str, Colour] = {
        "sunny": (80, 160, 236), "cloudy": (156, 172, 190), "rainy": (108, 122, 142), "snowy": (168, 184, 208),
        "stormy": (58, 62, 82),
    }  # fmt: skip
    top = canvas.jitter(rng, tops[weather], 18)
    low = canvas.shade(top, canvas.uniform(rng, 1.1, 1.45))
    ramp = canvas.Image.linear_gradient("L").resize((BIG, BIG))
    sky = canvas.Image.new("RGB", (BIG, BIG), top)
    sky.paste(low, (0, 0), ramp)
    pen = canvas.ImageDraw.Draw(sky)
    ground: Colour = (236, 240, 246) if weather == "snowy" else canvas.jitter(rng, (88, 138, 66), 24)
    if weather in ("rainy", "stormy", "cloudy"):
        ground = canvas.shade(ground, 0.75)
    level = canvas.uniform(rng, 350, 400)
    hill = canvas.uniform(rng, 30, 110)
    pen.ellipse((-260, level - hill, 360, level + 420), fill=canvas.shade(ground, 0.9))
    pen.ellipse((100, level - hill * 0.6, 820, level + 460), fill=ground)
    pen.rectangle((0, level + 40, BIG, BIG), fill=ground)
    if canvas.chance(rng, 0.6):
        x = canvas.uniform(rng, 60, 390)
        pen.rectangle((x - 7, level - 30, x + 7, level + 36), fill=(96, 66, 42))
        leaf = (225, 230, 238) if weather == "snowy" else canvas.jitter(rng, (50, 108, 52), 16)
        pen.polygon([(x - 44, level - 10), (x + 44, level - 10), (x, level - 108)], fill=leaf)
    return sky


def draw_weather(rng: Rng, split: str) -> Drawn:
    """One of five kinds of weather over a field; the regions are of sun, clouds, lightning, all drops or all flakes."""
    weather = str(rng.choice(v.WEATHERS))
    picture = _sky(rng, weather)
    pen = canvas.ImageDraw.Draw(picture)
    x, y = canvas.uniform(rng, 120, 328), canvas.uniform(rng, 105, 160)
    boxes = []
    fallen = []
    if weather == "sunny":
        gold, r = canvas.jitter(rng, (255, 212, 40), 12), canvas.uniform(rng, 46, 72)
        turn = canvas.uniform(rng, 0, 1)
        for i in range(12):
            a = turn + i * math.pi / 6
            inner, outer = r * 1.2, r * canvas.uniform(rng, 1.5, 1.75)
            cos, sin = math.cos(a), math.sin(a)
            pen.line((x + inner * cos, y + inner * sin, x + outer * cos, y + outer * sin), fill=gold, width=12)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=gold)
        boxes.append(_box([(x, y)], 1.6 * r))
    else:
        grey = {"cloudy": 232, "rainy": 150, "snowy": 214, "stormy": 92}[weather] + int(rng.integers(-14, 15))
        for i in range(int(rng.integers(2, 4)) if weather == "cloudy" else int(rng.integers(1, 3))):
            tone = int(grey * (1 - 0.08 * i))
            place = (x + (i * 150 if x < 224 else -i * 150), y + 26 * i)
            colour = (tone, tone, min(255, tone + 6))
            boxes.append(_cloud(rng, pen, *place, canvas.uniform(rng, 84, 116), colour))
    if weather == "rainy":
        slant = canvas.uniform(rng, -16, 16)
        for _ in range(int(rng.integers(28, 48))):
            px, py = canvas.uniform(rng, 10, 438), canvas.uniform(rng, 200, 400)
            pen.line((px, py, px + slant, py + 36), fill=canvas.jitter(rng, (110, 176, 240), 14), width=7)
            fallen += [(px, py), (px + slant, py + 36)]
    elif weather == "snowy":
        for _ in range(int(rng.integers(34, 60))):
            px, py, r = canvas.uniform(rng, 10, 438), canvas.uniform(rng, 30, 420), canvas.uniform(rng, 5, 11)
            pen.ellipse((px - r, py - r, px + r, py + r), fill=(252, 253, 255))
            fallen.append((px, py))
    elif weather == "stormy":
        for _ in range(int(rng.integers(1, 3))):
            px, py = x + canvas.uniform(rng, -80, 80), y + 60
            bolt = [(0, 0), (44, 0), (22, 62), (58, 62), (-22, 176), (2, 88), (-34, 88)]
            pen.polygon([(px + bx, py + by) for bx, by in bolt], fill=canvas.jitter(rng, (255, 226, 60), 10))
            boxes.append(_box([(px - 34, py), (px + 58, py + 176)]))
    if fallen:
        boxes.append(_box(fallen, 8))
    mood = v.WEATHER_MOODS[weather]
    other = str(rng.choice([w for w in v.WEATHERS if w != weather]))
    asks = (
        Ask("weather", weather, mood=mood, weight=2.0),
        Ask("weather", weather, mood=mood, weight=2.0),
        Ask("weather", weather, mood=mood, weight=2.0),
        Ask("is_weather", f"yes|{weather}", weather, mood),
        Ask("is_weather", f"no|{weather}", other, mood),
        Ask("kind", v.KIND_NAMES["weather"], weight=0.6),
    )
    regions = [Region(weather, box) for box in boxes]
    top, placed = canvas.tilt(rng, picture.convert("RGBA"), regions, 3.0, (1.06, 1.15), 3.0)
    caption = f"A drawing of the weather: it is {weather}."
    return Drawn(canvas.camera(rng, top.convert("RGB")), {"weather": weather}, caption, asks, placed)
