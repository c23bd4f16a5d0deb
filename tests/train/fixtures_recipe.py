"""A recipe's data in miniature: eight exchanges, six pictures, units for every text."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (20, 200, 40), "blue": (30, 30, 220)}
TALK = [
    ("Hello, how are you?", "I am fine, thank you!", "happy", "normal"),
    ("My dog is ill.", 'Oh no, I am "sorry".', "sad", "low"),
    ("Somebody took my bike!", "That is not fair!", "angry", "high"),
    ("What is a fox?", "It is a quick brown animal.", "neutral", "normal"),
]
QUESTION = "What colour is the ball?"
SIZE = "How big is the ball?"


def units_of(text: str, voice: int) -> list[int]:
    """Units that depend on the text and a little on the voice."""
    rng = np.random.default_rng([len(text), voice])
    return [(ord(letter) * 7 + int(rng.integers(2))) % 4096 for letter in text]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write_recipe(root: Path, *, regions: str = "regions") -> Path:
    """Write the data under ``root`` in the layout of ``data/nano``; ``regions`` names their field in a record."""
    for folder in ("text", "pictures", "units"):
        (root / folder).mkdir(parents=True)
    with (root / "text" / "talk.jsonl").open("w") as file:
        for index, (question, answer, emotion, pitch) in enumerate(TALK):
            for split in ("train", "test"):
                row = {"id": f"talk-{index}", "question": question, "answer": answer, "intent": "any"}
                file.write(json.dumps({**row, "emotion": emotion, "pitch": pitch, "split": split}) + "\n")
    answers = {answer for _, answer, _, _ in TALK} | {f"It is {colour}." for colour in COLOURS} | {"It is big."}
    for split in ("train", "test"):
        with tarfile.open(root / "pictures" / f"ball-{split}-000000.tar", "w") as tar:
            for index, (name, colour) in enumerate(COLOURS.items()):
                buffer = io.BytesIO()
                Image.new("RGB", (28, 28), colour).save(buffer, "PNG")
                add(tar, f"ball-{index}.png", buffer.getvalue())
                ask = {"question": QUESTION, "answer": f"It is {name}.", "emotion": "neutral", "pitch": "normal"}
                size = {"question": SIZE, "answer": "It is big.", "emotion": "happy", "pitch": "high"}
                record: dict[str, object] = {"kind": "ball", "caption": f"A {name} ball.", "split": split}
                record["reordered"] = [f"A ball, {name}."] if index % 2 else []
                record[regions] = (
                    [{"text": text, "box": [0, 0, 0.5, 1]} for text in (name, "ball")] if index % 2 else []
                )
                record["questions"] = [{**ask, "type": "colour"}, {**size, "type": "size"}]
                add(tar, f"ball-{index}.json", json.dumps(record).encode())
    questions = {question for question, *_ in TALK} | {QUESTION, SIZE}
    for name, texts, voices in (("question", questions, 2), ("answer", answers, 1)):
        with (root / "units" / f"{name}.jsonl").open("w") as file:
            for split in ("train", "test") if name == "question" else ("train",):
                for text in sorted(texts):
                    for voice in range(voices):
                        line: dict[str, object] = {
                            "key": f"{name}-{text}-{voice}",
                            "text": text,
                            "units": units_of(text, voice),
                        }
                        line.update(voice=f"v{voice}", gender="female", emotion="neutral", pitch="normal")
                        file.write(json.dumps({**line, "set": name, "split": split}) + "\n")
    return root
