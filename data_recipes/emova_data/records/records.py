"""One form for all training data: conversations of messages with text, image, audio and unit parts.

A shard sample is ``KEY.json`` beside its media (``KEY.0.jpg``, ``KEY.flac``); the JSON holds ``id``, ``source``,
``messages`` and whatever else the converter knows. A message is ``{"role", "content": [part, ...]}`` and a part one of

- ``{"type": "text", "text": str}``
- ``{"type": "image", "image": member}``, ``{"type": "audio", "audio": member}``: the file ``KEY.member``
- ``{"type": "units", "units": [int, ...]}``: speech as units
- ``{"type": "reply", "transcript", "text", "emotion", "pitch", "audio" | "units"}``: a spoken answer (EMOVA §4.2)
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, Required, TypedDict

from emova.core import tokens
from emova.core.errors import InputError


class Part(TypedDict, total=False):
    """A part of a message; what stands beside ``type`` depends on it, see this file's head."""

    type: Required[str]
    text: str
    image: str
    audio: str
    units: Sequence[int]
    transcript: str
    emotion: str
    pitch: str


class Message(TypedDict):
    """One turn; ``emotion`` and ``pitch`` only while a converter reads."""

    role: str
    content: list[Part]
    emotion: NotRequired[str]
    pitch: NotRequired[str]


class Fields(TypedDict, total=False):
    """``KEY.json``; a converter may know more of a sample than this."""

    id: Required[str]
    source: Required[str]
    messages: Required[list[Message]]
    task: str
    text: str
    language: str
    sample_rate: int
    seconds: float | dict[str, float]
    voice: str
    gender: str
    family: str
    phones: list[str]
    alignment: list[tuple[str, float, float]]
    speech_share: float
    set: str
    split: str
    emotion: str
    pitch: str
    user_emotion: str
    user_pitch: str


class Sample(Fields):
    """A record as it is read back: its media by member name beside its fields."""

    media: Required[dict[str, bytes]]


ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
IMAGE_TAG = "<image>"
CODEBOOK = 16_384
"""Of the larger of the papers' codebooks, GLM-4-Voice's; what a model does not have is left out where it learns."""
_IMAGE_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


class BadRecord(Exception):
    """A record that is left out and counted; the message is the reason, the same words for the same fault."""


@dataclass(frozen=True)
class Media:
    """A file of a sample: its name after the key, such as ``0.jpg`` or ``flac``, and its bytes."""

    member: str
    content: bytes


@dataclass(frozen=True)
class Record:
    """One training sample; ``notes`` are what its user should know, in the same words for the same thing: a conversion
    counts them."""

    id: str
    messages: Sequence[Message]
    media: Sequence[Media] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self, source: str) -> dict[str, object]:
        """What ``KEY.json`` or a line of JSONL holds."""
        return {"id": self.id, "source": source, "messages": list(self.messages), **self.extra}


@dataclass(frozen=True)
class Draft:
    """A record still to be built, so that one that fails costs only itself.

    ``build`` may raise ``BadRecord``; reading ahead over drafts is cheap, which is how a conversion resumes.
    """

    id: str
    build: Callable[[], Record]


def _raise(reason: str) -> Record:
    raise BadRecord(reason)


def reject(reason: str) -> Callable[[], Record]:
    """A ``build`` that always fails, for what is already known to be damaged; other processes can run it too."""
    return functools.partial(_raise, reason)


def text(value: str) -> Part:
    return {"type": "text", "text": value}


def message(role: str, *parts: Part) -> Message:
    return {"role": role, "content": list(parts)}


def split_units(value: str) -> list[Part]:
    """Text and unit parts of a string with inline units, ``<|speech_7|>`` and the like. Raises: BadRecord."""
    parts: list[Part] = []
    for piece in tokens.split_units(value):
        if isinstance(piece, str):
            if words := piece.strip():
                parts.append(text(words))
        elif max(piece) >= CODEBOOK:
            raise BadRecord("a unit outside the codebook")
        else:
            parts.append({"type": "units", "units": piece})
    return parts


def content_parts(value: str, members: list[str]) -> list[Part]:
    """Parts of a LLaVA-style string; takes one member from ``members`` for each ``<image>``. Raises: BadRecord."""
    parts: list[Part] = []
    for number, piece in enumerate(value.split(IMAGE_TAG)):
        if number:
            if not members:
                raise BadRecord("an image placeholder without an image")
            parts.append({"type": "image", "image": members.pop(0)})
        parts.extend(split_units(piece))
    return parts


def check_turns(messages: Sequence[Message]) -> None:
    """An optional system message, then user and assistant in turn, none empty. Raises: BadRecord."""
    turns = [m for m in messages if m["role"] != "system"]
    if any(m["role"] == "system" for m in messages[1:]):
        raise BadRecord("a system message after the first")
    if not turns:
        raise BadRecord("no messages")
    for number, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[number % 2]:
            raise BadRecord("a missing turn")
        if not turn["content"]:
            raise BadRecord("an empty message")
    if turns[-1]["role"] != "assistant":
        raise BadRecord("a missing turn")


def conversation(turns: Sequence[tuple[str, str]], members: Sequence[str] = ()) -> list[Message]:
    """Messages from (role, text) pairs in any of the usual role names, with image placeholders resolved.

    Images that no placeholder names stand before the first user message.

    Raises:
        BadRecord: an unknown role, a missing turn, an empty message, or a placeholder too many.
    """
    left = list(members)
    tags = sum(value.count(IMAGE_TAG) for _, value in turns)
    if tags and tags < len(left):
        raise BadRecord("an image without a placeholder")
    messages: list[Message] = []
    for role, value in turns:
        if role not in ROLES:
            raise BadRecord("an unknown role")
        lead: list[Part] = []
        if not tags and left and ROLES[role] == "user":
            lead = [{"type": "image", "image": member} for member in left]
            left = []
        messages.append(message(ROLES[role], *lead, *content_parts(value, left)))
    check_turns(messages)
    return messages


def image_media(content: bytes, number: int = 0) -> Media:
    """A picture that was decoded once to be sure of it; its bytes stay as they are. Raises: BadRecord."""
    from PIL import Image

    from emova.vision.image import load_image
    from emova_data.sources.picture_checks import holds_its_size

    try:
        decoded = load_image(content)
    except InputError:
        raise BadRecord("an image that cannot be decoded") from None
    if not holds_its_size(content, decoded):
        raise BadRecord("an image that lies about its size")
    kind = Image.open(io.BytesIO(content)).format or ""
    return Media(f"{number}.{_IMAGE_SUFFIX.get(kind, 'png')}", content)


def read_member(folder: Path, name: str) -> bytes:
    """A file below ``folder``. Raises: BadRecord: missing, or the name leads elsewhere."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadRecord("a path that leaves its folder")
    try:
        return path.read_bytes()
    except OSError:
        raise BadRecord("a missing file") from None


def plain_text(messages: Sequence[Message]) -> str:
    """All words of a conversation, for statistics and for finding copies."""
    words = []
    for turn in messages:
        for part in turn["content"]:
            words.append(part.get("text", ""))
            words.append(" ".join(map(str, part.get("units", ()))))
    return "\n".join(word for word in words if word)


def fingerprint(record: Record) -> int:
    """64 bits that are equal for records with the same words (case, spaces and marks aside) and the same media."""
    words = " ".join(re.findall(r"\w+", plain_text(record.messages).lower()))
    digest = hashlib.sha256(words.encode())
    for media in record.media:
        digest.update(hashlib.sha256(media.content).digest())
    return int.from_bytes(digest.digest()[:8], "little")


def safe_key(number: int) -> str:
    """A sample's name in its shard: no dots, in order."""
    return f"{number:09d}"
