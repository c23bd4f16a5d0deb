"""Samples of a converted set as a folder of questions: what ``emova eval own`` asks and judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emova.core.errors import InputError
from emova.core.writing import make_folder, staged_output, write_text
from emova_data.records.shard_writer import read_set


def write_questions(folder: Path, out: Path, limit: int, metric: str = "") -> int:
    """Write the first question of each of the set's first samples to ``out`` (``meta.jsonl`` and media); how many.

    Speech with its transcript becomes a question whose answer is the transcript; what has no answer in words is left
    out.

    Raises:
        InputError: there is no such set, or nothing in it can be asked.
    """
    make_folder(out)
    rows: list[dict[str, Any]] = []
    for sample in read_set(folder):
        if len(rows) == limit:
            break
        row = _question(sample, metric)
        if row is None:
            continue
        number = f"{len(rows):05d}"
        for kind in ("image", "audio"):
            names = [row[kind]] if isinstance(row.get(kind), str) else row.get(kind, [])
            kept = []
            for at, member in enumerate(names):
                path = out / f"{number}-{at}.{member.rpartition('.')[2]}"
                with staged_output(path) as file:
                    file.write(sample["media"][member])
                kept.append(path.name)
            if kept:
                row[kind] = kept if kind == "image" else kept[0]
        rows.append({"id": str(sample["id"]), **row})
    if not rows:
        raise InputError(f"{folder}: nothing in it can be asked; a question needs an answer in words")
    write_text(out / "meta.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _question(sample: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    turns = [turn for turn in sample["messages"] if turn["role"] != "system"]
    if len(turns) < 2 or turns[0]["role"] != "user":
        return None
    asked, answered = turns[0]["content"], turns[1]["content"]
    answer = " ".join(part["text"] for part in answered if part.get("text"))
    members = [part[part["type"]] for part in asked if part["type"] in ("image", "audio")]
    if not answer or any(member not in sample["media"] for member in members):
        return None
    row: dict[str, Any] = {"answer": answer, "metric": metric or "contains"}
    if words := " ".join(part["text"] for part in asked if part["type"] == "text"):
        row["text"] = words
    if pictures := [part["image"] for part in asked if part["type"] == "image"]:
        row["image"] = pictures
    if sounds := [part["audio"] for part in asked if part["type"] == "audio"]:
        row["audio"] = sounds[0]
    if sample.get("task") == "speech":
        row |= {"text": "Write down what you hear.", "metric": metric or "wer"}
    return row
