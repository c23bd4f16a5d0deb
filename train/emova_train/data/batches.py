"""Which samples make which batch, as a function of seed and position alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_train.core.config import RunConfig
from emova_train.core.protocols import Batch, SampleSet, SampleT

COUNTED = "conversations.json"
_BUCKET_BATCHES = 50
"""Batches of alike length are cut from windows of this many batches, so an epoch's order stays well shuffled."""


def derived_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every one of ``parts``."""
    return int(np.random.SeedSequence([part & (2**63 - 1) for part in parts]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Run the block with Python's, numpy's and torch's CPU generators (seeded by ``seed``), then put them back."""
    states = (random.getstate(), np.random.get_state(), torch.random.get_rng_state())
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)
            torch.random.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


@dataclass(frozen=True)
class BatchPlan:
    """One batch: which samples of which epoch."""

    position: int
    epoch: int
    indices: tuple[int, ...]


class EpochBatches(Sampler[BatchPlan]):
    """``total`` batches over as many epochs as they need, from batch ``start`` on, of which process ``rank`` of
    ``processes`` gets every ``processes``-th: two processes of one batch a step read what one of two batches does.

    Each epoch is a permutation of the samples drawn from (seed, epoch). A batch may not cross an epoch's end unless
    the data set is smaller than one batch, in which case samples repeat.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        *,
        total: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        lengths: Sequence[float] | None = None,
    ) -> None:
        assert samples > 0, "an empty data set"
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.total = total
        self.start = start
        self.rank = rank
        self.processes = processes
        self.lengths = np.asarray(lengths) if lengths is not None else None

    def __len__(self) -> int:
        # The Trainer counts the whole run, resumed or not.
        return self.total // self.processes

    @property
    def batches_an_epoch(self) -> int:
        return max(1, self.samples // self.batch_size)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.samples)
        if self.samples < self.batch_size:
            order = np.resize(order, self.batch_size)
        order = order[: self.batches_an_epoch * self.batch_size]
        if self.lengths is not None:
            window = _BUCKET_BATCHES * self.batch_size
            pieces = [order[at : at + window] for at in range(0, len(order), window)]
            order = np.concatenate([piece[np.argsort(self.lengths[piece], kind="stable")] for piece in pieces])
        batches = list(order.reshape(-1, self.batch_size))
        if self.lengths is not None:
            batches = [batches[at] for at in rng.permutation(len(batches))]
        return batches

    def __iter__(self) -> Iterator[BatchPlan]:
        epoch, batches = -1, []
        for position in range(self.start + self.rank, self.total, self.processes):
            current, at = divmod(position, self.batches_an_epoch)
            if current != epoch:
                epoch, batches = current, self._epoch(current)
            yield BatchPlan(position, epoch, tuple(int(index) for index in batches[at]))


class BatchReader(Generic[SampleT]):
    """Reads and collates the batch of a plan under its own seed; the "data set" that torch's DataLoader sees."""

    def __init__(self, data: SampleSet[SampleT], collate: Callable[[list[SampleT]], Batch], seed: int) -> None:
        self.data = data
        self.collate = collate
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, plan: BatchPlan) -> Batch:
        with isolated_rng(derived_seed(self.seed, plan.epoch, plan.position)):
            if hasattr(self.data, "sample"):
                samples = [self.data.sample(index, plan.epoch) for index in plan.indices]
            else:
                samples = [self.data[index] for index in plan.indices]
            return self.collate(samples)

    def in_order(self, batch_size: int) -> InOrder:
        """The batches of a validation: every sample once, in order, the same at every call."""
        return InOrder(self, batch_size)


@dataclass(frozen=True)
class InOrder:
    """Every sample of a reader once, in order."""

    reader: BatchReader
    batch_size: int

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Pairs of (number of samples, batch)."""
        for position, first in enumerate(range(0, len(self.reader), self.batch_size)):
            indices = tuple(range(first, min(first + self.batch_size, len(self.reader))))
            yield len(indices), self.reader[BatchPlan(position, 0, indices)]


class EpochLoader(DataLoader[Batch]):
    """The batches of ``EpochBatches``, read and collated: an ``emova_train.core.protocols.BatchSource``.

    Its place follows from the step alone, so it keeps nothing in a checkpoint but what its batches were counted in.

    Args:
        data: may have ``sample(index, epoch)``, ``lengths``, and ``counts_conversations``: that its packs hold one
            conversation each where they once held as many as fit.
        rank, processes: which of how many read in turn.
        done: optimizer steps that were taken before.
    """

    def __init__(
        self,
        data: SampleSet[SampleT],
        collate: Callable[[list[SampleT]], Batch],
        run: RunConfig,
        *,
        rank: int,
        processes: int,
        done: int,
    ) -> None:
        self.batches_a_step = run.gradient_accumulation * processes
        self.first = rank == 0
        self.counted = run.batch_size if getattr(data, "counts_conversations", False) else 0
        self.order = EpochBatches(
            len(data),
            run.batch_size,
            run.seed,
            total=run.max_steps * self.batches_a_step,
            start=done * self.batches_a_step,
            rank=rank,
            processes=processes,
            lengths=getattr(data, "lengths", None),
        )
        super().__init__(
            BatchReader(data, collate, run.seed),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self.order,
            num_workers=run.workers,
            # Its own generator: starting the iterator must not move the generator that dropout draws from.
            generator=torch.Generator().manual_seed(run.seed),
            persistent_workers=False,
            prefetch_factor=4 if run.workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def counts(self) -> dict[str, float]:
        return {}

    def epoch(self, step: int) -> float:
        return step * self.batches_a_step / self.order.batches_an_epoch

    def save(self, folder: Path) -> None:
        if self.counted and self.first:
            write_text(folder / COUNTED, json.dumps({"conversations": self.counted}))

    def load(self, folder: Path) -> None:
        path = folder / COUNTED
        counted = int(json.loads(path.read_text(encoding="utf-8"))["conversations"]) if path.is_file() else 0
        if bool(counted) != bool(self.counted):
            raise InputError(counted_otherwise(folder, counted, self.counted))


def counted_otherwise(folder: Path, counted: int, wanted: int) -> str:
    """Why a checkpoint whose batches were counted in another way cannot go on, and what to do.

    Args:
        counted, wanted: conversations a pass, then and now; 0 where it was packs full of tokens.
    """
    if wanted and not counted:
        return (
            f"{folder}: its batches were counted in packs, run.global_batch_size now counts conversations; go on with "
            "run.global_batch_size=0 run.gradient_accumulation=N as it began, or start anew in another run.output_dir"
        )
    return (
        f"{folder}: a pass held {counted} conversations, now packs full of tokens; give the earlier "
        "run.global_batch_size, or start anew in another run.output_dir"
    )
