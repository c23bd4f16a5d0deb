"""The numbers between two lines of the log: sums of what the passes returned, and their mean or rate."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from emova_train.distributed.world import World

COUNTERS = frozenset({"samples", "tokens", "seconds", "flops"})
"""Terms that are added up and written as a rate (``tokens`` -> ``tokens_per_s``); all others are averaged."""


class Window:
    """The terms of the passes since ``reset``.

    Attributes:
        first_step: the steps taken before it began.
        started: on the monotonic clock; what is no training time is added to it.
    """

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, step: int) -> None:
        """Begin anew after ``step``."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.started = time.monotonic()
        self.first_step = step

    @property
    def empty(self) -> bool:
        return not self._counts

    def add(self, terms: Mapping[str, Tensor | float]) -> None:
        """The terms of one pass; those that are no scalars are left out. Nothing waits for the device here."""
        for name, value in terms.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                continue
            scalar = value.detach().float().reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value))
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self, world: World, step: int, batch_size: int) -> dict[str, float]:
        """Means and rates over all processes, each of which may have met other terms."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        own = {name: float(total) for name, total in self._sums.items()}
        for their_sums, their_counts in world.gather((own, self._counts)):
            for name, total in their_sums.items():
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + their_counts[name]
        seconds = max(time.monotonic() - self.started, 1e-9)
        values: dict[str, float] = {}
        for name, total in sums.items():
            if name in COUNTERS:
                values[f"{name}_per_s"] = total / seconds
            else:
                values[name] = total / counts[name]
        if "samples" not in sums:
            values["samples_per_s"] = counts["loss"] * batch_size / seconds
        values["steps_per_s"] = (step - self.first_step) / seconds
        return values


class Mean:
    """Means of a validation's terms, weighted by the samples of their batches."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor | float], samples: int) -> None:
        """The terms of one batch; counters and what is no scalar are left out."""
        for name, value in terms.items():
            if name not in COUNTERS and (not isinstance(value, Tensor) or value.numel() == 1):
                self._sums[name] = self._sums.get(name, 0.0) + float(value) * samples
                self._counts[name] = self._counts.get(name, 0) + samples

    def values(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}
