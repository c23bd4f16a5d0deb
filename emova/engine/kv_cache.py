"""One sequence's keys and values.

Shape letters: T new positions, P positions in a cache, D width, K key-value heads, C head width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from emova.native.step import ROWS


class SequenceState:
    """How far one sequence was read, as ``emova.engine.protocol.SequenceCache`` has it; caches keep what was read.

    Args:
        positions: that there are.
    """

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self.length = 0
        self.speech: int | None = None
        self.keep_middle = False
        self.middle: Tensor | None = None

    @property
    def room(self) -> int:
        """Positions left."""
        return self._positions - self.length

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        assert -self.length <= change <= 0
        self.length += change


class KVCache(SequenceState):
    """One sequence's keys and values, allocated once: two of ``[L, K, P, C]``.

    Args:
        speech_window: how far back speech that is being written sees itself, in positions; 0 is all the way.
    """

    def __init__(
        self, layers: int, kv_heads: int, positions: int, width: int, dtype: torch.dtype, device: torch.device,
        speech_window: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(positions)
        shape = (layers, kv_heads, positions, width)
        # Not initialised: pages that were never written cost no memory.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self._speech_window = speech_window
        self.replay: Callable[[Tensor, int, tuple[int, int]], Tensor] | None = None
        """A recorded step over this cache's memory (``emova.engine.cuda_graph``), where there is one."""

    @property
    def nbytes(self) -> int:
        """Memory when full."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def hole(self, position: int) -> tuple[int, int]:
        """The first position that ``position`` does not see, and the first after it that it sees again."""
        return unseen(self.speech, self._speech_window, position)

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        super().crop(change)
        if self.replay is not None:  # it reads the whole cache behind a mask, and a NaN would show through
            self.keys[:, :, self.length : self.length - change] = 0
            self.values[:, :, self.length : self.length - change] = 0


def unseen(speech: int | None, window: int, position: int) -> tuple[int, int]:
    """The first position that ``position`` does not see, and the first after it that it sees again.

    While speech is written it sees what came before it and its own last positions, so that a second of it costs the
    same however long it has lasted. Both bounds are multiples of ``ROWS``.

    Args:
        speech: where it begins; None while none is written.
        window: how far back it sees itself, in positions; 0 is all the way.
    """
    if speech is None or not window:
        return 0, 0
    first = -(-speech // ROWS) * ROWS
    hidden = position + 1 - window - first
    return first, first + max(0, hidden // ROWS * ROWS)
