"""Kind "price_tags": a product and its price in dollars on a shop's tag."""

from __future__ import annotations

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import BIG, SCALE, Colour, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn, Told
from emova_data.nano.pictures.regions import Region

_PAPERS: tuple[Colour, ...] = (
    (250, 248, 240), (250, 222, 60), (250, 222, 60), (212, 44, 40), (248, 150, 40), (40, 140, 80), (40, 90, 180),
    (30, 30, 34), (236, 214, 170),
)  # fmt: skip


def told(product: str, cents: int) -> Told:
    """What is said of a price tag, whatever program drew it."""
    words = v.price_words(cents)
    mood = v.price_mood(cents)
    asks = [
        Ask("price", words, mood=mood, weight=2.0),
        Ask("price_of", words, product, mood, 2.0),
        Ask("product", product, mood=mood, weight=1.5),
        Ask("kind", v.KIND_NAMES["price_tags"], weight=0.3),
    ]
    for threshold in v.THRESHOLDS:
        if cents != threshold:
            slot = v.price_words(threshold)
            asks.append(Ask("more_than", "yes" if cents > threshold else "no", slot, mood, 0.6))
    caption = f"A price tag for {product}: the price is {words}."
    return Told(caption, tuple(asks))


def draw(rng: Rng, split: str) -> Drawn:
    """Whole dollars up to twenty, or a half up to nine dollars fifty."""
    product = str(rng.choice(v.PRODUCTS))
    cents = int(rng.choice(v.PRICES))
    paper = canvas.jitter(rng, _PAPERS[int(rng.integers(len(_PAPERS)))], 10)
    ink = canvas.ink_on(rng, paper)
    path = canvas.pick_font(rng)
    sheet = canvas.layer()
    pen = canvas.ImageDraw.Draw(sheet)
    top, bottom = int(rng.integers(18, 34)), int(rng.integers(190, 206))
    box = (8 * SCALE, top * SCALE, BIG - 8 * SCALE, bottom * SCALE)
    style = int(rng.integers(3))
    if style == 0:  # a tag with cut corners and a hole
        cut = 26 * SCALE
        left, upper, right, lower = box
        roof = [(left, upper + cut), (left + cut, upper), (right - cut, upper), (right, upper + cut)]
        pen.polygon([*roof, (right, lower), (left, lower)], fill=(*paper, 255))
        x, y = BIG // 2, upper + 9 * SCALE
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(60, 50, 44, 255))
        pen.line((x, y, x + int(rng.integers(-60, 60)), 0), fill=(90, 76, 60, 255), width=5)
    else:
        pen.rounded_rectangle(box, int(rng.integers(0, 40)), fill=(*paper, 255))
        if style == 2:
            inner = tuple(value + (12 if i < 2 else -12) for i, value in enumerate(box))
            pen.rounded_rectangle(inner, 20, outline=(*ink, 255), width=4)
    dollars, rest = divmod(cents, 100)
    price = f"${dollars}.{rest:02d}" if rest or canvas.chance(rng, 0.25) else f"${dollars}"
    word = product.capitalize() if canvas.chance(rng, 0.5) else product.upper()
    product_box = canvas.text_centre(pen, (112, top + 38), word, canvas.fit_font(path, word, 180, 38), ink)
    price_ink = ink
    if canvas.luminance(paper) > 170 and canvas.chance(rng, 0.4):
        price_ink = canvas.jitter(rng, (190, 24, 30), 12)
    price_box = canvas.text_centre(pen, (112, bottom - 54), price, canvas.fit_font(path, price, 186, 78), price_ink)
    ground = canvas.background(rng)
    words = v.price_words(cents)
    regions = (Region(product, product_box), Region(words, price_box))
    sheet, placed = canvas.tilt(rng, sheet, regions, 5.0, (0.93, 1.0), 4.0)
    canvas.paste(rng, ground, sheet)
    caption, asks, _ = told(product, cents)
    facts = {"product": product, "cents": cents}
    return Drawn(canvas.camera(rng, ground), facts, caption, asks, placed)
