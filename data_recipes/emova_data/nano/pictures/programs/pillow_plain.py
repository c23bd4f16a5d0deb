"""All four kinds in plain Pillow: one font, straight lines, white paper, as a short script draws them."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import Colour, Rng
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.programs.content import Content, finished
from emova_data.nano.pictures.regions import Box

KINDS = ("charts", "tables", "price_tags", "signs")
_PAPERS: tuple[Colour, ...] = ((255, 255, 255), (255, 255, 255), (250, 250, 245), (235, 240, 250), (255, 250, 220))


def draw(content: Content, rng: Rng) -> Drawn:
    """The content on a plain sheet."""
    size = (int(rng.integers(200, 449)), int(rng.integers(200, 449)))
    paper = _PAPERS[int(rng.integers(len(_PAPERS)))]
    image = Image.new("RGB", size, paper)
    pen = ImageDraw.Draw(image)
    how = {"charts": _chart, "tables": _table, "price_tags": _tag, "signs": _sign}[content.kind]
    return finished(content, image, how(content, pen, size, rng))


def _font(rng: Rng, pixels: float) -> ImageFont.FreeTypeFont:
    if rng.random() < 0.3:
        plain = ImageFont.load_default(max(10, round(pixels)))
        assert isinstance(plain, ImageFont.FreeTypeFont)
        return plain
    return canvas.font(canvas.pick_font(rng), max(10, round(pixels)))


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, colour: Colour,
           anchor: str = "mm") -> Box:  # fmt: skip
    pen.text(at, text, fill=colour, font=font, anchor=anchor)
    left, top, right, bottom = pen.textbbox(at, text, font=font, anchor=anchor)
    return float(left), float(top), float(right), float(bottom)


def _chart(content: Content, pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: Rng) -> list[list[Box]]:
    width, height = size
    count, most = len(content.rows), max(content.values)
    widest = max(len(label) for label, _ in content.rows)
    standing = min(height / 12, width / count / (0.75 * widest))
    lying = rng.random() < 0.4 or standing < 11  # where labels would run into each other
    font = _font(rng, min(height / 12, width / 3 / (0.62 * widest)) if lying else standing)
    one = canvas.vivid(rng)
    varied = rng.random() < 0.5
    boxes: list[list[Box]] = []
    line = font.size * 1.4
    if lying:
        start = max(font.getlength(label) for label, _ in content.rows) + 16
        step = (height - 16) / count
        for number, (label, value) in enumerate(content.rows):
            y = 8 + step * (number + 0.5)
            end = start + (width - start - line * 1.5) * int(value) / most
            bar = (start, y - step * 0.3, end, y + step * 0.3)
            pen.rectangle(bar, fill=canvas.vivid(rng) if varied else one)
            boxes.append([_write(pen, (start - 6, y), label, font, (0, 0, 0), "rm"), bar,
                          _write(pen, (end + 5, y), value, font, (0, 0, 0), "lm")])  # fmt: skip
        return boxes
    step, base = (width - 16) / count, height - line - 6
    for number, (label, value) in enumerate(content.rows):
        x = 8 + step * (number + 0.5)
        top = base - (base - line - 8) * int(value) / most
        bar = (x - step * 0.3, top, x + step * 0.3, base)
        pen.rectangle(bar, fill=canvas.vivid(rng) if varied else one)
        boxes.append([_write(pen, (x, base + line * 0.6), label, font, (0, 0, 0)), bar,
                      _write(pen, (x, top - line * 0.5), value, font, (0, 0, 0))])  # fmt: skip
    pen.line((4, base, width - 4, base), fill=(0, 0, 0), width=int(rng.integers(1, 4)))
    return boxes


def _table(content: Content, pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: Rng) -> list[list[Box]]:
    width, height = size
    rows = list(content.rows)
    if headed := rng.random() < 0.5:
        rows.insert(0, ("Name", "Points"))
    step = min((height - 12) / len(rows), width / 4)
    font = _font(rng, min(step * 0.6, width / 10))
    middle = width * float(rng.uniform(0.5, 0.65))
    ink: Colour = (0, 0, 0) if rng.random() < 0.8 else canvas.shade(canvas.vivid(rng), 0.5)
    ruled = rng.random() < 0.7
    boxes = []
    for number, (left, right) in enumerate(rows):
        y = 6 + step * (number + 0.5)
        boxes.append(
            [_write(pen, (12, y), left, font, ink, "lm"), _write(pen, (middle + 12, y), right, font, ink, "lm")]
        )
        if ruled:
            pen.line((6, y + step / 2, width - 6, y + step / 2), fill=ink, width=1)
    if ruled:
        pen.rectangle((6, 6, width - 6, 6 + step * len(rows)), outline=ink, width=1)
        pen.line((middle, 6, middle, 6 + step * len(rows)), fill=ink, width=1)
    return boxes[int(headed) :]


def _tag(content: Content, pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: Rng) -> list[list[Box]]:
    width, height = size
    (word, price), margin = content.rows[0], float(rng.uniform(4, 30))
    paper = canvas.vivid(rng) if rng.random() < 0.5 else (255, 255, 255)
    ink = canvas.ink_on(rng, paper)
    pen.rectangle((margin, margin, width - margin, height - margin), fill=paper, outline=(0, 0, 0), width=2)
    small, large = _font(rng, min(height / 6, width / 7)), _font(rng, min(height / 4, width / 4.4))
    places = ((height * 0.32, word, small), (height * 0.65, price, large))
    return [[_write(pen, (width / 2, y), text, font, ink) for y, text, font in places]]


def _sign(content: Content, pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: Rng) -> list[list[Box]]:
    width, height = size
    colour_name, shown = content.rows[0]
    colour = canvas.jitter(rng, v.SIGN_COLOURS[colour_name], 12)
    plate = (width * 0.06, height * 0.15, width * 0.94, height * 0.85)
    if rng.random() < 0.5:
        pen.rectangle(plate, fill=colour, outline=(0, 0, 0), width=2)
    else:
        pen.ellipse(plate, fill=colour, outline=(0, 0, 0), width=2)
    lines = shown.split(" ")
    longest = max(map(len, lines))
    font = _font(rng, min(height * 0.5 / len(lines), width * 0.72 / (0.68 * longest)))
    ink = canvas.ink_on(rng, colour)
    boxes = [
        _write(pen, (width / 2, height / 2 + font.size * 1.1 * (number - (len(lines) - 1) / 2)), line, font, ink)
        for number, line in enumerate(lines)
    ]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    return [[plate, (left, top, max(box[2] for box in boxes), max(box[3] for box in boxes))]]
