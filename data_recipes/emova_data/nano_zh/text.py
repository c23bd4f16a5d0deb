"""Sentences and short dialogues in Mandarin: templates with slots, and words of a dictionary in a row for their sounds.

Rows have the form of the recipe nano's: ``text/sentences.jsonl`` (id, split, text, language) and ``text/talk.jsonl``
(id, split, question, answer, emotion, pitch, intent, language). Numbers are written as they are read.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import yaml

from emova_data.mandarin.normalise import normalise

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_COMMON = 300
"""How often a word must stand in jieba's dictionary."""
LANGUAGE = "zh"


class Sentence(TypedDict):
    """A sentence to be spoken."""

    id: str
    split: str
    text: str
    language: str


class Exchange(TypedDict):
    """A question and its spoken answer."""

    id: str
    split: str
    question: str
    answer: str
    emotion: str
    pitch: str
    intent: str
    language: str


@lru_cache(maxsize=1)
def _language() -> Mapping[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "language.yaml").read_text(encoding="utf-8"))


def expanded(template: str) -> list[str]:
    """All readings of a template's alternatives, slots left as they are."""
    parts = _CHOICE.split(template)
    choices = [part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]
    return ["".join(picked) for picked in itertools.product(*choices)]


def filled(template: str, rng: random.Random, row: Mapping[str, str] | None = None) -> str:
    """A template with each slot filled: from ``row``, or with a word that is drawn, another one each time."""
    slots: Mapping[str, Sequence[str]] = _language()["slots"]
    used: set[str] = set()

    def word(match: re.Match[str]) -> str:
        if row is not None and match[1] in row:
            return row[match[1]]
        left = [each for each in slots[match[1]] if each not in used] or list(slots[match[1]])
        used.add(chosen := rng.choice(left))
        return chosen

    return normalise(_SLOT.sub(word, template))


def common_words() -> list[str]:
    """Words of two to four characters that are common in jieba's dictionary. Raises: ImportError: no jieba."""
    import jieba

    with jieba.get_dict_file() as lines:
        rows = [line.decode("utf-8").split() for line in lines]
    return [row[0] for row in rows if len(row) == 3 and int(row[1]) >= _COMMON and re.fullmatch("[一-鿿]{2,4}", row[0])]


def sentences(count: int, test: int, seed: int = 0) -> list[Sentence]:
    """``count`` training and ``test`` held-out sentences, all different: half from templates, half dictionary words."""
    rng = random.Random(f"{seed} zh sentences")
    templates = [each for template in _language()["sentences"] for each in expanded(template)]
    words = common_words()
    found: dict[str, None] = {}
    while len(found) < count + test:
        if len(found) % 2:
            text = "，".join(rng.sample(words, rng.randint(3, 5))) + "。"
        else:
            text = filled(rng.choice(templates), rng)
        found.setdefault(text)
    texts = list(found)
    rng.shuffle(texts)
    return [
        {"id": f"zh-{at:05d}", "split": "test" if at < test else "train", "text": text, "language": LANGUAGE}
        for at, text in enumerate(texts)
    ]


def talk(seed: int = 0, each: int = 30) -> list[Exchange]:
    """At most ``each`` training exchanges an intent (or row of one), and its held-out phrasings."""
    found: list[Exchange] = []
    for intent, content in _language()["dialogues"].items():
        emotion, pitch = content["style"].split()
        rng = random.Random(f"{seed} zh {intent}")
        for row in content.get("rows") or [None]:
            for split, asked in (("train", content["questions"]), ("test", content["test"])):
                readings = [reading for template in asked for reading in expanded(template)]
                rng.shuffle(readings)
                for question in dict.fromkeys(filled(reading, rng, row) for reading in readings[:each]):
                    answer = filled(rng.choice(content["answers"]), rng, row)
                    found.append(
                        {"id": f"zh-talk-{len(found):05d}", "split": split, "question": question, "answer": answer,
                         "emotion": emotion, "pitch": pitch, "intent": intent, "language": LANGUAGE}
                    )  # fmt: skip
    asked_in_training = {row["question"] for row in found if row["split"] == "train"}
    kept = [row for row in found if row["split"] == "train" or row["question"] not in asked_in_training]
    return list(_unique(kept))


def _unique(rows: Sequence[Exchange]) -> Iterator[Exchange]:
    seen: set[str] = set()
    for row in rows:
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row
