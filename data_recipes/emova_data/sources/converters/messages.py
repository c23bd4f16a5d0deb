"""Conversations in OpenAI's form: ``messages`` whose content is text or parts, with pictures and sound in them.

A picture is ``{"type": "image_url", "image_url": {"url"}}`` or ``{"type": "image", "image"}``, sound is ``{"type":
"input_audio", "input_audio": {"data", "format"}}`` or ``{"type": "audio", "audio"}``; each a path below the folder, a
``data:`` address, or base64. An answer that is spoken too has its sound in such a part beside its text, and the
question's part its ``transcript``; ``emotion`` and ``pitch`` of the message say how it is said.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from emova.speech.style import DEFAULT_STYLES
from emova_data.records.records import (
    ROLES,
    BadRecord,
    Draft,
    Media,
    Message,
    Part,
    Record,
    check_turns,
    image_media,
    message,
    read_member,
    reject,
    split_units,
)
from emova_data.sources.converters import speech
from emova_data.sources.converters.rows import UNREADABLE, Fields, Options, rows_of

_DATA = re.compile(r"data:[\w/+.;=-]*;base64,", re.ASCII)
_PICTURES = ("image", "image_url", "input_image")
_SOUNDS = ("audio", "input_audio", "audio_url")


def messages(folder: Path, options: Options) -> Iterator[Draft]:
    """The rows of the option ``files`` (default: all .jsonl, .json and .parquet files). Raises: InputError: none."""
    for name, row in rows_of(folder, options.get("files", ["**/*.jsonl", "**/*.json", "**/*.parquet"])):
        if row is None:
            yield Draft(name, reject(UNREADABLE))
        else:
            identity = name if row.get("id") is None else f"{name}:{row['id']}"
            yield Draft(identity, partial(_record, row, identity, folder, options))


def _record(row: Fields, identity: str, folder: Path, options: Options) -> Record:
    listed = row.get("messages")
    if not isinstance(listed, list):
        raise BadRecord("no messages")
    reader = _Reader(folder / options.get("images", ""), options)
    made = [reader.message(each) for each in listed]
    check_turns(made)
    turns = [_spoken(before, turn) for before, turn in zip([None, *made], made, strict=False)]
    return Record(identity, turns, reader.media, {}, tuple(sorted(reader.notes)))


class _Reader:
    """Gathers the media of a record while its messages are read."""

    def __init__(self, root: Path, options: Options) -> None:
        self.root, self.options = root, options
        self.media: list[Media] = []
        self.notes: set[str] = set()

    def message(self, raw: object) -> Message:
        if not isinstance(raw, Mapping) or raw.get("role") not in (*ROLES, "developer"):
            raise BadRecord("an unknown role")
        role = ROLES.get(raw["role"], "system")
        content = raw.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        if not isinstance(parts, list):
            raise BadRecord("content that is neither text nor parts")
        found = [made for part in parts for made in self.part(part)]
        if role == "assistant" and isinstance(raw.get("audio"), Mapping):
            found += self.part({"type": "audio", "audio": raw["audio"]})
        made = message(role, *found)
        if raw.get("emotion"):
            made["emotion"] = str(raw["emotion"])
        if raw.get("pitch"):
            made["pitch"] = str(raw["pitch"])
        return made

    def part(self, raw: object) -> list[Part]:
        if not isinstance(raw, Mapping):
            raise BadRecord("a part that is neither text, picture nor sound")
        kind = raw.get("type")
        if kind in ("text", "input_text", "output_text"):
            return split_units(str(raw["text"]))
        if kind in _PICTURES:
            made = image_media(self.content(raw[kind] if kind in raw else raw.get("image_url")), len(self.media))
            self.media.append(made)
            return [{"type": "image", "image": made.member}]
        if kind in _SOUNDS:
            return [self.sound(raw, raw[kind])]
        raise BadRecord("a part that is neither text, picture nor sound")

    def sound(self, raw: Mapping[str, object], value: object) -> Part:
        samples, rate, found = speech.decoded(self.content(value), int(self.options.get("sample_rate", 0)))
        self.notes.update(speech.rate_notes(found))
        member = f"{len(self.media)}.flac"
        self.media.append(Media(member, speech.flac(samples, rate)))
        inner = value if isinstance(value, Mapping) else {}
        words = raw.get("transcript") or inner.get("transcript") or raw.get("text")
        made: Part = {"type": "audio", "audio": member}
        if words:
            made["text"] = str(words)
        return made

    def content(self, value: object) -> bytes:
        if isinstance(value, Mapping):
            value = next((value[key] for key in ("url", "data", "path", "bytes", "file") if value.get(key)), None)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise BadRecord("media that are neither a path nor bytes")
        if re.match(r"(https?|s3|gs)://", value):
            raise BadRecord("media at an address; download them first and name their paths")
        value = value.removeprefix("file://")
        header = _DATA.match(value)
        if header is None and len(value) < 1024 and "\n" not in value:
            return read_member(self.root, value)
        try:
            return base64.b64decode(value[header.end() if header else 0 :], validate=True)
        except ValueError:
            raise BadRecord("media that cannot be decoded") from None


def _spoken(before: Message | None, turn: Message) -> Message:
    """An answer with sound becomes a spoken reply; all others keep their parts."""
    emotion = turn.pop("emotion", DEFAULT_STYLES.emotions[0])
    pitch = turn.pop("pitch", DEFAULT_STYLES.pitches[0])
    sounds = [part for part in turn["content"] if part["type"] == "audio"]
    if turn["role"] != "assistant" or not sounds:
        return turn
    words = " ".join(part["text"] for part in turn["content"] if part["type"] == "text") or sounds[0].get("text", "")
    asked = before["content"] if before is not None else []
    transcript = " ".join(part["text"] for part in asked if part.get("text"))
    if len(sounds) > 1 or not words or not transcript:
        raise BadRecord("a spoken answer without its text, or without the words of its question")
    if any(part["type"] == "audio" and not part.get("text") for part in asked):
        raise BadRecord("a spoken answer to a question without a transcript")
    reply: Part = {"type": "reply", "transcript": transcript, "text": words, "audio": sounds[0]["audio"],
                   "emotion": emotion, "pitch": pitch}  # fmt: skip
    return message("assistant", reply)
