"""Kind "tables": two to four names with their points."""

from __future__ import annotations

from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import SCALE, Rng
from emova_data.nano.pictures.drawn import Ask, Drawn, Told, listing
from emova_data.nano.pictures.regions import Region, together


def drawn_scores(rng: Rng) -> dict[str, int]:
    """Two to four names with distinct points."""
    count = int(rng.integers(2, 5))
    names = [str(n) for n in rng.permutation(v.NAMES)[:count]]
    return dict(zip(names, (int(n) for n in rng.permutation(range(1, v.TOP_SCORE + 1))[:count]), strict=True))


def told(scores: dict[str, int]) -> Told:
    """What is said of a table, whatever program drew it."""
    best, last = max(scores, key=lambda n: scores[n]), min(scores, key=lambda n: scores[n])
    count = len(scores)
    parts = [f"{name} {v.NUMBERS[score]}" for name, score in scores.items()]
    caption = (
        f"A table with {v.NUMBERS[count]} names: {listing(parts)}. "
        f"{best} has the most points, {last} has the fewest points."
    )
    asks = [
        Ask("most", best, mood=v.DELIGHTED, weight=1.5),
        Ask("fewest", last, mood=v.SORRY, weight=1.5),
        Ask("names", v.NUMBERS[count], weight=0.7),
        Ask("kind", v.KIND_NAMES["tables"], weight=0.3),
    ]
    asks += [Ask("score", v.NUMBERS[score], name, weight=1.3) for name, score in scores.items()]
    return Told(caption, tuple(asks), tuple(parts))


def draw(rng: Rng, split: str) -> Drawn:
    """Two columns; the scores are distinct numbers of one to twelve."""
    scores = drawn_scores(rng)
    names, count = list(scores), len(scores)
    paper = canvas.jitter(rng, (247, 246, 242), 7) if canvas.chance(rng, 0.7) else canvas.muted(rng)
    ink = canvas.ink_on(rng, paper)
    path = canvas.pick_font(rng)
    sheet, pen = canvas.rounded_card(rng, paper)
    header = count < 4 and canvas.chance(rng, 0.4)
    rows: list[tuple[str, str]] = [("Name", "Points")] if header else []
    rows += [(name, str(score)) for name, score in scores.items()]
    height = 206 / len(rows)
    split_at = canvas.uniform(rng, 130, 142)
    widest = max(names, key=canvas.font(path, 40).getlength)
    face = canvas.fit_font(path, widest, split_at - 24, int(min(38.0, height * 0.62)))
    line = canvas.shade(paper, 0.72) if canvas.luminance(paper) > 110 else canvas.shade(paper, 1.5)
    band = canvas.shade(paper, 0.93) if canvas.luminance(paper) > 110 else canvas.shade(paper, 1.15)
    striped, ruled = canvas.chance(rng, 0.5), canvas.chance(rng, 0.7)
    tint = canvas.vivid(rng)
    regions = []
    for i, (left, right) in enumerate(rows):
        top = 9 + height * i
        box = (9 * SCALE, int(top * SCALE), 215 * SCALE, int((top + height) * SCALE))
        head = header and i == 0
        if head:
            pen.rectangle(box, fill=tint)
        elif striped and i % 2 == 0:
            pen.rectangle(box, fill=band)
        colour = canvas.ink_on(rng, tint) if head else ink
        used = canvas.fit_font(path, "Points", 78, 24) if head else face
        name_box = canvas.text_left(pen, (16, top + height / 2), left, used, colour)
        score_box = canvas.text_centre(pen, ((split_at + 215) / 2, top + height / 2), right, used, colour)
        if head:
            regions += [Region(left, name_box), Region(right, score_box)]
        else:
            row = together((name_box, score_box))
            regions += [Region(left, row), Region(v.NUMBERS[scores[left]], row)]
        if ruled and i:
            pen.line((9 * SCALE, box[1], 215 * SCALE, box[1]), fill=line, width=3)
    if ruled:
        pen.line((int(split_at * SCALE), 9 * SCALE, int(split_at * SCALE), 215 * SCALE), fill=line, width=3)
        pen.rectangle((9 * SCALE, 9 * SCALE, 215 * SCALE, 215 * SCALE), outline=line, width=4)
    ground = canvas.background(rng)
    sheet, placed = canvas.tilt(rng, sheet, regions, 3.0, (0.95, 1.0), 2.0)
    canvas.paste(rng, ground, sheet)
    caption, asks, parts = told(scores)
    facts = {"scores": scores}
    return Drawn(canvas.camera(rng, ground), facts, caption, asks, placed, parts)
