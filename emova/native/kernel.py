"""A C file of this package as the process uses it: one switch, a check against torch, and why it runs or does not."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.native.build import BuildError, build, compiler_version, find_compiler
from emova.native.isa import Isa, candidates

log = logging.getLogger(__name__)
SWITCH = "EMOVA_NATIVE"
Mode = Literal["0", "1", "require"]
Bound = TypeVar("Bound")
_told: set[str] = set()


def switch() -> Mode:
    """What ``EMOVA_NATIVE`` says of compiled code: never, where it can be had (the default), or no run without it.

    Raises:
        InputError: it says something else.
    """
    match os.environ.get(SWITCH, ""):
        case "" | "1":
            return "1"
        case "0":
            return "0"
        case "require":
            return "require"
    raise InputError(f"{SWITCH} must be 0 (torch only), 1 (compiled where it can be) or require")


@dataclass(frozen=True)
class Status:
    """What does a kernel's work, and why.

    Attributes:
        runs: ``compiled`` or ``torch``.
        why: the instruction set and the compiler's version, or the reason for torch.
    """

    runs: Literal["compiled", "torch"]
    why: str


class Kernel(Generic[Bound]):
    """Compiled code that torch stands in for.

    It is built for the best instruction set that the processor has and checked by ``prepare``, which whoever loads a
    checkpoint calls; where it cannot be built for one or is wrong, the next is tried. ``ready`` never builds, so no
    request waits for a compiler.

    Args:
        source: the C file.
        bind: from the loaded library to what callers use.
        check: compares what callers use with torch, on a few numbers; returns whether they agree.
    """

    def __init__(self, source: Path, bind: Callable[[ctypes.CDLL], Bound], check: Callable[[Bound], bool]) -> None:
        self.source = source
        self._bind, self._check = bind, check
        self._lock = threading.Lock()
        self._made: tuple[Bound | None, str] | None = None
        self._in_use: Bound | None = None

    @property
    def ready(self) -> Bound | None:
        """What ``prepare`` made; None where torch does the work, also before it was called."""
        return self._in_use

    def prepare(self) -> Bound | None:
        """Compile, load and check, once in a process; None where torch does the work, which is told in one line.

        Raises:
            InputError: it cannot be had and ``EMOVA_NATIVE=require``, or the switch says nonsense.
        """
        mode = switch()
        if mode == "0":
            self._in_use = None
            return None
        self._in_use, why = self._once()
        if self._in_use is None:
            if mode == "require":
                raise InputError(f"{self.source.name}: {why}; mend that, or do without ({SWITCH}=1)")
            if why not in _told:  # both files may lack the same compiler
                _told.add(why)
                log.warning("torch does the work of compiled code, more slowly: %s (%s=0 accepts it)", why, SWITCH)
        return self._in_use

    def status(self) -> Status:
        """What runs here and why; builds if nobody did."""
        if switch() == "0":
            return Status("torch", f"switched off ({SWITCH}=0)")
        bound, why = self._once()
        return Status("torch" if bound is None else "compiled", why)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Torch does the work inside: for measurements of the one against the other."""
        before, self._in_use = self._in_use, None
        try:
            yield
        finally:
            self._in_use = before

    def _once(self) -> tuple[Bound | None, str]:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> tuple[Bound | None, str]:
        why = "this processor runs none of the instruction sets"
        for isa in candidates():
            try:
                bound = self._bind(self._load(isa))
                # A wrong result is a reason for less, whatever it is that the compiler made of the source.
                if self._check(bound):
                    return bound, f"{isa.name}, {compiler_version(tuple(find_compiler()))}"
                why = f"{self.source.name} as compiled here ({isa.name}) differs from torch"
            except BuildError as error:
                why = str(error)
        return None, why

    def _load(self, isa: Isa) -> ctypes.CDLL:
        for again in (False, True):  # a damaged file of the cache is made anew
            path = build(self.source, isa, again)
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                continue
        raise BuildError(f"{path.name} cannot be loaded")


class Scratch(threading.local):
    """What compiled code writes into, kept from one call to the next; each thread has its own."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def floats(self, size: int) -> Tensor:
        """``[size]`` float32, of any values."""
        if len(self._numbers) < size:
            self._numbers = torch.empty(size * 3 // 2)  # what is asked for often grows bit by bit
        return self._numbers[:size]
