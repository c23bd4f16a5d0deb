"""Shards of recordings decoded once: 16 kHz waveforms in one memory-mapped file each, and an index beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.core.writing import make_folder, staged_output, write_text
from emova_data.records.recordings import Recording, read_recordings
from emova_train.core.renamed import find_shards

SAMPLE_RATE = 16000
DecodeShard = Callable[[str, Path], Path]
"""Decodes a shard into a folder unless that is done already; gives the index file."""


def found_shards(pattern: str) -> list[str]:
    """The files of a pattern. Raises: InputError: there are none."""
    if not (paths := find_shards(pattern)):
        raise InputError(f"{pattern}: no such shards; run the data recipe first")
    return paths


def decode_shard(path: str, folder: Path, name: str, describe: Callable[[Recording], Mapping[str, object]]) -> Path:
    """Decode ``path`` into ``folder`` unless that is done already; gives the index file.

    Args:
        name: what ``describe`` says of a recording; caches of different names lie side by side.
        describe: a recording's entry in the index, beside its key and its place.
    """
    stat = os.stat(path)
    stem = folder / f"{Path(path).stem}-{stat.st_size}-{int(stat.st_mtime)}-{name}"
    index_path = stem.with_suffix(".json")
    if index_path.is_file():
        return index_path
    index, chunks, start = [], [], 0
    for recording in read_recordings(path, SAMPLE_RATE):
        samples = recording.pcm16()
        index.append({"key": recording.key, "start": start, "length": len(samples), **describe(recording)})
        chunks.append(samples)
        start += len(samples)
    make_folder(folder)
    with staged_output(stem.with_suffix(".npy")) as file:
        np.save(file, np.concatenate(chunks) if chunks else np.zeros(0, np.int16))
    write_text(index_path, json.dumps(index))
    return index_path


def fill_cache(
    decode: DecodeShard, patterns: Sequence[str], cache: str | Path, rank: int = 0, processes: int = 1
) -> None:
    """Decode the shards that are this process's, as one of ``processes``. Raises: InputError: a pattern has none."""
    paths = [path for pattern in patterns for path in found_shards(pattern)]
    for path in paths[rank::processes]:
        decode(path, Path(cache))
