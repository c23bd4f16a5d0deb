"""Converted sets in miniature: pictures, speech with units, text, spoken dialogues, as `emova data` writes them."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from PIL import Image

from emova_data.records.records import Draft, Media, Part, Record, message, text
from emova_data.sources.convert import ConvertConfig, convert

COLOURS = ((220, 30, 30), (20, 200, 40), (30, 30, 220))


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), COLOURS[number % 3]).save(buffer, "PNG")
    return buffer.getvalue()


def pictured(number: int) -> Record:
    asked = message("user", {"type": "image", "image": "0.png"}, text(f"Which colour has ball {number}?"))
    return Record(f"p{number}", [asked, message("assistant", text("It is red."))], (Media("0.png", picture(number)),))


def heard(number: int) -> Record:
    units = [(number * 13 + at) % 4096 for at in range(10 + number % 5)]
    said: Part = {"type": "audio", "audio": "flac", "units": units}
    extra = {"task": "speech", "text": f"This is sentence {number}."}
    return Record(f"s{number}", [message("user", said), message("assistant", text(extra["text"]))], (), extra)


def written(number: int) -> Record:
    turns = [message("user", text(f"Hello {number}, how are you?")), message("assistant", text("I am fine! " * 3))]
    return Record(f"t{number}", turns)


def spoken(number: int) -> Record:
    units = [(number + at) % 4096 for at in range(8)]
    asked: Part = {"type": "audio", "audio": "question.flac", "text": "How are you?", "units": units}
    reply: Part = {
        "type": "reply", "transcript": "How are you?", "text": "I am fine.", "emotion": "happy", "pitch": "high",
        "audio": "answer.flac", "units": units[::-1],
    }  # fmt: skip
    asked_of: Part = {"type": "image", "image": "0.png"}
    turns = [message("user", asked_of, asked), message("assistant", reply)]
    return Record(f"o{number}", turns, (Media("0.png", picture(number)),))


MAKERS = {"pictures": pictured, "speech": heard, "text": written, "omni": spoken}


def write_sets(root: Path, records: int = 40, per_shard: int = 8) -> Path:
    """Write one set of each kind under ``root``."""
    for name, make in MAKERS.items():
        drafts = [Draft(str(number), partial(make, number)) for number in range(records)]
        suffix = ".jsonl" if name == "text" else ".tar"
        convert(drafts, root / name, name, suffix=suffix, config=ConvertConfig(per_shard))
    return root
