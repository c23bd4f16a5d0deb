"""Memory in large pages.

A step reads all weights once, and where every 4 KiB of them need a translation of their own, that is what it waits for:
in a virtual machine above all, where a translation takes two.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

PAGE = 2 << 20
CHUNK = 32 << 20
"""Bytes that are asked for at once; what is never written takes no memory."""
LINE = 64


class LargePages:
    """Tensors one behind another, in pages as large as the system gives for the asking."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of a contiguous tensor that begins on a line of the cache."""
        size = tensor.numel() * tensor.element_size()
        if len(self._free) < size:
            self._free = _pages(max(CHUNK, -(-size // PAGE) * PAGE))
        kept = self._free[:size].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        self._free = self._free[-(-size // LINE) * LINE :]
        return kept


def _pages(size: int) -> Tensor:
    """So many bytes of zeros, the first at the beginning of a large page. Freed with the last tensor over them."""
    # Private, since shared memory has small pages; a page more, for an address that is a multiple of one.
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    first = -whole.data_ptr() % PAGE
    return whole[first : first + size]
