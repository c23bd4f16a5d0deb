"""Write the pictures as WebDataset shards: deterministic by seed, in parallel, resumable shard by shard."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from rich.progress import Progress

from emova.core.errors import InputError
from emova.core.writing import staged_output, write_text
from emova_data.nano.pictures import charts, faces, objects, posters, price_tags, questions, scenes, signs, tables
from emova_data.nano.pictures.drawn import Ask, Drawn
from emova_data.nano.pictures.library import Library, load_library
from emova_data.nano.pictures.questions import Question
from emova_data.nano.pictures.regions import record as record_regions
from emova_data.records.shard_writer import add_member

# A picture's place in this row is part of its seed.
KINDS = ("objects", "scenes", "charts", "tables", "price_tags", "signs", "posters", "faces", "weather")
# split -> kind -> share of the pictures; in training the harder a kind, the more of it
SHARES: dict[str, dict[str, float]] = {
    "train": {
        "objects": 0.15, "scenes": 0.20, "charts": 0.18, "tables": 0.14, "price_tags": 0.13, "signs": 0.07,
        "posters": 0.06, "faces": 0.04, "weather": 0.03,
    },
    "test": {
        "objects": 0.22, "scenes": 0.20, "charts": 0.14, "tables": 0.12, "price_tags": 0.09, "signs": 0.08,
        "posters": 0.07, "faces": 0.04, "weather": 0.04,
    },
}  # fmt: skip
SPLITS = ("train", "test")
PER_SHARD = 250
REORDERED = 2  # captions in another order, of a picture whose caption lists names with their values
FORMAT = 4  # of the records: raise it when they change; 4 has the captions in other orders

_DRAW: dict[str, Callable[[np.random.Generator, str], Drawn]] = {
    "scenes": scenes.draw,
    "charts": charts.draw,
    "tables": tables.draw,
    "price_tags": price_tags.draw,
    "signs": signs.draw,
    "posters": posters.draw,
    "faces": faces.draw_face,
    "weather": faces.draw_weather,
}


class PictureRecord(TypedDict):
    """The JSON beside a picture; ``reordered``: the caption with what it lists in other orders."""

    kind: str
    caption: str
    reordered: list[str]
    questions: list[dict[str, str]]
    facts: dict[str, object]
    regions: list[dict[str, object]]
    split: str


@dataclass(frozen=True)
class PictureSample:
    """One picture with its questions. ``record`` is what the shard's JSON holds."""

    key: str
    drawn: Drawn
    questions: tuple[Question, ...]
    record: PictureRecord


def make_picture(kind: str, seed: int, index: int, split: str, library: Library | None = None) -> PictureSample:
    """Draw picture ``index`` of a kind; the same arguments give the same picture on the same fonts.

    Args:
        kind: one of ``KINDS``.
        seed: the recipe's seed.
        index: number of the picture within kind and split.
        split: ``train`` or ``test``.
        library: source pictures; needed for ``objects`` only.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), KINDS.index(kind), index])
    if kind == "objects":
        assert library is not None
        drawn = objects.draw(rng, split, library)
    else:
        drawn = _DRAW[kind](rng, split)
    asked = tuple(ask(rng, drawn.asks, split))
    key = f"{kind}-{split}-{index:06d}"
    record: PictureRecord = {
        "kind": kind,
        "caption": drawn.caption,
        "reordered": [drawn.reordered(rng) for _ in range(REORDERED)] if drawn.listed else [],
        "questions": [q.record() for q in asked],
        "facts": dict(drawn.facts),
        "regions": record_regions(drawn.regions, drawn.image.width),
        "split": split,
    }
    return PictureSample(key, drawn, asked, record)


# "Yes" and "no" of these are both at hand; one of them is kept, so that open questions stay the majority.
_YES_NO = ("is_it", "does_it_say", "is_day", "is_feeling", "is_weather")
_KIND_SHARE = 0.15  # of the pictures are asked what kind of picture they are


def ask(rng: np.random.Generator, asks: tuple[Ask, ...], split: str) -> list[Question]:
    """Three to six different questions where the picture has as many, drawn by weight."""
    count = int(rng.integers(3, 7))
    say_yes, kind = rng.random() < 0.5, rng.random() < _KIND_SHARE
    kept = [a for a in asks if a.type not in _YES_NO or a.key.startswith("yes|") == say_yes]
    kept = [a for a in kept if a.type != "kind" or kind]
    weights = np.array([a.weight for a in kept])
    order = rng.choice(len(kept), size=len(kept), replace=False, p=weights / weights.sum())
    chosen: dict[str, Question] = {}
    for i in order:
        a = kept[int(i)]
        question = questions.make_question(a.type, a.key, a.slot, a.mood, split, float(rng.random()))
        chosen.setdefault(question.question, question)
        if len(chosen) == count:
            break
    return list(chosen.values())


def plan(count: int, split: str) -> dict[str, int]:
    """Pictures of each kind, ``count`` in all."""
    shares = {kind: int(count * share) for kind, share in SHARES[split].items()}
    shares["objects"] += count - sum(shares.values())
    return shares


_library: Library | None = None


def _write_shard(path: str, kind: str, seed: int, first: int, count: int, split: str) -> int:
    """One shard of a kind. Returns its questions' number."""
    return write_pictures(
        Path(path), (make_picture(kind, seed, index, split, _library) for index in range(first, first + count))
    )


def write_pictures(target: Path, samples: Iterable[PictureSample]) -> int:
    """Write a shard, whole or not at all. Returns its questions' number. Raises: InputError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    total = 0
    with staged_output(target) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for sample in samples:
            buffer = io.BytesIO()
            sample.drawn.image.save(buffer, "PNG", compress_level=4)
            add_member(tar, f"{sample.key}.png", buffer.getvalue())
            add_member(tar, f"{sample.key}.json", json.dumps(sample.record, ensure_ascii=False).encode())
            total += len(sample.questions)
    return total


def _start(nice: int, sources: str) -> None:
    global _library
    os.nice(max(0, nice - os.nice(0)))  # as nice as this, wherever it started
    if _library is None:
        _library = load_library(Path(sources))


def make_pictures(
    out: Path,
    seed: int,
    count: int,
    split: str,
    jobs: int = 2,
    sources: Path | None = None,
    report: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write ``count`` pictures of all kinds below ``out`` as ``{kind}-{split}-{n:06d}.tar``.

    Shards that are there already are kept, if they were made with the same seed, number of pictures and ``FORMAT``.

    Args:
        out: the folder ``pictures``.
        seed: chooses everything that is random.
        count: pictures in all.
        split: ``train`` or ``test``.
        jobs: processes.
        sources: the recipe's fetched sources; ``sources`` beside ``out`` when None.
        report: told the number of pictures of each finished shard; a progress bar is drawn when None.

    Returns:
        Pictures a kind.

    Raises:
        InputError: the split is unknown or the sources are not there.
    """
    if split not in SPLITS:
        raise InputError(f"picture split '{split}' is unknown; choose train or test")
    out.mkdir(parents=True, exist_ok=True)
    shares = plan(count, split)
    work = _missing(out, seed, shares, split)
    if not work:
        return shares
    folder = sources if sources is not None else out.parent / "sources"
    global _library
    _library = load_library(folder)  # once, before the processes fork
    context = multiprocessing.get_context("fork")
    with Progress(disable=report is not None) as progress:
        task = progress.add_task(f"pictures {split}", total=sum(item[4] for item in work))
        with ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(10, str(folder))) as pool:
            futures = {pool.submit(_write_shard, *item): item[4] for item in work}
            for future in as_completed(futures):
                future.result()
                progress.advance(task, futures[future])
                if report is not None:
                    report(futures[future])
    return shares


def _missing(out: Path, seed: int, shares: Mapping[str, int], split: str) -> list[tuple[str, str, int, int, int, str]]:
    """What is still to be written. Shards of another seed, plan or format are removed first."""
    made = {"seed": seed, "plan": shares, "per_shard": PER_SHARD, "format": FORMAT}
    stamp, marker = json.dumps(made), out / f".{split}.json"
    if not marker.is_file() or marker.read_text() != stamp:
        for old in out.glob(f"*-{split}-*.tar"):
            old.unlink()
        write_text(marker, stamp)
    work = []
    for kind, number in shares.items():
        for n, first in enumerate(range(0, number, PER_SHARD)):
            path = out / f"{kind}-{split}-{n:06d}.tar"
            if not path.is_file():
                work.append((str(path), kind, seed, first, min(PER_SHARD, number - first), split))
    return work
