"""Held-out items for the evaluation of emova-nano: spoken questions by voices of families never trained on, unseen
pictures, unseen phrasings; all read from the folders that the data recipe ``nano`` wrote."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from emova.errors import InputError
from emova.shards import read_shard


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: its key, its facts and its media bytes by extension."""

    key: str
    facts: dict[str, Any]
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


def read_shards(folder: Path, pattern: str) -> Iterator[ShardSample]:
    """The samples of all shards ``folder/pattern`` in order.

    Raises:
        InputError: no shard matches.
    """
    paths = sorted(folder.glob(pattern))
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
    record: dict[str, Any]
    emotion: str
    pitch: str


def held_out_questions(data: Path) -> list[ShardSample]:
    """The held-out questions as spoken by families of voices that nothing was trained on."""
    from data_recipes.nano.voices import HELD_OUT_FAMILIES

    samples = read_shards(data / "speech", "question-test-*.tar")
    return [sample for sample in samples if sample.facts["family"] in HELD_OUT_FAMILIES]


def load_dialogues(data: Path, limit: int | None, seed: int, sample_rate: int = 16000) -> list[DialogueItem]:
    """Talk and picture questions that were spoken by held-out voices, in a seeded order, ``limit`` of each."""
    spoken: dict[str, list[ShardSample]] = {}
    for sample in held_out_questions(data):
        spoken.setdefault(sample.facts["text"], []).append(sample)
    rng = random.Random(seed)
    talk: list[DialogueItem] = []
    with open(data / "text" / "talk.jsonl", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["split"] == "test" and record["question"] in spoken:
                sample = rng.choice(spoken[record["question"]])
                talk.append(_item(f"talk/{record['id']}", "talk", record, sample, None, sample_rate))
    pictures: list[DialogueItem] = []
    for shown in read_shards(data / "pictures", "*-test-*.tar"):
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
    name: str, kind: str, record: dict[str, Any], spoken: ShardSample, image: Image.Image | None, rate: int
) -> DialogueItem:
    voice = spoken.facts["voice"]
    emotion, pitch = record["emotion"], record["pitch"]
    return DialogueItem(name, kind, record["question"], voice, spoken.audio(rate), image, record, emotion, pitch)
