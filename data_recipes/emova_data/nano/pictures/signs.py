"""Kind "signs": a word or two on a coloured sign."""

from __future__ import annotations

import math

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import BIG, SCALE, Colour, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn, Told
from emova_data.nano.pictures.regions import Box, Region


def _plate(
    rng: Rng, colour: Colour, ink: Colour, lines: int
) -> tuple[canvas.Image.Image, canvas.ImageDraw.ImageDraw, float, Box]:
    """The sign without its word, how wide the word may be, and the sign's box."""
    sheet = canvas.layer()
    pen = canvas.ImageDraw.Draw(sheet)
    style = int(rng.integers(4))
    centre = BIG / 2
    if canvas.chance(rng, 0.4):
        half = int(rng.integers(8, 14))
        pen.rectangle((centre - half, centre, centre + half, BIG), fill=(120, 120, 124, 255))
    border = canvas.chance(rng, 0.6)
    if style == 0:  # octagon
        radius = 104 * SCALE
        for r, fill in ((radius, colour), (radius - 12, ink), (radius - 20, colour)):
            if r == radius or border:
                angles = [math.pi / 8 + i * math.pi / 4 for i in range(8)]
                points = [(centre + r * math.cos(a), centre + r * math.sin(a)) for a in angles]
                pen.polygon(points, fill=(*fill, 255))
        half_side = 104 * math.cos(math.pi / 8)
        return sheet, pen, 164.0, (112 - half_side, 112 - half_side, 112 + half_side, 112 + half_side)
    if style == 1:  # disc
        radius = 103 * SCALE
        pen.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=(*colour, 255))
        if border:
            inner = radius - 12
            pen.ellipse((centre - inner, centre - inner, centre + inner, centre + inner), outline=(*ink, 255), width=8)
        return sheet, pen, 162.0, (9, 9, 215, 215)
    half_height = int(rng.integers(46, 74) + 18 * (lines - 1)) * SCALE
    box = (8 * SCALE, centre - half_height, BIG - 8 * SCALE, centre + half_height)
    pen.rounded_rectangle(box, int(rng.integers(0, 44)), fill=(*colour, 255))
    if border:
        inset = (box[0] + 10, box[1] + 10, box[2] - 10, box[3] - 10)
        pen.rounded_rectangle(inset, int(rng.integers(0, 30)), outline=(*ink, 255), width=7)
    return sheet, pen, 178.0, (8, box[1] / SCALE, 216, box[3] / SCALE)


def told(word: str, name: str, other: str) -> Told:
    """What is said of a sign in a colour's ``name``, whatever program drew it; ``other`` is a word that it does not
    say."""
    mood = v.SIGN_MOODS.get(word, v.PLAIN)
    asks = (
        Ask("says", word, mood=mood, weight=2.5),
        Ask("says", word, mood=mood, weight=2.5),
        Ask("says", word, mood=mood, weight=2.5),
        Ask("sign_colour", name, mood=mood, weight=1.5),
        Ask("does_it_say", f"yes|{word}", word, mood, 0.8),
        Ask("does_it_say", f"no|{word}", other, mood, 0.8),
        Ask("kind", v.KIND_NAMES["signs"], weight=0.3),
    )
    caption = f"A {name} sign that says {word}." if name != "orange" else f"An orange sign that says {word}."
    return Told(caption, asks)


def draw(rng: Rng, split: str) -> Drawn:
    """Any word on any colour, so that neither gives the other away."""
    word = str(rng.choice(v.SIGNS))
    name = str(rng.choice(list(v.SIGN_COLOURS)))
    colour = canvas.jitter(rng, v.SIGN_COLOURS[name], 10)
    ink = canvas.ink_on(rng, colour)
    path = canvas.pick_font(rng)
    shown = word.upper() if canvas.chance(rng, 0.75) else word.capitalize()
    lines = shown.split(" ")
    sheet, pen, room, plate = _plate(rng, colour, ink, len(lines))
    longest = max(lines, key=len)
    face = canvas.fit_font(path, longest, room, 66 if len(lines) == 1 else 50)
    step = face.size / SCALE * 1.08
    regions = [Region(f"{name} sign", plate)]
    for i, (text, said) in enumerate(zip(lines, word.split(" "), strict=True)):
        written = canvas.text_centre(pen, (112, 112 + step * (i - (len(lines) - 1) / 2)), text, face, ink)
        regions.append(Region(said, written))
    ground = canvas.background(rng)
    sheet, placed = canvas.tilt(rng, sheet, regions, 5.0, (0.9, 1.0), 4.0)
    canvas.paste(rng, ground, canvas.light_from_above(rng, sheet, canvas.uniform(rng, 0, 0.24)))
    caption, asks, _ = told(word, name, str(rng.choice([s for s in v.SIGNS if s != word])))
    return Drawn(canvas.camera(rng, ground), {"word": word, "colour": name}, caption, asks, placed)
