"""The recordings of a recipe's shards, decoded: what every program that learns from speech reads."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import soundfile
import soxr

from emova.core.errors import InputError
from emova.core.tar_samples import read_shard

MAX_BAD_SHARE = 0.02
"""A shard with a larger share of unreadable recordings is an error, not an accident."""


class RecordingFields(TypedDict, total=False):
    """A recording's JSON; real speech has no phones, and no alignment where nobody placed them (in s);
    ``score`` is a recogniser's, ``change`` what was done to a converted voice. Converted sets have an ``id``."""

    id: str
    text: str
    phones: Sequence[str]
    alignment: Sequence[tuple[str, float, float]] | None
    voice: str
    family: str
    gender: str
    emotion: str
    pitch: str
    set: str
    split: str
    ids: list[str]
    seconds: float
    score: float
    change: Mapping[str, object]


@dataclass(frozen=True)
class Recording:
    """One utterance of a shard; ``samples`` [T] float32 in -1..1, mono, at the rate that was asked for."""

    key: str
    record: RecordingFields
    samples: np.ndarray

    def pcm16(self) -> np.ndarray:
        """[T] int16"""
        return np.clip(np.rint(self.samples * 32768), -32768, 32767).astype(np.int16)


def read_recordings(shard: str | Path, sample_rate: int) -> Iterator[Recording]:
    """The recordings of a shard in its order, resampled; one that cannot be read is named on stderr and left out.

    Raises:
        InputError: the shard is damaged, or too many of its recordings are.
    """
    bad: list[str] = []
    read = 0
    for key, members in read_shard(Path(shard)):
        read += 1
        try:
            record = json.loads(members["json"].read())
            samples, rate = soundfile.read(io.BytesIO(members["flac"].read()), dtype="float32", always_2d=True)
            mono = samples.mean(axis=1)
            if not len(mono) or not np.isfinite(mono).all():
                raise ValueError("no sound")
        except (KeyError, ValueError, RuntimeError):
            bad.append(key)
            print(f"{shard}: {key} cannot be read and is left out", file=sys.stderr)
            continue
        yield Recording(key, record, mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))
    if len(bad) > max(1, MAX_BAD_SHARE * read):
        raise InputError(f"{shard}: {len(bad)} of its recordings cannot be read, {bad[0]} first; make the shard again")
