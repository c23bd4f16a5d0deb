"""Shards of records: tar files (with media) or JSONL (text alone), deterministic, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.tar_samples import read_shard as read_tar
from emova.core.writing import staged_output, write_text
from emova_data.records.records import Record, Sample, safe_key


@dataclass(frozen=True)
class Shard:
    """A finished shard."""

    name: str
    records: int
    bytes: int
    sha256: str


def write_json(path: Path, value: object) -> None:
    """JSON, whole or not at all. Raises: InputError."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


def members_of(record: Record, source: str, key: str) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a sample's files, the JSON last."""
    for media in record.media:
        yield f"{key}.{media.member}", media.content
    yield f"{key}.json", json.dumps(record.as_json(source), ensure_ascii=False).encode()


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put ``content`` into a shard as ``name``; same content, same bytes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def write_shard(path: Path, records: Sequence[Record], source: str, first: int) -> Shard:
    """Write ``path`` (``.tar`` or ``.jsonl``); same records, same bytes.

    Args:
        first: number of the first record in its set; names the samples.

    Raises:
        InputError: the folder cannot be written to or the disk is full.
    """
    with staged_output(path) as file:
        if path.suffix == ".jsonl":
            for record in records:
                file.write(json.dumps(record.as_json(source), ensure_ascii=False).encode() + b"\n")
        else:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for number, record in enumerate(records, first):
                    for name, content in members_of(record, source, safe_key(number)):
                        add_member(tar, name, content)
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return Shard(path.name, len(records), path.stat().st_size, digest.hexdigest())


def read_shard(path: Path) -> Iterator[Sample]:
    """Samples of a shard: the JSON's fields, and media bytes under ``"media"`` by member name. No pickle, no decoding.

    Raises:
        InputError: the shard is cut short or not what it should be.
    """
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    sample: Sample = json.loads(line)
                    sample["media"] = {}
                    yield sample
            return
        for _, members in read_tar(path):
            media = {name: member.read() for name, member in members.items()}
            sample = json.loads(media.pop("json"))
            sample["media"] = media
            yield sample
    except (KeyError, json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path}: the shard is damaged; delete it and convert again") from None
    except OSError:
        raise InputError(f"{path}: the shard cannot be read") from None


def shards_of(folder: Path) -> list[Path]:
    """The shards in ``folder``, in order."""
    return sorted([*folder.glob("*.tar"), *folder.glob("*-[0-9]*.jsonl")])


def read_set(folder: Path) -> Iterator[Sample]:
    """All samples of a converted set. Raises: InputError."""
    paths = shards_of(folder)
    if not paths:
        raise InputError(f"{folder}: no shards here; run `emova data convert` first")
    for path in paths:
        yield from read_shard(path)


def total(shards: Iterable[Shard]) -> tuple[int, int]:
    """Records and bytes."""
    listed = list(shards)
    return sum(s.records for s in listed), sum(s.bytes for s in listed)
