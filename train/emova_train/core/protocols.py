"""What the loop asks of those who use it: data that can be read, functions that it calls, and batches in an order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from emova_train.core.config import RunConfig

SampleT = TypeVar("SampleT")
SampleT_co = TypeVar("SampleT_co", covariant=True)

Batch = Mapping[str, Tensor]
ParameterGroup = dict[str, Any]
"""As torch's optimizers take them: ``params``, ``lr``, ``weight_decay`` ...; ``name`` labels the rate's curve."""
ParameterGroups = Callable[[nn.Module], list[ParameterGroup]]
Validate = Callable[[nn.Module, int], "Mapping[str, float] | None"]


class SampleSet(Protocol[SampleT_co]):
    """Samples by number. May have ``sample(index, epoch)``, called instead of ``[index]``, and ``lengths``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> SampleT_co: ...


class BatchSource(Protocol):
    """The batches of one process for a whole run, which knows where it stands."""

    @property
    def dataset(self) -> object:
        """Something with a length, as transformers' Trainer wants to see it."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Of the whole run, resumed or not."""
        ...

    def counts(self) -> dict[str, float]:
        """Numbers of this process for the log, which are added up over all processes."""
        ...

    def epoch(self, step: int) -> float:
        """Passes over the data after ``step`` optimizer steps."""
        ...

    def save(self, folder: Path) -> None:
        """Write the position into a checkpoint's folder, where the step alone does not say it."""
        ...

    def load(self, folder: Path) -> None:
        """Go on where ``save`` was called. Raises: InputError: the folder holds no position in these data."""
        ...


@runtime_checkable
class StreamedSet(Protocol):
    """A training set that cannot be read by number: it makes the batches of each process itself."""

    def __len__(self) -> int: ...

    def batches(self, collate: Callable[[list[Any]], Batch], run: RunConfig) -> BatchSource:
        """The batches of this process; ranks are those of torch.distributed, where it runs."""
        ...
