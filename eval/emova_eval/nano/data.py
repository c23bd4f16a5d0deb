"""Held-out items for the evaluation of emova-nano: spoken questions by voices of families never trained on, unseen
pictures, unseen phrasings; all read from the folders that the data recipe ``nano`` wrote."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import soundfile
from PIL import Image

from emova.core.errors import InputError
from emova.core.tar_samples import read_shard
from emova_eval.metrics.text import normalize_english


class TextRow(TypedDict, total=False):
    """A line of the recipe's ``text/*.jsonl`` or ``heard_test/*.jsonl``, or a question of a picture: what it has of
    these depends on the file."""

    id: str
    split: str
    text: str
    question: str
    answer: str
    intent: str
    slots: dict[str, str]
    type: str
    key: str
    emotion: str
    pitch: str
    source: str
    voice: str
    units: str
    held_out: str


class SampleFacts(TypedDict, total=False):
    """The JSON of a recording or a picture: what it has of these depends on which it is."""

    text: str
    voice: str
    family: str
    gender: str
    emotion: str
    pitch: str
    split: str
    seconds: float
    phones: list[str]
    kind: str
    caption: str
    questions: list[TextRow]
    question: str
    source: str


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: its key, its facts and its media bytes by extension."""

    key: str
    facts: SampleFacts
    media: dict[str, bytes]

    def audio(self, sample_rate: int) -> np.ndarray:
        """The sample's sound [T] at ``sample_rate``."""
        samples, rate = soundfile.read(io.BytesIO(self.media["flac"]), dtype="float32")
        if rate != sample_rate:
            import soxr

            samples = soxr.resample(samples, rate, sample_rate).astype(np.float32)
        return samples

    def image(self) -> Image.Image:
        """The sample's picture."""
        return Image.open(io.BytesIO(self.media["png"])).convert("RGB")


OTHERS = "_by-"
"""In the names of shards of pictures that other programs drew."""


def read_shards(folder: Path, pattern: str, without: str = "\n") -> Iterator[ShardSample]:
    """The samples of all shards ``folder/pattern`` in order; none whose name holds ``without``.

    Raises:
        InputError: no shard matches.
    """
    paths = sorted(path for path in folder.glob(pattern) if without not in path.name)
    if not paths:
        raise InputError(f"{folder / pattern}: no such shards; run `emova data make nano`")
    for path in paths:
        for key, members in read_shard(path):
            parts = {extension: member.read() for extension, member in members.items()}
            try:
                facts = json.loads(parts.pop("json"))
            except (KeyError, ValueError):
                raise InputError(f"{path}: the record of {key} is missing or damaged; make the shard again") from None
            yield ShardSample(key, facts, parts)


@dataclass(frozen=True)
class DialogueItem:
    """One held-out exchange: what is asked, by which voice, about which picture, and what a right answer is.

    ``record`` is the recipe's own record (a talk exchange or a picture question), which its judge reads.
    """

    id: str
    kind: str
    question: str
    voice: str
    audio: np.ndarray
    image: Image.Image | None
    record: TextRow
    emotion: str
    pitch: str


# The same speakers as flite's slt and kal16, whom the tokenizer is trained on, by another method: not unheard.
KNOWN_SPEAKERS = ("festival/cmu_us_slt_arctic_hts", "festival/kal_diphone")


def held_out_questions(data: Path, unheard: bool = True) -> list[ShardSample]:
    """The held-out questions as spoken by speakers that nothing was trained on, or else by those of the training."""
    from emova_data.nano.voices.voices import HELD_OUT_FAMILIES

    def is_unheard(facts: SampleFacts) -> bool:
        return facts["family"] in HELD_OUT_FAMILIES and facts["voice"] not in KNOWN_SPEAKERS

    samples = read_shards(data / "speech", "question-test-*.tar")
    return [sample for sample in samples if sample.facts["split"] == "test" and is_unheard(sample.facts) == unheard]


def read_lines(path: Path) -> list[TextRow]:
    """The records of a recipe's JSON Lines file. Raises: InputError: it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: missing; run `emova data make nano`")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError:
        raise InputError(f"{path}: damaged; run `emova data make nano` again") from None


def said_in_training(data: Path) -> set[str]:
    """The normalised questions of the training split: none of them may be asked here, in whatever spelling."""
    known = {normalize_english(row["question"]) for row in _split(data / "text" / "talk.jsonl", "train")}
    asked = data / "text" / "picture_questions.jsonl"
    if asked.is_file():
        known |= {normalize_english(row["text"]) for row in _split(asked, "train")}
    return known


def _split(path: Path, split: str) -> list[TextRow]:
    return [row for row in read_lines(path) if row["split"] == split]


def load_dialogues(data: Path, limit: int | None, seed: int, sample_rate: int = 16000) -> list[DialogueItem]:
    """Talk and picture questions that unheard voices ask, in a seeded order, ``limit`` of each.

    A question counts only where its words are in no training question, and a picture only if it is of the test split.
    """
    known = said_in_training(data)
    spoken: dict[str, list[ShardSample]] = {}
    for sample in held_out_questions(data):
        if normalize_english(sample.facts["text"]) not in known:
            spoken.setdefault(sample.facts["text"], []).append(sample)
    rng = random.Random(seed)
    talk: list[DialogueItem] = []
    for record in _split(data / "text" / "talk.jsonl", "test"):
        if record["question"] in spoken:
            sample = rng.choice(spoken[record["question"]])
            talk.append(_item(f"talk/{record['id']}", "talk", record, sample, None, sample_rate))
    pictures: list[DialogueItem] = []
    for shown in read_shards(data / "pictures", "*-test-*.tar", without=OTHERS):
        for index, question in enumerate(shown.facts["questions"]):
            if question["question"] in spoken:
                sample = rng.choice(spoken[question["question"]])
                name = f"{shown.key}/{index}"
                pictures.append(_item(name, shown.facts["kind"], question, sample, shown.image(), sample_rate))
    for items in (talk, pictures):
        rng.shuffle(items)
    # Equal shares of each kind of picture, so that a small limit still covers all of them.
    seen: dict[str, int] = {}
    ranked = []
    for item in pictures:
        seen[item.kind] = seen.get(item.kind, 0) + 1
        ranked.append((seen[item.kind], item))
    pictures = [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
    return talk[:limit] + pictures[:limit]


def _item(
    name: str, kind: str, record: TextRow, spoken: ShardSample, image: Image.Image | None, rate: int
) -> DialogueItem:
    voice = spoken.facts["voice"]
    emotion, pitch = record["emotion"], record["pitch"]
    return DialogueItem(name, kind, record["question"], voice, spoken.audio(rate), image, record, emotion, pitch)
