"""The endless stream of packs that a stage trains on: pack number i of epoch e is the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol

import numpy as np

from emova.core.errors import InputError
from emova_train.core.protocols import SampleT, SampleT_co
from emova_train.data.examples import Example

_TRIES = 20


class Task(Protocol[SampleT_co]):
    """A kind of sample."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """How many there are to draw from."""
        ...

    def draw(self, rng: np.random.Generator, /) -> SampleT_co:
        """A sample, for ``TaskSource.render``."""
        ...


class TaskSource(Protocol[SampleT]):
    """Tasks, and what makes examples of their samples."""

    def chosen(self, mixture: Mapping[str, float]) -> Sequence[tuple[Task[SampleT], float]]:
        """The tasks of a mixture with their shares, which sum to one. Raises: InputError: one has no data."""
        ...

    def render(self, sample: SampleT, task: str = "") -> Example: ...


class PackedMixture(Generic[SampleT]):
    """Packs of whole conversations, drawn by weight from several tasks.

    A pack is filled until it has ``pack_tokens``; the last conversation may stick out, so that none is preferred for
    being short. Nothing is stored: a pack is a function of (seed, epoch, index).

    Args:
        source: the tasks.
        mixture: weight of each task, in samples.
        pack_tokens: positions a pack at least.
        max_tokens: conversations longer than this are left out (the model's context).
        size: packs an epoch; an epoch is no more than a number here.
        single: a pack is one conversation, whatever ``pack_tokens`` says.
    """

    def __init__(
        self,
        source: TaskSource[SampleT],
        mixture: Mapping[str, float],
        *,
        pack_tokens: int,
        max_tokens: int,
        size: int,
        seed: int,
        single: bool = False,
    ) -> None:
        self.counts_conversations = single and pack_tokens > 1
        self.source = source
        self.tasks: list[Task[SampleT]] = []
        shares: list[float] = []
        for task, share in source.chosen(mixture):
            self.tasks.append(task)
            shares.append(share)
        self.shares = np.asarray(shares) / np.sum(shares)
        self.pack_tokens = 1 if single else pack_tokens
        self.max_tokens = max_tokens
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, epoch: int) -> list[Example]:
        """Pack ``index`` of ``epoch``."""
        rng = np.random.default_rng([self.seed, epoch, index])
        examples: list[Example] = []
        total = 0
        too_long = 0
        while total < self.pack_tokens:
            task = self.tasks[int(rng.choice(len(self.tasks), p=self.shares))]
            drawn = self.source.render(task.draw(rng), task.name)
            if len(drawn) > self.max_tokens:
                too_long += 1
                if too_long >= _TRIES:
                    raise InputError(f"max_tokens={self.max_tokens}: nearly every {task.name} sample is longer")
                continue
            examples.append(drawn)
            total += len(drawn)
        return examples

    def __getitem__(self, index: int) -> list[Example]:
        return self.sample(index, 0)


class PackedList:
    """Fixed examples in packs, for validation."""

    def __init__(self, examples: Sequence[Example], pack_tokens: int) -> None:
        self.packs: list[list[Example]] = [[]]
        for each in examples:
            if self.packs[-1] and sum(map(len, self.packs[-1])) + len(each) > pack_tokens:
                self.packs.append([])
            self.packs[-1].append(each)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Example]:
        return self.packs[index]
