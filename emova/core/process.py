"""The process around a command: standard streams that may be closed or break, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal asked the process to end; what is being written is taken back on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def open_streams() -> None:
    """Give what the caller closed (``>&-``) a place to go, so that no file of ours takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


class _Unread:
    """stderr whose reader may go: what is told there is never worth breaking off the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def unread_stderr() -> Iterator[None]:
    """Inside, progress and warnings go to stderr as long as somebody takes them, and nowhere afterwards."""
    before = sys.stderr
    sys.stderr = _Unread(before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stderr = before


def tell(line: str) -> None:
    """Write a line to stderr, if anybody still reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def settle_streams() -> None:
    """Write out what waits in stdout and stderr; where nobody takes it, it goes nowhere, and no error at the exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
        except ValueError:  # closed
            continue


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``Stopped`` inside, in this process alone, unless they are ignored or taken already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a child that was forked from here ends as any process does
            end_by(number)
        raise Stopped(number)

    taken = [number for number in _STOPS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def end_by(number: int) -> None:
    """End the process as the signal would have ended it, so that whoever sent it sees that."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_M_ARENA_MAX = -8  # of glibc's malloc.h


def few_heaps(count: int = 1) -> bool:
    """Let all threads share ``count`` heaps, where the C library is glibc; asked for before they are started.

    glibc gives threads heaps of their own and keeps what was freed in them: each of a server's threads came to hold
    24 MB after one reply, with one heap 10 MB. Returns: whether it took effect.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count))
    except (OSError, AttributeError, TypeError):  # another C library
        return False
