"""A context of llama.cpp, and the sequences in it: what they have read, and one call for new positions of many of them.

A context has room for several sequences, each with two of llama.cpp's own: all that it has read, and what of that the
speech which it is writing sees. They share one memory of keys and values; a position sees no other sequence's.

Shape letters: T new positions of one sequence, N of all, D width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from emova.engine.kv_cache import SequenceState, unseen

CHUNK = 256
"""Most positions that are read at once."""


class Handle:
    """A pointer of llama.cpp's that is freed with the last reference to this object."""

    def __init__(self, pointer: int, free: object, *kept: object) -> None:
        self.pointer = pointer
        # Whatever ``kept`` holds is alive until then: a context is freed before its model.
        weakref.finalize(self, lambda made, _: free(made), pointer, kept)  # type: ignore[operator]


class MiddleTap:
    """What one layer gives, taken from llama.cpp while it computes.

    Args:
        layer: counted from 0.
    """

    def __init__(self, layer: int, width: int) -> None:
        from llama_cpp import llama_cpp

        library = llama_cpp._lib  # the package has no other way to a tensor's name and numbers
        self._name = library.ggml_get_name
        self._name.argtypes, self._name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._get = library.ggml_backend_tensor_get
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None
        self._wanted, self._width = f"l_out-{layer}".encode(), width
        self.count = 0
        """Positions that are being read; 0: nothing is taken."""
        self.taken: Tensor | None = None
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._look)

    def _look(self, tensor: int, asks: bool, _: object) -> bool:
        if not self.count or self._name(tensor) != self._wanted:
            return not asks  # False: not wanted; True: go on
        if not asks:
            self.taken = torch.empty(self.count, self._width)
            self._get(tensor, self.taken.data_ptr(), 0, 4 * self.taken.numel())
        return True


@dataclass(frozen=True)
class Part:
    """New positions of one sequence, which all see the same.

    Attributes:
        x_TD: their embeddings.
        sequence: llama.cpp's, whose positions they see and to which they belong.
        also: another one to which they belong afterwards; None: no other.
        wanted: after how many of them, the last ones, scores are wanted.
    """

    cache: LlamaCppCache
    x_TD: Tensor
    sequence: int
    also: int | None
    wanted: int


class SharedContext:
    """A context of llama.cpp and who has which place in it.

    Args:
        api: llama-cpp-python.
        places: sequences that there is room for.
        vocabulary: V.
        tap: what looks into the context; None where nothing does.
    """

    def __init__(self, api: ModuleType, handle: Handle, places: int, vocabulary: int, tap: MiddleTap | None) -> None:
        self.api, self.tap = api, tap
        self.lock = threading.RLock()
        self._handle, self._vocabulary = handle, vocabulary
        self.memory = api.llama_get_memory(handle.pointer)
        self._free = list(range(places))[::-1]
        self._left: deque[int] = deque()

    def take_place(self) -> int | None:
        """A free place, empty; None if all are taken."""
        with self.lock:
            self._clear()
            return self._free.pop() if self._free else None

    def leave_place(self, place: int) -> None:
        """Whoever had it is gone. It is emptied later: this may be called at any moment, by any thread."""
        self._left.append(place)

    def _clear(self) -> None:
        while self._left:
            place = self._left.popleft()
            for sequence in sequences_of(place):
                self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
            self._free.append(place)

    def decode(self, parts: Sequence[Part], keep_middle: bool = False) -> Tensor:
        """Read all ``parts``, no more than ``CHUNK`` positions, in one call; what follows, ``[N wanted, V]``."""
        api, counts = self.api, [len(part.x_TD) for part in parts]
        count, wanted = sum(counts), sum(part.wanted for part in parts)
        self._clear()
        threads = torch.get_num_threads()
        api.llama_set_n_threads(self._handle.pointer, threads, threads)
        x_ND = parts[0].x_TD if len(parts) == 1 else torch.cat([part.x_TD for part in parts])
        x_ND = x_ND.float().contiguous()
        positions: list[int] = []
        owners: list[ctypes._Pointer[ctypes.c_int32]] = []
        scored: list[int] = []
        for part, new in zip(parts, counts, strict=True):
            positions += range(part.cache.length, part.cache.length + new)
            owners += [ctypes.pointer(ctypes.c_int32(part.sequence))] * new
            scored += [0] * (new - part.wanted) + [1] * part.wanted
        batch = api.llama_batch(
            n_tokens=count,
            token=None,
            embd=ctypes.cast(x_ND.data_ptr(), ctypes.POINTER(ctypes.c_float)),
            pos=(ctypes.c_int32 * count)(*positions),
            n_seq_id=(ctypes.c_int32 * count)(*[1] * count),
            seq_id=(ctypes.POINTER(ctypes.c_int32) * count)(*owners),
            logits=(ctypes.c_int8 * count)(*scored),
        )
        if self.tap is not None:
            self.tap.count, self.tap.taken = (count if keep_middle else 0), None
        if api.llama_decode(self._handle.pointer, batch) != 0:
            raise RuntimeError("llama.cpp could not read a batch")
        for part, new in zip(parts, counts, strict=True):
            start, part.cache.length = part.cache.length, part.cache.length + new
            if part.also is not None:
                # Not in the batch: which of several sequences a position sees is not the caller's choice in every
                # version of llama.cpp.
                api.llama_memory_seq_cp(self.memory, part.sequence, part.also, start, part.cache.length)
        if not wanted:
            return torch.empty(0, self._vocabulary)
        scores = np.ctypeslib.as_array(api.llama_get_logits(self._handle.pointer), (wanted, self._vocabulary))
        return torch.from_numpy(scores.copy())


def sequences_of(place: int) -> tuple[int, int]:
    """llama.cpp's sequences of a place: everything that was read, and what of it speech that is being written sees."""
    return 2 * place, 2 * place + 1


class LlamaCppCache(SequenceState):
    """One sequence's keys and values: a place in a context of llama.cpp, left with the last reference to this object.

    Args:
        positions: that there are.
        speech_window: how far back speech that is being written sees itself, in positions; 0 is all the way.
    """

    def __init__(self, context: SharedContext, place: int, positions: int, speech_window: int) -> None:
        super().__init__(positions)
        self.context = context
        self._speech_window = speech_window
        self._all, self._seen = sequences_of(place)
        self._hole: tuple[int, int] | None = None  # what ``_seen`` lacks of ``_all``; None: it is empty
        weakref.finalize(self, context.leave_place, place)

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        super().crop(change)
        with self.context.lock:
            for sequence in (self._all, self._seen):
                assert self.context.api.llama_memory_seq_rm(self.context.memory, sequence, self.length, -1)

    def read(self, x_TD: Tensor, every: bool) -> Tensor:
        """Read embeddings; the scores of all tokens after each ``[T, V]``, or after the last ``[1, V]``."""
        rows, middles, start = [], [], 0
        with self.context.lock:
            while start < len(x_TD):
                hole = self._unseen(self.length)
                stop = start + 1
                most = min(len(x_TD), start + CHUNK)
                while stop < most and self._unseen(self.length + stop - start) == hole:
                    stop += 1
                wanted = stop - start if every else int(stop == len(x_TD))
                part = Part(self, x_TD[start:stop], *self._see(hole), wanted)
                rows.append(self.context.decode([part], self.keep_middle))
                if self.context.tap is not None and self.context.tap.taken is not None:
                    middles.append(self.context.tap.taken)
                start = stop
        if self.keep_middle:
            self.middle = torch.cat(middles)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def part(self, x_TD: Tensor) -> Part | None:
        """All of ``x_TD`` as a part of a call for several sequences; None where it must be read by itself."""
        hole = self._unseen(self.length)
        if self.keep_middle or self._unseen(self.length + len(x_TD) - 1) != hole:
            return None
        return Part(self, x_TD, *self._see(hole), 1)

    def _unseen(self, position: int) -> tuple[int, int]:
        return unseen(self.speech, self._speech_window, position)

    def _see(self, hole: tuple[int, int]) -> tuple[int, int | None]:
        """The sequence that the next positions see, and the other one that they belong to afterwards."""
        api, memory, (first, last) = self.context.api, self.context.memory, hole
        if last <= first:
            if self._hole is not None:
                api.llama_memory_seq_rm(memory, self._seen, -1, -1)
                self._hole = None
            return self._all, None
        if self._hole is None or self._hole[0] != first:
            api.llama_memory_seq_rm(memory, self._seen, -1, -1)
            api.llama_memory_seq_cp(memory, self._all, self._seen, -1, -1)
            self._hole = first, first
        before = self._hole[1]
        if last > before:
            api.llama_memory_seq_rm(memory, self._seen, before, last)
        elif last < before:
            api.llama_memory_seq_cp(memory, self._all, self._seen, last, before)
        self._hole = hole
        return self._seen, self._all
