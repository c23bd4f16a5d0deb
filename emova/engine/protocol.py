"""What the engine asks of a language model: embeddings in, scores out, over caches that can be shortened.

Shape letters: N new positions of all sequences, T new positions of one, B sequences, D width, V vocabulary, A allowed
ids, C classes of CTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor


class SequenceCache(Protocol):
    """One sequence's keys and values.

    Attributes:
        length: positions that were read.
        speech: where the speech that is being written begins; None while none is.
        keep_middle: whether the next positions may be a question's speech: their ``middle`` is kept then.
        middle: ``[T, D]`` after the layers that CTC reads; see ``emova.decoding.ctc``.
    """

    length: int
    speech: int | None
    keep_middle: bool
    middle: Tensor | None

    @property
    def room(self) -> int:
        """Positions left."""
        ...

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        ...


CacheT = TypeVar("CacheT", bound=SequenceCache)


class LanguageModel(Protocol[CacheT]):
    """The layers over caches. Each kind of it has caches of its own.

    Attributes:
        max_length: positions of a context.
        token_count: tokens in use; the ids below it can be scored.
    """

    max_length: int
    token_count: int

    def new_cache(self, positions: int | None = None) -> CacheT:
        """An empty cache for ``positions`` (the model's context if None)."""
        ...

    def embed(self, ids: Sequence[int]) -> Tensor:
        """``[T, D]``"""
        ...

    def forward(self, sequences: Sequence[tuple[CacheT, Tensor]], every: bool = False, lasting: bool = True) -> Tensor:
        """Read each sequence's new embeddings ``[T, D]`` into its cache.

        Args:
            every: what follows from all positions ``[N, …]``, not only from each sequence's last ``[B, …]``.
            lasting: if not, this thread's next call may write over the result.

        Returns: a row a position, which ``scores`` takes: hidden states, or the scores of all tokens.
        """
        ...

    def scores(self, rows: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` (float32) of the ``allowed`` ids in their order; ``[N, V]`` of all tokens if None."""
        ...

    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """``[T, C]`` what CTC reads at the positions of speech units, from a cache's ``middle`` there."""
        ...
