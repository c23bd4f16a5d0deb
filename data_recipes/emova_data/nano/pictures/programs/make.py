"""Shards of pictures drawn by other programs, beside the recipe's own: ``pictures/{kind}_by-{split}-NNNNNN.tar``.

python -m emova_data.nano.pictures.programs.make --root data --count 12000
python -m emova_data.nano.pictures.programs.make --root data --split test --count 400
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emova.cli.main import Parser, run_program
from emova.core.writing import make_folder, staged_output
from emova_data.nano.pictures.canvas import Rng
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.make import ask
from emova_data.nano.pictures.programs import held_out, html_pages, matplotlib_figures, pillow_plain
from emova_data.nano.pictures.programs.content import KINDS, Content, draw_content
from emova_data.nano.pictures.programs.photographed import photographed
from emova_data.records.shard_writer import add_member

Draw = Callable[[Content, Rng], Drawn]
PER_SHARD = 200
PHOTOGRAPHED = 0.35
TRAIN = {"matplotlib": matplotlib_figures.KINDS, "pillow": pillow_plain.KINDS, "html": html_pages.KINDS}
TEST = held_out.KINDS
SHARES = {"charts": 0.4, "tables": 0.3, "price_tags": 0.15, "signs": 0.15}


def drawers(split: str) -> tuple[dict[str, Draw], Callable[[], None]]:
    """The programs of a split, and what ends them."""
    if split == "test":
        return {"vega": held_out.draw_vega, "graphviz": held_out.draw_graphviz, "svg": held_out.draw_svg}, lambda: None
    browser = html_pages.Browser()
    programs: dict[str, Draw] = {
        "matplotlib": matplotlib_figures.draw, "pillow": pillow_plain.draw, "html": browser.draw,
    }  # fmt: skip
    return programs, browser.close


def make_one(
    kind: str, seed: int, index: int, split: str, programs: dict[str, Draw]
) -> tuple[bytes, dict[str, object]]:
    """Picture ``index`` of a kind as PNG or JPEG bytes, and its record."""
    rng = np.random.default_rng([seed, 77, ("train", "test").index(split), KINDS.index(kind), index])
    able = [name for name, kinds in (TEST if split == "test" else TRAIN).items() if kind in kinds]
    program = str(rng.choice(able))
    drawn = programs[program](draw_content(kind, rng), rng)
    seen = split == "train" and rng.random() < PHOTOGRAPHED
    if seen:
        drawn = photographed(drawn, rng)
    width, height = drawn.image.size
    regions = []
    for region in drawn.regions if split == "train" else ():
        left, top, right, bottom = region.box
        box = [left / width, top / height, right / width, bottom / height]
        box = [round(min(max(float(value), 0.0), 1.0), 4) for value in box]
        if box[0] < box[2] and box[1] < box[3]:
            regions.append({"text": region.text, "box": box})
    record = {
        "kind": kind, "program": program, "photographed": seen, "caption": drawn.caption,
        "reordered": [drawn.reordered(rng) for _ in range(2)] if len(drawn.listed) > 1 else [],
        "questions": [question.record() for question in ask(rng, drawn.asks, split)],
        "facts": dict(drawn.facts), "regions": regions, "split": split,
    }  # fmt: skip
    buffer = io.BytesIO()
    if seen:
        drawn.image.save(buffer, "JPEG", quality=90)
    else:
        drawn.image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue(), record


def make(out: Path, seed: int, count: int, split: str) -> int:
    """Write ``count`` pictures of all kinds below ``out``; shards that are there are kept. How many were made now."""
    make_folder(out)
    programs, end = drawers(split)
    made = 0
    try:
        for kind, share in SHARES.items():
            wanted = int(count * share)
            for first in range(0, wanted, PER_SHARD):
                target = out / f"{kind}_by-{split}-{first // PER_SHARD:06d}.tar"
                if target.is_file():
                    continue
                numbers = range(first, min(first + PER_SHARD, wanted))
                with staged_output(target) as file, tarfile.open(fileobj=file, mode="w") as tar:
                    for index in numbers:
                        image, record = make_one(kind, seed, index, split, programs)
                        key = f"{kind}_by-{split}-{index:06d}"
                        add_member(tar, f"{key}.{'jpg' if record['photographed'] else 'png'}", image)
                        add_member(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
                made += len(numbers)
                print(f"{target.name}: {made} pictures", file=sys.stderr, flush=True)
    finally:
        end()
    return made


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.pictures.programs.make", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.root / "nano" / "pictures", arguments.seed, arguments.count, arguments.split)


if __name__ == "__main__":
    run_program(main)
