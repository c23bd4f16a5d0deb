"""Conversations with pictures or without: LLaVA's form and its kin, Cauldron's, SynthDog's, pairs of fields, Magpie's.

Every converter takes the source's folder and the options of its registry entry:

- ``files``: glob patterns of the annotation files (.json, .jsonl, .parquet)
- ``images``: folder of the pictures, relative to the source's folder (default: the folder itself)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from emova_data.records.records import BadRecord, Draft, Media, Record, conversation, image_media, reject
from emova_data.sources.converters.rows import UNREADABLE, Fields, Options, Row, image_bytes, rows_of

_META = ("data_source", "source", "language", "category", "task")


def _drafts(folder: Path, options: Options, build: Callable[[Fields, str], Record]) -> Iterator[Draft]:
    for name, row in rows_of(folder, options["files"]):
        if row is None:
            yield Draft(name, reject(UNREADABLE))
            continue
        given = row.get("id", row.get("uuid"))
        identity = name if given is None else f"{name}:{given}"
        yield Draft(identity, partial(build, row, identity))


def _pictures(row: Fields, folder: Path, options: Options) -> list[Media]:
    value = next((row[key] for key in ("image", "images") if row.get(key)), None)
    listed = [] if value is None else value if isinstance(value, list) else [value]
    root = folder / options.get("images", "")
    return [image_media(image_bytes(item, root), number) for number, item in enumerate(listed)]


def _extra(row: Fields, **more: object) -> dict[str, object]:
    return {key: row[key] for key in _META if isinstance(row.get(key), str) and key != "source"} | more


def turns_of(row: Fields) -> list[tuple[str, str]]:
    """(role, text) pairs of LLaVA's ``conversations`` or OpenAI's ``messages``. Raises: BadRecord."""
    if isinstance(listed := row.get("conversations"), list):
        return [(turn["from"], turn["value"]) for turn in listed]
    if not isinstance(listed := row.get("messages"), list):
        raise BadRecord("no conversation")
    turns = []
    for turn in listed:
        content = turn["content"]
        if isinstance(content, list):
            pieces = ["<image>" if part["type"] in ("image", "image_url") else part["text"] for part in content]
            content = "\n".join(pieces)
        turns.append((turn["role"], content))
    return turns


def llava(folder: Path, options: Options) -> Iterator[Draft]:
    """LLaVA, ShareGPT4V, ALLaVA, ShareGPT-4o, InternVL, Meteor, Cambrian, LLaVA-OneVision, Emova-ollm.

    ``{"id", "image": path | [paths] | bytes, "conversations": [{"from", "value"}]}``, from JSON, JSONL or Parquet.
    Speech as inline units (``<|speech_7|>...``) becomes unit parts.
    """

    def build(row: Fields, identity: str) -> Record:
        media = _pictures(row, folder, options)
        messages = conversation(turns_of(row), [item.member for item in media])
        return Record(identity, messages, media, _extra(row))

    return _drafts(folder, options, build)


def cauldron(folder: Path, options: Options) -> Iterator[Draft]:
    """Idefics-2's Cauldron: ``{"images": [...], "texts": [{"user", "assistant", "source"}]}``; pictures come first."""

    def build(row: Fields, identity: str) -> Record:
        media = _pictures(row, folder, options)
        turns = [(role, pair[role]) for pair in row["texts"] for role in ("user", "assistant")]
        messages = conversation(turns, [item.member for item in media])
        sources = sorted({pair["source"] for pair in row["texts"] if pair.get("source")})
        return Record(identity, messages, media, {"data_source": ", ".join(sources)} if sources else {})

    return _drafts(folder, options, build)


def synthdog(folder: Path, options: Options) -> Iterator[Draft]:
    """SynthDog as published with Donut: a picture and ``ground_truth``, JSON with ``gt_parse.text_sequence``."""
    question = options.get("question", "Read all the text in the picture.")

    def build(row: Fields, identity: str) -> Record:
        answer = json.loads(row["ground_truth"])["gt_parse"]["text_sequence"].strip()
        media = _pictures(row, folder, options)
        if not media:
            raise BadRecord("a missing file")
        messages = conversation([("user", question), ("assistant", answer)], [item.member for item in media])
        return Record(identity, messages, media, {"task": "ocr"})

    return _drafts(folder, options, build)


def pairs(folder: Path, options: Options) -> Iterator[Draft]:
    """A picture and text in named fields: ``image_field``, ``answer_field``, ``question_field`` or ``question``."""

    def build(row: Fields, identity: str) -> Record:
        item = row.get(options.get("image_field", "image"))
        media = _pictures({"image": item}, folder, options)
        if not media:
            raise BadRecord("a missing file")
        field = options.get("question_field")
        question = row[field] if field else options["question"]
        turns = [("user", question), ("assistant", row[options["answer_field"]])]
        return Record(identity, conversation(turns, [m.member for m in media]), media, _extra(row))

    return _drafts(folder, options, build)


def magpie(folder: Path, options: Options) -> Iterator[Draft]:
    """Magpie: ``conversations`` in ShareGPT's form, or ``instruction`` and ``response``. Text alone."""

    def build(row: Row, identity: str) -> Record:
        assert row is not None
        if isinstance(row.get("instruction"), str):
            turns = [("user", row["instruction"]), ("assistant", row["response"])]
        else:
            turns = turns_of(row)
        return Record(identity, conversation(turns), (), _extra(row))

    return _drafts(folder, options, build)
