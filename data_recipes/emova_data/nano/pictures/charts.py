"""Kind "charts": two to four labelled bars, lying or standing, with their values written at the end."""

from __future__ import annotations

from PIL import ImageDraw

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import SCALE, Colour, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn, Told, listing
from emova_data.nano.pictures.regions import Box, Region, together


def _bar(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, edge: bool) -> None:
    scaled = tuple(value * SCALE for value in box)
    draw.rectangle(scaled, fill=colour, outline=canvas.shade(colour, 0.6) if edge else None, width=3)  # type: ignore[arg-type]


def _lying(
    rng: Rng, draw: ImageDraw.ImageDraw, bars: list[tuple[str, int]], ink: Colour, colours: list[Colour]
) -> list[tuple[Box, Box, Box]]:
    """Draws; returns where each bar's label, the bar and its value are."""
    path = canvas.pick_font(rng)
    height = 204 / len(bars)
    longest = max((label for label, _ in bars), key=len)
    label_font = canvas.fit_font(path, longest, 84, 26)
    value_font = canvas.font(path, 27 * SCALE)
    edge = canvas.chance(rng, 0.4)
    start = 98.0
    boxes = []
    for i, (label, value) in enumerate(bars):
        y = 10 + height * (i + 0.5)
        label_box = canvas.text_left(draw, (11, y), label, label_font, ink)
        end = start + value * 7.8
        half = min(20.0, height * 0.3)
        bar = (start, y - half, end, y + half)
        _bar(draw, bar, colours[i], edge)
        boxes.append((label_box, bar, canvas.text_left(draw, (end + 5, y), str(value), value_font, ink)))
    draw.line((start * SCALE, 10 * SCALE, start * SCALE, 214 * SCALE), fill=ink, width=4)
    return boxes


def _standing(
    rng: Rng, draw: ImageDraw.ImageDraw, bars: list[tuple[str, int]], ink: Colour, colours: list[Colour]
) -> list[tuple[Box, Box, Box]]:
    """As ``_lying``."""
    path = canvas.pick_font(rng)
    width = 206 / len(bars)
    longest = max((label for label, _ in bars), key=len)
    label_font = canvas.fit_font(path, longest, width - 6, 27)
    value_font = canvas.font(path, 27 * SCALE)
    edge = canvas.chance(rng, 0.4)
    base = 182.0
    boxes = []
    for i, (label, value) in enumerate(bars):
        x = 9 + width * (i + 0.5)
        top = base - value * 14.0
        half = min(22.0, width * 0.3)
        bar = (x - half, top, x + half, base)
        _bar(draw, bar, colours[i], edge)
        value_box = canvas.text_centre(draw, (x, top - 14), str(value), value_font, ink)
        boxes.append((canvas.text_centre(draw, (x, 198), label, label_font, ink), bar, value_box))
    draw.line((9 * SCALE, base * SCALE, 215 * SCALE, base * SCALE), fill=ink, width=4)
    return boxes


def drawn_bars(rng: Rng, theme: str) -> dict[str, int]:
    """Two to four labels of a theme with distinct values."""
    words = [str(w) for w in rng.permutation(list(v.BAR_LABELS[theme]))]
    count = int(rng.integers(2, 5))
    words = words[:count]
    # Neighbours in the list of labels can be compared, so see that there is a pair.
    if not any(v.NEXT_LABEL[w] in words for w in words):
        words[1] = v.NEXT_LABEL[words[0]]
    values = [int(n) for n in rng.permutation(range(1, v.TOP_BAR + 1))[:count]]
    return dict(zip(words, values, strict=True))


def told(bars: dict[str, int]) -> Told:
    """What is said of a chart, whatever program drew it."""
    high, low = max(bars, key=lambda w: bars[w]), min(bars, key=lambda w: bars[w])
    count = len(bars)
    parts = [f"{word} {v.NUMBERS[value]}" for word, value in bars.items()]
    caption = (
        f"A bar chart with {v.NUMBERS[count]} bars: {listing(parts)}. "
        f"The highest bar is {high}, the lowest bar is {low}."
    )
    asks = [
        Ask("highest", high, mood=v.DELIGHTED, weight=1.5),
        Ask("lowest", low, mood=v.SORRY, weight=1.5),
        Ask("bars", v.NUMBERS[count], weight=0.7),
        Ask("kind", v.KIND_NAMES["charts"], weight=0.3),
    ]
    asks += [Ask("value", v.NUMBERS[value], word, weight=1.2) for word, value in bars.items()]
    for word in bars:
        after = v.NEXT_LABEL[word]
        if after in bars:
            key = "yes" if bars[word] > bars[after] else "no"
            asks.append(Ask("compare", key, f"{word} higher than {after}", weight=0.9))
    return Told(caption, tuple(asks), tuple(parts))


def draw(rng: Rng, split: str) -> Drawn:
    """Bars of one theme with distinct values of one to ten."""
    theme = str(rng.choice(list(v.BAR_LABELS)))
    bars = drawn_bars(rng, theme)
    count = len(bars)
    paper = canvas.jitter(rng, (246, 245, 240), 8) if canvas.chance(rng, 0.75) else canvas.muted(rng, False)
    if canvas.chance(rng, 0.2):
        paper = canvas.shade(canvas.muted(rng, True), 1.08)
    ink = canvas.ink_on(rng, paper)
    one = canvas.chance(rng, 0.4)
    colour = canvas.vivid(rng)
    colours = [colour if one else canvas.vivid(rng) for _ in bars]
    sheet, pen = canvas.rounded_card(rng, paper)
    shown = [(v.BAR_LABELS[theme][word], value) for word, value in bars.items()]
    wide = max(len(label) for label, _ in shown)
    stand = wide * count <= 15 and canvas.chance(rng, 0.6)
    boxes = (_standing if stand else _lying)(rng, pen, shown, ink, colours)
    regions = [
        Region(text, together(parts))
        for (word, value), parts in zip(bars.items(), boxes, strict=True)
        for text in (word, v.NUMBERS[value])
    ]
    ground = canvas.background(rng)
    sheet, placed = canvas.tilt(rng, sheet, regions, 3.0, (0.95, 1.0), 2.0)
    canvas.paste(rng, ground, sheet)
    caption, asks, parts = told(bars)
    facts = {"bars": bars, "standing": stand}
    return Drawn(canvas.camera(rng, ground), facts, caption, asks, placed, parts)
