"""Samples of a converted set as a folder of questions: what ``emova eval own`` asks and judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Required, TypedDict

from emova.core.errors import InputError
from emova.core.writing import make_folder, staged_output, write_text
from emova_data.records.records import Sample
from emova_data.records.shard_writer import read_set


class QuestionRow(TypedDict, total=False):
    """A line of ``meta.jsonl``; ``emova_eval.suite.datasets`` says what it means."""

    id: str
    answer: Required[str]
    metric: Required[str]
    text: str
    image: list[str]
    audio: str


def write_questions(folder: Path, out: Path, limit: int, metric: str = "") -> int:
    """Write the first question of each of the set's first samples to ``out`` (``meta.jsonl`` and media); how many.

    Speech with its transcript becomes a question whose answer is the transcript; what has no answer in words is left
    out.

    Raises:
        InputError: there is no such set, or nothing in it can be asked.
    """
    make_folder(out)
    rows: list[QuestionRow] = []
    for sample in read_set(folder):
        if len(rows) == limit:
            break
        row = _question(sample, metric)
        if row is None:
            continue
        number = f"{len(rows):05d}"
        if pictures := row.get("image"):
            row["image"] = [_write(out / f"{number}-{at}", each, sample) for at, each in enumerate(pictures)]
        if sound := row.get("audio"):
            row["audio"] = _write(out / f"{number}-0", sound, sample)
        rows.append({"id": str(sample["id"]), **row})
    if not rows:
        raise InputError(f"{folder}: nothing in it can be asked; a question needs an answer in words")
    write_text(out / "meta.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _write(stem: Path, member: str, sample: Sample) -> str:
    """The name of the file that holds a sample's member from now on."""
    path = stem.with_name(f"{stem.name}.{member.rpartition('.')[2]}")
    with staged_output(path) as file:
        file.write(sample["media"][member])
    return path.name


def _question(sample: Sample, metric: str) -> QuestionRow | None:
    turns = [turn for turn in sample["messages"] if turn["role"] != "system"]
    if len(turns) < 2 or turns[0]["role"] != "user":
        return None
    asked, answered = turns[0]["content"], turns[1]["content"]
    answer = " ".join(part["text"] for part in answered if part.get("text"))
    pictures = [part["image"] for part in asked if part["type"] == "image"]
    sounds = [part["audio"] for part in asked if part["type"] == "audio"]
    if not answer or any(member not in sample["media"] for member in (*pictures, *sounds)):
        return None
    row: QuestionRow = {"answer": answer, "metric": metric or "contains"}
    if words := " ".join(part["text"] for part in asked if part["type"] == "text"):
        row["text"] = words
    if pictures:
        row["image"] = pictures
    if sounds:
        row["audio"] = sounds[0]
    if sample.get("task") == "speech":
        row["text"], row["metric"] = "Write down what you hear.", metric or "wer"
    return row
