"""Kind "posters": an event, a day and a little drawing of the place."""

from __future__ import annotations

import math

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import SCALE, Colour, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn
from emova_data.nano.pictures.regions import Region


def _icon(rng: Rng, pen: canvas.ImageDraw.ImageDraw, venue: str, x: float, y: float) -> None:
    """A picture of the venue, about 90 x 70 finished pixels around (x, y)."""

    def at(*points: float) -> list[tuple[float, float]]:
        pairs = zip(points[::2], points[1::2], strict=True)
        return [((x + px) * SCALE, (y + py) * SCALE) for px, py in pairs]

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return ((x + left) * SCALE, (y + top) * SCALE, (x + right) * SCALE, (y + bottom) * SCALE)

    green, brown = canvas.jitter(rng, (46, 140, 60)), canvas.jitter(rng, (120, 76, 40))
    blue, sand = canvas.jitter(rng, (50, 120, 210)), canvas.jitter(rng, (236, 206, 130))
    red, pale = canvas.jitter(rng, (200, 60, 50)), canvas.jitter(rng, (238, 232, 220))
    dark = canvas.jitter(rng, (60, 60, 70))
    if venue == "park":
        pen.rectangle(box(-44, 26, 44, 33), fill=green)
        for px, size in ((-24, 1.0), (20, 1.15)):
            pen.rectangle(box(px - 4, 4, px + 4, 28), fill=brown)
            pen.ellipse(box(px - 18 * size, -32 * size, px + 18 * size, 8), fill=green)
    elif venue == "beach":
        pen.rectangle(box(-44, 10, 44, 22), fill=blue)
        pen.rectangle(box(-44, 20, 44, 33), fill=sand)
        pen.line(at(0, -20, 6, 28), fill=brown, width=8)
        pen.pieslice(box(-36, -34, 32, 26), 180, 360, fill=red)
        pen.pieslice(box(-13, -34, 9, 26), 180, 360, fill=pale)
    elif venue == "school":
        pen.rectangle(box(-42, -8, 42, 33), fill=red)
        pen.polygon(at(-46, -8, 0, -28, 46, -8), fill=dark)
        for px in (-32, -14, 14, 32):
            pen.rectangle(box(px - 6, 0, px + 6, 12), fill=pale)
        pen.rectangle(box(-8, 14, 8, 33), fill=dark)
    elif venue == "lake":
        pen.ellipse(box(-46, 6, 46, 35), fill=blue)
        pen.polygon(at(-22, 10, 24, 10, 15, 21, -14, 21), fill=brown)
        pen.line(at(0, 10, 0, -33), fill=dark, width=7)
        pen.polygon(at(4, -32, 4, 5, 27, 5), fill=pale, outline=dark)
        pen.polygon(at(-4, -24, -4, 5, -20, 5), fill=pale, outline=dark)
    else:  # church
        pen.rectangle(box(-8, -2, 40, 33), fill=pale, outline=dark)
        pen.polygon(at(-12, -1, 44, -1, 32, -16, 0, -16), fill=red)
        pen.rectangle(box(-34, -10, -8, 33), fill=pale, outline=dark)
        pen.polygon(at(-38, -9, -21, -32, -4, -9), fill=red)
        pen.line(at(-21, -42, -21, -26), fill=dark, width=6)
        pen.line(at(-27, -37, -15, -37), fill=dark, width=6)
        pen.rectangle(box(10, 14, 22, 33), fill=dark)


def _decorate(rng: Rng, pen: canvas.ImageDraw.ImageDraw, paper: Colour) -> None:
    tint = canvas.shade(paper, canvas.uniform(rng, 0.86, 0.94))
    style = int(rng.integers(4))
    if style == 1:
        for _ in range(int(rng.integers(5, 12))):
            x, y, r = canvas.uniform(rng, 10, 438), canvas.uniform(rng, 10, 438), canvas.uniform(rng, 6, 26)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=tint)
    elif style == 2:
        step = int(rng.integers(26, 50))
        for i in range(10, 438, step):
            pen.line((i, 10, i, 438), fill=tint, width=step // 2)
    elif style == 3:
        for i in range(12):
            a = i * math.pi / 6
            pen.line((224, 224, 224 + 200 * math.cos(a), 224 + 200 * math.sin(a)), fill=tint, width=18)


def draw(rng: Rng, split: str) -> Drawn:
    """Title above, the place in the middle, the day below; or the day above the place."""
    event, day, venue = str(rng.choice(v.EVENTS)), str(rng.choice(v.DAYS)), str(rng.choice(v.VENUES))
    paper = canvas.vivid(rng) if canvas.chance(rng, 0.4) else canvas.shade(canvas.muted(rng, True), 1.08)
    if canvas.luminance(paper) < 200 and canvas.chance(rng, 0.2):
        paper = canvas.shade(paper, 0.5)
    ink = canvas.ink_on(rng, paper)
    path = canvas.pick_font(rng)
    sheet, pen = canvas.rounded_card(rng, paper, 3)
    _decorate(rng, pen, paper)
    lines = event.upper().split(" ") if canvas.chance(rng, 0.7) else event.title().split(" ")
    longest = max(lines, key=len)
    face = canvas.fit_font(path, longest, 196, 46 if len(lines) == 1 else 36)
    step = 34.0
    regions = []
    for i, (text, name) in enumerate(zip(lines, event.split(" "), strict=True)):
        written = canvas.text_centre(pen, (112, (42 if len(lines) == 1 else 27) + step * i), text, face, ink)
        regions.append(Region(name, written))
    below = canvas.chance(rng, 0.7)
    day_y, icon_y = (192, 126) if below else (98, 164)
    word = day.upper() if canvas.chance(rng, 0.5) else day
    day_face = canvas.fit_font(path, word, 190, 34)
    if canvas.chance(rng, 0.4):
        half = day_face.getlength(word) / 2 + 16
        band = canvas.shade(paper, 0.45) if canvas.luminance(ink) > 140 else canvas.shade(paper, 1.25)
        pen.rounded_rectangle((224 - half, day_y * 2 - 40, 224 + half, day_y * 2 + 40), 14, fill=band)
    regions.append(Region(day, canvas.text_centre(pen, (112, day_y), word, day_face, ink)))
    pen.rounded_rectangle(
        (120, icon_y * 2 - 88, 328, icon_y * 2 + 76), 20, fill=canvas.jitter(rng, (214, 232, 244), 10)
    )
    _icon(rng, pen, venue, 112, icon_y + 1)
    regions.append(Region(venue, (60, icon_y - 44, 164, icon_y + 38)))
    ground = canvas.background(rng)
    sheet, placed = canvas.tilt(rng, sheet, regions, 3.5, (0.95, 1.0), 2.0)
    canvas.paste(rng, ground, sheet)
    mood = v.EVENT_MOODS.get(event, v.PLAIN)
    other = str(rng.choice([d for d in v.DAYS if d != day]))
    asks = (
        Ask("event", event, mood=mood, weight=2.0),
        Ask("day", day, mood=mood, weight=2.0),
        Ask("venue", venue, mood=mood, weight=1.5),
        Ask("is_day", f"yes|{day}", day, mood, 0.6),
        Ask("is_day", f"no|{day}", other, mood, 0.6),
        Ask("kind", v.KIND_NAMES["posters"], weight=0.3),
    )
    facts = {"event": event, "day": day, "venue": venue}
    caption = f"A poster about {v.with_article(event)} on {day} at the {venue}."
    return Drawn(canvas.camera(rng, ground), facts, caption, asks, placed)
