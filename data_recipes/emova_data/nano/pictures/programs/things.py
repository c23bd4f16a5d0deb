"""Things that people show, by artists and photographers whose pictures no training sees.

Drawings from openclipart (Debian ``openclipart-svg``, public domain) whose title is a thing of WordNet's, and the
photographs among tuxpaint's stamps that the recipe leaves alone. A thing is named rightly by its own name, by another
of WordNet's for the same sense, or, where it has two words ("acoustic guitar"), by the last of them.

    python -m emova_data.nano.pictures.programs.things --root data --count 300
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.core.writing import make_folder, staged_output
from emova_data.nano.pictures.library import CATALOGUE, STAMPS
from emova_data.nano.text.sentences import WORDNET
from emova_data.records.shard_writer import add_member

CLIPART = Path("/usr/share/openclipart/svg")
SIDE, MARGIN = 448, 24
LARGEST_SVG = 300_000
"""Bytes of a drawing: those beyond it are photographs traced to paths."""
KINDS = {5: "animal", 6: "artifact", 13: "food", 20: "plant"}
"""WordNet's lexicographer files whose nouns are things that one can show."""
UNSHOWN = frozenset((
    "box", "button", "card", "female", "gateway", "hearth", "hub", "knitting", "load", "panel", "pavement", "pda",
    "photo", "projectile", "rana", "ras", "reed", "seal", "silvia", "sole", "tux", "vatican", "virus", "wing",
    "workstation",
))  # fmt: skip
"""Titles that WordNet has as another thing than the drawing shows, or that show too little."""
QUESTION = "What is this?"


@dataclass(frozen=True)
class Thing:
    """A picture, its name, and all names that are right."""

    name: str
    names: tuple[str, ...]
    path: Path
    source: str


@cache
def senses(folder: Path = WORDNET) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Of every noun of WordNet its commonest sense: the lexicographer's file and the names of it.

    Raises:
        InputError: WordNet is not installed.
    """
    if not (folder / "index.noun").is_file():
        raise InputError(f"{folder}: WordNet is missing; install Debian's `wordnet-base`")
    of_offset: dict[str, tuple[int, tuple[str, ...]]] = {}
    for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split(" ")
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            of_offset[fields[0]] = int(fields[1]), tuple(word.replace("_", " ").lower() for word in words)
    found = {}
    for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            found[fields[0].replace("_", " ")] = of_offset[fields[6 + int(fields[3])]]
    return found


def right_names(name: str) -> tuple[str, ...] | None:
    """What a thing may be called, or None where the name is not that of a thing."""
    kind, names = senses().get(name, (0, ()))
    if kind not in KINDS or name in UNSHOWN:
        return None
    last = (name.split()[-1],) if " " in name else ()
    return tuple(dict.fromkeys((name, *names, *last)))


def drawings(folder: Path = CLIPART) -> Iterator[Thing]:
    """openclipart's drawings of things. Raises: InputError: it is not installed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no drawings; install Debian's `openclipart-svg`")
    for path in sorted(folder.rglob("*.svg")):
        if path.stat().st_size > LARGEST_SVG:
            continue
        head = path.read_text(encoding="utf-8", errors="ignore")[:6000]
        title = re.search(r"<dc:title>([^<]+)", head) or re.search(r"<title[^>]*>([^<]+)", head)
        name = re.sub(r"\s*\d+$", "", title[1].lower().replace("_", " ").strip()) if title else ""
        if names := right_names(name):
            yield Thing(name, names, path, "openclipart")


def photographs(folder: Path = STAMPS) -> Iterator[Thing]:
    """tuxpaint's stamps in pixels that the recipe does not know. Raises: InputError: they are not installed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no stamps; install Debian's `tuxpaint-stamps-default`")
    known = {stamp for _, stamps in CATALOGUE.values() for stamp in stamps.split()}
    for path in sorted(folder.rglob("*.png")):
        caption = path.with_suffix(".txt")
        inside = path.relative_to(folder).as_posix()
        if inside in known or "cartoon" in inside or "mirror" in path.stem or not caption.is_file():
            continue
        first = caption.read_text(encoding="utf-8", errors="ignore").splitlines()[:1]
        name = re.sub(r"^(a|an|the|some) ", "", "".join(first).strip().rstrip(".!").lower())
        if names := right_names(name):
            yield Thing(name, names, path, "tuxpaint")


def chosen(things: list[Thing], count: int, seed: int) -> list[Thing]:
    """``count`` of them, every name once before any a second time."""
    order = generator("things", seed).permutation(len(things))
    by_name: dict[str, list[Thing]] = defaultdict(list)
    for index in order:
        by_name[things[int(index)].name].append(things[int(index)])
    turns = max(map(len, by_name.values()), default=0)
    dealt = [own[turn] for turn in range(turns) for own in by_name.values() if turn < len(own)]
    return dealt[:count]


def picture(thing: Thing) -> Image.Image | None:
    """The thing on white, as it fills 448 pixels; None where the drawing cannot be rendered or is empty."""
    if thing.path.suffix == ".svg":
        # Twice as large as wanted: many things take a corner of their page alone.
        command = [
            "rsvg-convert",
            "--keep-aspect-ratio",
            f"--width={2 * SIDE}",
            f"--height={2 * SIDE}",
            str(thing.path),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        except FileNotFoundError:
            raise InputError("rsvg-convert: not found; install Debian's `librsvg2-bin`") from None
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            return None
        image = Image.open(io.BytesIO(done.stdout)).convert("RGBA")
    else:
        image = Image.open(thing.path).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((SIDE - 2 * MARGIN, SIDE - 2 * MARGIN), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (image.width + 2 * MARGIN, image.height + 2 * MARGIN), "white")
    ground.alpha_composite(image, (MARGIN, MARGIN))
    shown = ground.convert("RGB")
    return shown if float(np.asarray(shown, np.float32).std()) > 4 else None


def make(out: Path, count: int, seed: int) -> int:
    """Write ``count`` pictures, half of them drawings, as ``out/things_of-others-000000.tar``; how many there are."""
    make_folder(out)
    made = 0
    with (
        staged_output(out / "things_of-others-000000.tar") as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for source in (drawings, photographs):
            wanted = (count + 1) // 2 if source is drawings else count - made
            for thing in chosen(list(source()), count * 2, seed):
                if not wanted:
                    break
                image = picture(thing)
                if image is None:
                    continue
                wanted -= 1
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                key = f"thing-{made:06d}"
                record = {
                    "name": thing.name, "names": thing.names, "source": thing.source, "file": thing.path.name,
                    "question": QUESTION,
                }  # fmt: skip
                add_member(tar, f"{key}.png", buffer.getvalue())
                add_member(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
                made += 1
    return made


def named(names: list[str], answer: str) -> bool:
    """Whether an answer has one of the names, in singular or plural, as whole words."""
    return any(re.search(rf"\b{re.escape(name)}(?:e?s)?\b", answer.lower()) for name in names)


def main() -> None:
    parser = Parser(
        prog="python -m emova_data.nano.pictures.programs.things", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{make(arguments.root / 'nano' / 'pictures', arguments.count, arguments.seed)} things", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
