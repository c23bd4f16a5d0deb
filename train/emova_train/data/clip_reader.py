"""Recordings of converted sets read as they are needed, in pools: what a codec trains on where a cache would not fit.

A reader decodes a pool of recordings, lays it out in groups and hands each on with its pool, in which other recordings
can be looked up (noise for one, a style's reference for the other). Where it stands is where the pool began and how
many groups were given, so a resumed run sees the groups of an uninterrupted one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from emova.core.errors import InputError
from emova_train.core.config import RunConfig
from emova_train.core.protocols import Batch
from emova_train.core.renamed import find_shards
from emova_train.data.sample_reader import BadSample, SampleReader
from emova_train.data.shards import Raw, ShardSet, find_set
from emova_train.data.stream import StreamLoader

ClipT = TypeVar("ClipT")
_SOUND = ("flac", "wav", "ogg", "opus", "mp3", "m4a")


@dataclass(frozen=True)
class StreamConfig:
    """How recordings are read where they are streamed.

    Attributes:
        enabled: read the shards of converted sets as they are needed; off, all are decoded once into a cache.
        pool: recordings that a reader holds at a time; batches of alike length are cut from them.
        block: neighbours in a shard that are shuffled with each other.
        max_skip_rate, min_tried: the share of damaged recordings above which the run ends, once so many were read.
    """

    enabled: bool = False
    pool: int = 256
    block: int = 64
    max_skip_rate: float = 0.05
    min_tried: int = 200

    def __post_init__(self) -> None:
        for name in ("pool", "block", "min_tried"):
            if getattr(self, name) < 1:
                raise InputError(f"stream.{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Pooled(Generic[ClipT]):
    """A group of recordings that become a batch, and the pool that they are of."""

    items: Sequence[ClipT]
    pool: Sequence[ClipT]


LayOut = Callable[[Sequence[ClipT], np.random.Generator], "list[list[int]]"]
"""A pool to groups of places in it."""


def find_sources(passes: Sequence[tuple[str, float]]) -> list[tuple[ShardSet, float]]:
    """The converted sets whose shards the patterns name, with their passes an epoch.

    Args:
        passes: glob patterns of shards, each of one set, and how often its recordings come in an epoch.

    Raises:
        InputError: a pattern has no shards, they are of no converted set, or two are of the same.
    """
    found: list[tuple[ShardSet, float]] = []
    for pattern, times in passes:
        paths = find_shards(pattern)
        if not paths:
            raise InputError(f"{pattern}: no such shards; `emova data convert` makes them")
        if not times > 0:
            raise InputError(f"{pattern}: comes {times:g} times an epoch; give a number above 0, or leave it out")
        folder = Path(paths[0]).resolve().parent
        whole = find_set(folder.parent, folder.name)
        names = {Path(path).name for path in paths}
        shards = tuple(shard for shard in whole.shards if shard.path.name in names)
        if len(shards) != len(names):
            raise InputError(f"{pattern}: not all are in the list of {folder}; give the pattern of one converted set")
        if any(each.name == whole.name for each, _ in found):
            raise InputError(f"{pattern}: its set is named before; give one pattern a set")
        found.append((replace(whole, shards=shards), times))
    return found


def decoded(raw: Raw, rate: int) -> np.ndarray:
    """The one recording of a sample, ``[T]`` float32 mono at ``rate`` Hz. Raises: BadSample."""
    import soundfile
    import soxr

    members = [name for name in raw.media if name.lower().endswith(_SOUND)]
    if len(members) != 1:
        raise BadSample("not one recording")
    try:
        samples, found = soundfile.read(io.BytesIO(raw.media[members[0]]), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        raise BadSample("audio that cannot be decoded") from None
    mono = samples.mean(axis=1)
    if not len(mono) or not np.isfinite(mono).all():
        raise BadSample("audio that cannot be decoded")
    return mono if found == rate else soxr.resample(mono, found, rate)


class PoolReader(SampleReader[ClipT]):
    """The endless groups of one reader; every recording comes as often in an epoch as its set's passes say.

    Args:
        sources: sets with their passes an epoch.
        decode: a sample to what a batch is made of; may raise ``BadSample``.
        lay_out: a pool to groups.
    """

    def __init__(
        self,
        sources: Sequence[tuple[ShardSet, float]],
        decode: Callable[[Raw], ClipT],
        lay_out: LayOut[ClipT],
        config: StreamConfig,
        *,
        seed: int,
        reader: int,
        readers: int,
    ) -> None:
        passes: Mapping[str, float] = {source.name: times for source, times in sources}
        super().__init__(
            sources, seed=seed, reader=reader, readers=readers, block=config.block, min_tried=config.min_tried,
            max_skip_rate=config.max_skip_rate, passes=passes,
        )  # fmt: skip
        self.decode, self.lay_out, self.pool = decode, lay_out, config.pool

    def made(self, raw: Raw, epoch: int, source: str) -> ClipT:
        try:
            return self.decode(raw)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            # Records of others break the form in more ways than can be named.
            raise BadSample("not of the expected form") from None

    def __iter__(self) -> Iterator[Pooled[ClipT]]:
        """Groups, without end. ``state()`` between two of them tells where to go on. Raises: TooManyBad."""
        skip, self.given = self.given, 0
        while True:
            self.begun = self.place()
            pool = [self.draw() for _ in range(self.pool)]
            if skip:  # begun before the interruption, which noted what was left out
                self.skipped.clear()
            rng = np.random.default_rng([self.seed, self.reader, self.begun["drawn"]])
            for group in self.lay_out(pool, rng):
                self.given += 1
                if self.given > skip:
                    yield Pooled([pool[at] for at in group], pool)
            skip, self.given = 0, 0


@dataclass(frozen=True)
class ClipStream(Generic[ClipT]):
    """A training set of streamed recordings (``emova_train.core.protocols.StreamedSet``).

    Attributes:
        sources: sets with their passes an epoch.
        decode, lay_out: see ``PoolReader``.
        make: a pooled group to a batch, by numpy's and torch's generators, which are seeded for each; in place of the
            loop's ``collate``, which is for samples that are read by number.
    """

    sources: Sequence[tuple[ShardSet, float]]
    decode: Callable[[Raw], ClipT]
    lay_out: LayOut[ClipT]
    make: Callable[[Pooled[ClipT]], Batch]
    config: StreamConfig

    def __len__(self) -> int:
        return sum(source.records for source, _ in self.sources)

    def _batch(self, groups: list[Pooled[ClipT]]) -> Batch:
        (group,) = groups
        return self.make(group)

    def batches(self, collate: Callable[[list[Any]], Batch], run: RunConfig) -> StreamLoader:
        """The batches of this process; ranks are those of torch.distributed, where it runs."""
        together = torch.distributed.is_available() and torch.distributed.is_initialized()

        def make_reader(seed: int, reader: int, readers: int) -> PoolReader[ClipT]:
            return PoolReader(
                self.sources, self.decode, self.lay_out, self.config, seed=seed, reader=reader, readers=readers
            )

        return StreamLoader(
            make_reader, self._batch, draws=1, seed=run.seed, total=run.max_steps * run.gradient_accumulation,
            output=run.output_dir, workers=run.workers, batches_a_step=run.gradient_accumulation,
            rank=torch.distributed.get_rank() if together else 0,
            world=torch.distributed.get_world_size() if together else 1,
        )  # fmt: skip
