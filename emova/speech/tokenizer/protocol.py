"""What the rest of the code knows of a speech tokenizer (speech to units, S2U).

Shapes: B batch, T samples, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from emova.core.streams import Stream
from emova.speech.tokenizer.phones import PhoneInventory


@runtime_checkable
class TokenizerStream(Stream[Tensor, Tensor], Protocol):
    """Units of a recording that is still going on. Its law: all units together equal the offline ones."""

    def step(self, samples: Tensor, /) -> Tensor:
        """Take the next ``[B, T]`` samples (any T >= 0), give the units that are now certain, ``[B, U]`` (U >= 0)."""
        ...

    def finish(self) -> Tensor:
        """The recording has ended: the remaining units, ``[B, U]``. No step may follow."""
        ...


@runtime_checkable
class SpeechTokenizer(Protocol):
    """Speech to discrete units at a fixed rate."""

    @property
    def sample_rate(self) -> int:
        """Of the samples that ``encode`` takes, Hz."""
        ...

    @property
    def unit_rate(self) -> float:
        """Units a second."""
        ...

    @property
    def codebook_size(self) -> int:
        """Units are integers in ``[0, codebook_size)``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it wants the samples."""
        ...

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder that ``save_pretrained`` wrote, ready for inference. Raises: InputError."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, which names the kind, and the weights as safetensors."""
        ...

    def to(self, device: str) -> Self:
        """Compute on ``device``."""
        ...

    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """``[B, T]`` samples, of which the first ``lengths[b]`` count, to one int64 ``[U]`` tensor a row."""
        ...

    def streaming(self, batch_size: int = 1) -> AbstractContextManager[TokenizerStream]:
        """A context that holds the state of ``batch_size`` recordings which advance together."""
        ...


@runtime_checkable
class ReadsPhones(Protocol):
    """A tokenizer that can be measured by phones: it says which ones its units stand for."""

    def phones(self, units: list[Tensor], /) -> list[list[str]]:
        """The phones of each row of units. Raises: InputError: this one has no decoder of phones."""
        ...


@runtime_checkable
class HearsPhones(ReadsPhones, Protocol):
    """A tokenizer that can judge what was said: it tells how likely each phone is at each place.

    P phone classes, those of ``inventory`` behind the blank; N labels a unit.
    """

    @property
    def inventory(self) -> PhoneInventory:
        """The phones that it tells apart."""
        ...

    @property
    def reads_phones(self) -> bool:
        """Whether this one has a decoder of phones."""
        ...

    def phone_log_probs(self, units: Sequence[int], /) -> np.ndarray:
        """``[U * N, P]`` float32, the log-probabilities of CTC. Raises: InputError: it has no decoder of phones."""
        ...
