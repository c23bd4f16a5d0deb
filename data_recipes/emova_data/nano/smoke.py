"""Two slices of nano that need no download: exchanges, drawn pictures and hibari's voices, in nano's layout.

``smoke`` is for trying every training program in minutes: it teaches nothing, it shows that everything runs. ``small``
is a world of a size for one core, for comparisons of ways to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from emova.core.writing import write_text
from emova_data.nano.pictures.make import SPLITS, PictureRecord, make_picture, write_pictures
from emova_data.nano.recipe import Progress
from emova_data.nano.speech.sets import SPEECH_RATE, STYLE_RATE
from emova_data.nano.speech.shard_maker import Item, ShardInfo, make_set
from emova_data.nano.text.talk import Exchange, build
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import PSEUDO_VOICES

_VOICES = ("hibari/female", "hibari/male", *(f"hibari/p{index:02d}" for index in range(PSEUDO_VOICES)))
_LONG = 30
"""Characters of a text that lasts more than a second in any voice."""


@dataclass(frozen=True)
class SmokePlan:
    """Amounts, for training and test; the defaults are smoke's."""

    name: str = "smoke"
    exchanges: tuple[int, int] = (16, 4)
    kinds: tuple[str, ...] = ("tables",)
    """Of pictures; those that are drawn from nothing."""
    pictures: tuple[int, int] = (12, 3)
    """Of each kind."""
    spoken: tuple[int, int] = (1000, 1000)
    """Questions, and as many answers, that are spoken at most."""
    twice: bool = True
    """Whether ``s2u`` has the questions too."""
    voices: int = len(_VOICES)
    style_texts: int = 4
    """Each in 24 styles: four recordings a style are the least that prototypes are chosen from."""


SMALL = SmokePlan(
    name="small", exchanges=(600, 60), kinds=("scenes", "signs", "faces", "weather", "price_tags"), pictures=(400, 40),
    spoken=(800, 120), twice=False, voices=4, style_texts=0,
)  # fmt: skip


def make(
    root: Path, seed: int = 0, jobs: int = 1, progress: Progress | None = None, plan: SmokePlan | None = None
) -> Path:
    """Write the slice to ``root``/``plan.name``, which is returned; speech that is there already is kept."""
    plan, progress = plan or SmokePlan(), progress or Progress()
    folder = root / plan.name
    progress.start("text and pictures", 1 + 2 * len(plan.kinds))
    talk = _talk(plan, seed)
    for name in ("text", "speech", "units"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "text" / "talk.jsonl", talk)
    progress.advance()
    records: dict[str, list[PictureRecord]] = {"train": [], "test": []}
    for (split, count), kind in product(zip(SPLITS, plan.pictures, strict=True), plan.kinds):
        samples = [make_picture(kind, seed, index, split) for index in range(count)]
        write_pictures(folder / "pictures" / f"{kind}-{split}-000000.tar", samples)
        records[split] += [sample.record for sample in samples]
        progress.advance()
    asked = [(split, each) for split, rows in records.items() for row in rows for each in row["questions"]]
    _write_lines(
        folder / "text" / "pictures.jsonl",
        [{"text": row["caption"]} for rows in records.values() for row in rows]
        + [{"text": f"{each['question']} {each['answer']}"} for _, each in asked],
    )
    most = dict(zip(SPLITS, plan.spoken, strict=True))
    questions = {
        split: _unique([row["question"] for row in talk if row["split"] == split]
                       + [each["question"] for where, each in asked if where == split])[: most[split]]
        for split in SPLITS
    }  # fmt: skip
    answers = _unique([row["answer"] for row in talk] + [each["answer"] for _, each in asked])[: most["train"]]
    long = [text for text in answers if len(text) >= _LONG]
    speak = partial(_spoken, voices=_VOICES[: plan.voices], seed=seed)
    sets = [
        speak("s2u", "train", [*(questions["train"] if plan.twice else ()), *answers]),
        speak("s2u", "test", questions["test"]),
        speak("question", "train", questions["train"]),
        speak("question", "test", questions["test"]),
        [Item(f"answer_{at:04d}", text, _VOICES[0], "answer", "train", SPEECH_RATE, seed=seed)
         for at, text in enumerate(answers)],
        _styles("train", long[: plan.style_texts], seed),
        _styles("test", long[plan.style_texts : plan.style_texts + bool(plan.style_texts)], seed),
    ]  # fmt: skip

    def report(info: ShardInfo, made: bool) -> None:
        for _ in range(info.items):
            progress.advance()

    for items in filter(None, sets):
        progress.start(f"{items[0].set}-{items[0].split}", len(items))
        make_set(
            folder / "speech", items, folder / "sources", jobs=jobs, per_shard=100,
            report=report,
        )  # fmt: skip
    return folder


def _talk(plan: SmokePlan, seed: int) -> list[Exchange]:
    rows = build(seed, train=2, test=1)
    chosen = []
    for split, count in zip(SPLITS, plan.exchanges, strict=True):
        chosen += [row for row in rows if row["split"] == split][:count]
    return chosen


def _spoken(name: str, split: str, texts: list[str], voices: Sequence[str], seed: int) -> list[Item]:
    return [
        Item(f"{name}_{split}_{at:04d}", text, voices[at % len(voices)], name, split, SPEECH_RATE, seed=seed)
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
