"""WebDataset shards of speech: deterministic bytes, written whole or not at all, skipped when they are there.

A set is a list of ``Item``; a shard is a slice of it. Beside a shard lies ``NAME.tar.json`` with a digest of its plan,
the number of items, seconds and the checksum. A shard whose plan digest is the wanted one is not made again.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from emova.core.writing import staged_output, write_text
from emova_data.nano.voices.hibari_voice import Utterance
from emova_data.nano.voices.voices import Voices, family_of, gender_of, recipe_of
from emova_data.records.recordings import RecordingFields
from emova_data.records.shard_writer import add_member

JobT = TypeVar("JobT")
MadeT = TypeVar("MadeT")

FORMAT = 2  # part of every plan digest: raise it when the making of speech changes


@dataclass(frozen=True)
class Item:
    """One utterance to make.

    Args:
        key: name of the sample, unique in the set; no dots.
        text: what is said.
        voice: as ``voices`` names it.
        set, split: where it belongs.
        sample_rate: Hz of the stored audio.
        emotion, pitch: style labels.
        seed: for the noise in the rendering.
        ids: identifiers of the exchanges or pictures whose text this is.
    """

    key: str
    text: str
    voice: str
    set: str
    split: str
    sample_rate: int
    emotion: str = "neutral"
    pitch: str = "normal"
    seed: int = 0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardInfo:
    """What the sidecar of a shard says."""

    name: str
    plan: str
    items: int
    seconds: float
    sha256: str


def plan_digest(items: Sequence[Item]) -> str:
    """Digest of everything that determines a shard's bytes."""
    ways = {(i.voice, i.emotion, i.pitch): recipe_of(i.voice, i.emotion, i.pitch) for i in items}
    plan = [FORMAT, [asdict(item) for item in items], sorted((*key, way) for key, way in ways.items())]
    text = json.dumps(plan, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """16-bit FLAC bytes of ``samples`` [T]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def record(item: Item, utterance: Utterance) -> tuple[bytes, RecordingFields]:
    """FLAC and JSON of one utterance."""
    import soxr

    samples = utterance.samples
    if utterance.sample_rate != item.sample_rate:
        samples = soxr.resample(samples, utterance.sample_rate, item.sample_rate)
    alignment = utterance.alignment
    return encode_flac(samples, item.sample_rate), {
        "text": item.text,
        "phones": utterance.phones,
        "alignment": None if alignment is None else list(alignment),
        "voice": item.voice,
        "family": family_of(item.voice),
        "gender": gender_of(item.voice),
        "emotion": item.emotion,
        "pitch": item.pitch,
        "set": item.set,
        "split": item.split,
        "ids": list(item.ids),
        "seconds": round(len(samples) / item.sample_rate, 4),
    }


def write_tar(path: Path, samples: Sequence[tuple[str, bytes, RecordingFields]]) -> str:
    """Write ``KEY.flac`` and ``KEY.json`` members atomically; returns the SHA-256. Same content, same bytes."""
    with staged_output(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, flac, meta in samples:
            for suffix, content in (("flac", flac), ("json", json.dumps(meta, ensure_ascii=False).encode())):
                add_member(tar, f"{key}.{suffix}", content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_info(path: Path, info: ShardInfo) -> None:
    """Write the sidecar of the shard ``path`` atomically."""
    write_text(path.with_name(path.name + ".json"), json.dumps(asdict(info)))


def read_info(path: Path) -> ShardInfo | None:
    """The sidecar of a finished shard, or None."""
    side = path.with_name(path.name + ".json")
    if not (path.is_file() and side.is_file()):
        return None
    return ShardInfo(**json.loads(side.read_text(encoding="utf-8")))


def write_shard(path: Path, plan: str, samples: Sequence[tuple[str, bytes, RecordingFields]]) -> ShardInfo:
    """Write the shard ``path`` of (key, FLAC, record) with its sidecar; its seconds are the records'."""
    seconds = sum(meta["seconds"] for _, _, meta in samples)
    info = ShardInfo(path.name, plan, len(samples), round(seconds, 2), write_tar(path, samples))
    write_info(path, info)
    return info


def remove_others(folder: Path, stem: str, kept: Collection[str]) -> None:
    """Remove the shards ``STEM-*.tar`` that are not ``kept``, with their sidecars: leftovers of a longer plan."""
    for old in folder.glob(f"{stem}-*.tar"):
        if old.name not in kept:
            old.unlink()
            old.with_name(old.name + ".json").unlink(missing_ok=True)


_voices: Voices | None = None


def make_shard(path: Path, items: Sequence[Item], sources: Path) -> ShardInfo:
    """Speak all ``items`` and write the shard ``path`` with its sidecar."""
    global _voices
    if _voices is None or _voices.sources != sources:
        _voices = Voices(sources)
    samples = []
    for item in items:
        utterance = _voices.speak(item.voice, item.text, item.emotion, item.pitch, item.seed)
        flac, meta = record(item, utterance)
        samples.append((item.key, flac, meta))
    return write_shard(path, plan_digest(items), samples)


def _make_shard_job(job: tuple[Path, Sequence[Item], Path]) -> ShardInfo:
    return make_shard(*job)


def _calm() -> None:
    os.nice(10)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def in_processes(make: Callable[[JobT], MadeT], todo: Sequence[JobT], jobs: int) -> Iterator[MadeT]:
    """``make`` of each of ``todo``, in order, by ``jobs`` processes of low priority; here where one is enough."""
    if jobs <= 1 or len(todo) <= 1:
        yield from map(make, todo)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, initializer=_calm) as pool:
        yield from pool.map(make, todo)


def make_set(
    folder: Path,
    items: Sequence[Item],
    sources: Path,
    *,
    jobs: int = 1,
    per_shard: int = 200,
    report: Callable[[ShardInfo, bool], None] = lambda info, made: None,
) -> list[ShardInfo]:
    """Write ``{set}-{split}-{number}.tar`` for all ``items`` of one set and split into ``folder``.

    Shards that are there with the wanted plan are kept; leftovers of an older, longer plan are removed at the end.

    Args:
        jobs: processes.
        report: called with each shard's info and whether it was made now.
    """
    assert len({(item.set, item.split) for item in items}) <= 1
    if not items:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{items[0].set}-{items[0].split}"
    todo: list[tuple[Path, Sequence[Item], Path]] = []
    infos: dict[str, ShardInfo] = {}
    for number, start in enumerate(range(0, len(items), per_shard)):
        part = items[start : start + per_shard]
        path = folder / f"{stem}-{number:06d}.tar"
        info = read_info(path)
        if info is not None and info.plan == plan_digest(part):
            infos[path.name] = info
            report(info, False)
        else:
            infos[path.name] = ShardInfo(path.name, "", 0, 0.0, "")
            todo.append((path, part, sources))
    for made in in_processes(_make_shard_job, todo, jobs):
        infos[made.name] = made
        report(made, True)
    remove_others(folder, stem, infos)
    return list(infos.values())
