"""What is drawn: the recipe's own contents with what is said of them, before any program has seen them.

Shapes: regions are in pixels of the finished picture, which may have any size up to ``LARGEST`` a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image

from emova_data.nano.pictures import charts, price_tags, signs, tables
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import Rng
from emova_data.nano.pictures.drawn import Drawn, Told
from emova_data.nano.pictures.regions import Box, Region, together

LARGEST = 448
KINDS = ("charts", "tables", "price_tags", "signs")


@dataclass(frozen=True)
class Content:
    """A picture's content.

    Attributes:
        kind: one of ``KINDS``.
        rows: what is written, in pairs: a label with its value, a name with its points, a product with its price, a
            sign's colour with its word.
        said: each row's words, as captions and answers say them.
        facts: for the record.
        told: caption and questions.
    """

    kind: str
    rows: tuple[tuple[str, str], ...]
    said: tuple[tuple[str, str], ...]
    facts: Mapping[str, object]
    told: Told

    @property
    def values(self) -> list[int]:
        """The numbers of a chart or table."""
        return [int(value) for _, value in self.rows]


def draw_content(kind: str, rng: Rng) -> Content:
    """A content of a kind, as the recipe's own drawings have them."""
    if kind == "charts":
        theme = str(rng.choice(list(v.BAR_LABELS)))
        bars = charts.drawn_bars(rng, theme)
        full = rng.random() < 0.5  # other programs write days out
        rows = tuple((word if full else v.BAR_LABELS[theme][word], str(value)) for word, value in bars.items())
        if rng.random() < 0.5:
            rows = tuple((label.capitalize(), value) for label, value in rows)
        return Content(kind, rows, _numbered(bars), {"bars": bars}, charts.told(bars))
    if kind == "tables":
        scores = tables.drawn_scores(rng)
        rows = tuple((name, str(score)) for name, score in scores.items())
        return Content(kind, rows, _numbered(scores), {"scores": scores}, tables.told(scores))
    if kind == "price_tags":
        product, cents = str(rng.choice(v.PRODUCTS)), int(rng.choice(v.PRICES))
        dollars, rest = divmod(cents, 100)
        price = f"${dollars}.{rest:02d}" if rest or rng.random() < 0.5 else f"${dollars}"
        word = (product, product.capitalize(), product.upper())[int(rng.integers(3))]
        facts = {"product": product, "cents": cents}
        return Content(
            kind, ((word, price),), ((product, v.price_words(cents)),), facts, price_tags.told(product, cents)
        )
    word, colour = str(rng.choice(v.SIGNS)), str(rng.choice(list(v.SIGN_COLOURS)))
    shown = (word.upper(), word.upper(), word.capitalize(), word.title())[int(rng.integers(4))]
    other = str(rng.choice([each for each in v.SIGNS if each != word]))
    return Content(kind, ((colour, shown),), ((f"{colour} sign", word),), {"word": word, "colour": colour},
                   signs.told(word, colour, other))  # fmt: skip


def _numbered(values: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    return tuple((name, v.NUMBERS[value]) for name, value in values.items())


def finished(content: Content, image: Image.Image, boxes: list[list[Box]]) -> Drawn:
    """A program's picture, reduced to ``LARGEST``, with its regions.

    Args:
        boxes: where each row is drawn, in pixels of ``image``: its label, its value, and what else shows it.
    """
    scale = min(1.0, LARGEST / max(image.size))
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    regions = []
    for (name, value), own in zip(content.said, boxes, strict=True):
        if content.kind in ("charts", "tables"):  # what belongs together has one box
            whole = together(own)
            regions += [Region(name, whole), Region(value, whole)]
        else:
            regions += [Region(name, own[0]), Region(value, own[1])]
    scaled = [
        replace(
            region, box=(region.box[0] * scale, region.box[1] * scale, region.box[2] * scale, region.box[3] * scale)
        )
        for region in regions
    ]
    told = content.told
    return Drawn(image.convert("RGB"), content.facts, told.caption, told.asks, tuple(scaled), told.listed)
