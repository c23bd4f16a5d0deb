"""The manifest of the recipe's data: counts, hours, licences, checksums, seed; and its table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from emova.core.writing import write_text
from emova_data.nano.packages import DEBIAN, SOURCES, sha256
from emova_data.nano.speech.shard_maker import read_info

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LICENCES: dict[str, str] = {
    "speech by rule-made voices": "Apache-2.0 (hibari-tts)",
    "speech by Kokoro": "Apache-2.0 (Kokoro-82M v1.0)",
    "speech by flite": "MIT-like (CMU); held-out test speech by festival: MIT-like (Edinburgh, CMU)",
    "speech by piper joe (test only)": "voice data CC0-1.0; piper-tts GPL-3.0 (program, used at build time)",
    "real speech": "CC-BY-SA-3.0 (Asterisk sounds); labels by Whisper base (MIT)",
    "speech of actors": "(C) John Passfield and Steven Stamatiadis (Flight of the Amazon Queen), free to copy and "
    "change under its readme's terms; only the tokenizer hears it",
    "pictures": "OpenMoji CC-BY-SA-4.0, Twemoji CC-BY-4.0, Fluent Emoji MIT, Noto Emoji OFL-1.1, "
    "Tux Paint stamps GPL-2.0-or-later, drawn ones Apache-2.0",
    "texts": "Apache-2.0; example sentences of WordNet 3.0 (WordNet licence) where its Debian package is installed",
}


class Total(TypedDict, total=False):
    """Of a set; pictures have no hours."""

    shards: int
    items: int
    hours: float


class Sets(TypedDict):
    """Totals by set, and what each shard holds."""

    sets: dict[str, Total]
    shards: dict[str, dict[str, object]]


class Lines(TypedDict):
    lines: int
    sha256: str


class Manifest(TypedDict):
    """``manifest.json``."""

    recipe: str
    seed: int
    plan: dict[str, object]
    speech: Sets
    pictures: Sets
    text: dict[str, Lines]
    licences: dict[str, str]
    sources: list[dict[str, str]]


def _speech(folder: Path) -> Sets:
    shards: dict[str, dict[str, object]] = {}
    sets: dict[str, Total] = defaultdict(lambda: Total(shards=0, items=0, hours=0.0))
    for path in sorted(folder.glob("*.tar")):
        info = read_info(path)
        if info is None:
            continue
        shards[path.name] = {"items": info.items, "seconds": info.seconds, "sha256": info.sha256}
        total = sets[path.name.rsplit("-", 1)[0]]
        total["shards"] += 1
        total["items"] += info.items
        total["hours"] += info.seconds / 3600
    rounded: dict[str, Total] = {name: {**total, "hours": round(total["hours"], 3)} for name, total in sets.items()}
    return {"sets": rounded, "shards": shards}


def _lines(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(1 for _ in handle)


def _pictures(folder: Path) -> Sets:
    import tarfile

    sets: dict[str, Total] = defaultdict(lambda: Total(shards=0, items=0))
    shards: dict[str, dict[str, object]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            items = sum(1 for member in tar if member.name.endswith(".json"))
        shards[path.name] = {"items": items, "sha256": sha256(path)}
        total = sets[path.name.rsplit("-", 1)[0]]
        total["shards"] += 1
        total["items"] += items
    return {"sets": dict(sets), "shards": shards}


def build(root: Path, settings: DataclassInstance, seed: int) -> Manifest:
    """The manifest of the data under ``root`` (``data/nano``). ``settings`` is the plan dataclass it was made with."""
    return {
        "recipe": "nano",
        "seed": seed,
        "plan": asdict(settings),
        "speech": _speech(root / "speech"),
        "pictures": _pictures(root / "pictures"),
        "text": {
            path.name: {"lines": _lines(path), "sha256": sha256(path)}
            for path in sorted((root / "text").glob("*.jsonl"))
        },
        "licences": LICENCES,
        "sources": [
            {"name": s.name, "version": s.version, "registry": s.registry, "sha256": s.sha256, "licence": s.licence}
            for s in SOURCES
        ]
        + [
            {"name": package, "registry": "debian", "licence": licence, "use": use}
            for package, licence, use in DEBIAN.values()
        ],
    }


def write(root: Path, settings: DataclassInstance, seed: int) -> Manifest:
    """Write ``root/manifest.json`` atomically and return it."""
    manifest = build(root, settings, seed)
    write_text(root / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def report(manifest: Manifest, line: Callable[[str, str, str, str], None]) -> None:
    """Call ``line(what, shards, items, hours)`` for each row of the manifest's table."""
    for name, total in manifest["speech"]["sets"].items():
        line(f"speech {name}", str(total["shards"]), f"{total['items']:,}", f"{total['hours']:.2f}")
    for name, total in manifest["pictures"]["sets"].items():
        line(f"pictures {name}", str(total["shards"]), f"{total['items']:,}", "")
    for name, file in manifest["text"].items():
        line(f"text {name}", "", f"{file['lines']:,}", "")
