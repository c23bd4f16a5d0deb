"""The recipe ``smoke``: a slice of nano that needs no download, to try every training program in minutes.

Some exchanges, drawn scenes and hibari's voices, in nano's layout, under ``data/smoke``. It teaches nothing: it shows
that everything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from emova.core.writing import write_text
from emova_data.nano.pictures.make import PictureRecord, make_picture, write_pictures
from emova_data.nano.recipe import Progress
from emova_data.nano.speech.sets import SPEECH_RATE, STYLE_RATE
from emova_data.nano.speech.shard_maker import Item, ShardInfo, make_set
from emova_data.nano.text.talk import Exchange, build
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import PSEUDO_VOICES

KIND = "tables"
_VOICES = ("hibari/female", "hibari/male", *(f"hibari/p{index:02d}" for index in range(PSEUDO_VOICES)))
_LONG = 30
"""Characters of a text that lasts more than a second in any voice."""


@dataclass(frozen=True)
class SmokePlan:
    """Amounts, for training and test."""

    exchanges: tuple[int, int] = (16, 4)
    pictures: tuple[int, int] = (12, 3)
    style_texts: int = 4
    """Each in 24 styles: four recordings a style are the least that prototypes are chosen from."""


def make(
    root: Path, seed: int = 0, jobs: int = 1, progress: Progress | None = None, plan: SmokePlan | None = None
) -> Path:
    """Write the slice to ``root/smoke``, which is returned; what is there already is kept."""
    plan, progress, folder = plan or SmokePlan(), progress or Progress(), root / "smoke"
    progress.start("text and pictures", 2)
    talk = _talk(plan, seed)
    for name in ("text", "speech", "units"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "text" / "talk.jsonl", talk)
    progress.advance()
    records: dict[str, list[PictureRecord]] = {}
    for split, count in zip(("train", "test"), plan.pictures, strict=True):
        samples = [make_picture(KIND, seed, index, split) for index in range(count)]
        write_pictures(folder / "pictures" / f"{KIND}-{split}-000000.tar", samples)
        records[split] = [sample.record for sample in samples]
    asked = [(split, each) for split, rows in records.items() for row in rows for each in row["questions"]]
    _write_lines(
        folder / "text" / "pictures.jsonl",
        [{"text": row["caption"]} for rows in records.values() for row in rows]
        + [{"text": f"{each['question']} {each['answer']}"} for _, each in asked],
    )
    progress.advance()
    questions = {
        split: _unique([row["question"] for row in talk if row["split"] == split]
                       + [each["question"] for where, each in asked if where == split])
        for split in ("train", "test")
    }  # fmt: skip
    answers = _unique([row["answer"] for row in talk] + [each["answer"] for _, each in asked])
    long = [text for text in answers if len(text) >= _LONG]
    sets = [
        _spoken("s2u", "train", [*questions["train"], *answers], seed),
        _spoken("s2u", "test", questions["test"], seed),
        _spoken("question", "train", questions["train"], seed),
        _spoken("question", "test", questions["test"], seed),
        [Item(f"answer_{at:04d}", text, _VOICES[0], "answer", "train", SPEECH_RATE, seed=seed)
         for at, text in enumerate(answers)],
        _styles("train", long[: plan.style_texts], seed),
        _styles("test", long[plan.style_texts : plan.style_texts + 1], seed),
    ]  # fmt: skip

    def report(info: ShardInfo, made: bool) -> None:
        for _ in range(info.items):
            progress.advance()

    for items in sets:
        progress.start(f"{items[0].set}-{items[0].split}", len(items))
        make_set(
            folder / "speech", items, folder / "sources", jobs=jobs, per_shard=100,
            report=report,
        )  # fmt: skip
    return folder


def _talk(plan: SmokePlan, seed: int) -> list[Exchange]:
    rows = build(seed, train=2, test=1)
    chosen = []
    for split, count in zip(("train", "test"), plan.exchanges, strict=True):
        chosen += [row for row in rows if row["split"] == split][:count]
    return chosen


def _spoken(name: str, split: str, texts: list[str], seed: int) -> list[Item]:
    return [
        Item(f"{name}_{split}_{at:04d}", text, _VOICES[at % len(_VOICES)], name, split, SPEECH_RATE, seed=seed)
        for at, text in enumerate(texts)
    ]


def _styles(split: str, texts: list[str], seed: int) -> list[Item]:
    ways = product(enumerate(texts), _VOICES[:2], NANO_STYLES.emotions, NANO_STYLES.pitches)
    return [
        Item(f"style_{split}_{at:03d}_{voice.split('/')[1]}_{emotion}_{pitch}", text, voice, "style", split, STYLE_RATE,
             emotion, pitch, seed)
        for (at, text), voice, emotion, pitch in ways
    ]  # fmt: skip


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
