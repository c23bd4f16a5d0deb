"""What a person sees of a run, and how they stop it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_REPEATED = 1.0
"""Seconds in which a second signal is taken for the first one's echo."""


class StopSignals:
    """Turns SIGTERM and Ctrl-C into a request that the loop grants after the step at hand; a second Ctrl-C is at once.

    A launcher may hand on a signal that the whole process group got already, so one soon after the first says nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | signal.Handlers | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _REPEATED:
            raise KeyboardInterrupt

    def exit_if_asked(self) -> None:
        """End the program the way the signal would have, now that everything is saved."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)


class Progress:
    """A bar with the time left on a terminal; a plain line a logging window elsewhere."""

    def __init__(self, total: int, done: int, *, shown: bool = True) -> None:
        self._total = total
        self._first = done
        self._started = time.monotonic()
        self._bar: RichProgress | None = None
        self._shown = shown
        if shown and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=total, completed=done)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def window(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a logging window or a validation."""
        if not self._shown:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in ("time", "epoch"))
        if self._bar:
            if kind == "train":
                self._bar.update(self._task, description=f"loss {values.get('loss', float('nan')):.4f}")
            else:
                self._bar.console.print(f"step {step} {kind}: {shown}", highlight=False)
            return
        elapsed = time.monotonic() - self._started
        left = elapsed / max(step - self._first, 1) * (self._total - step)
        clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        print(f"step {step}/{self._total} {kind}: {shown}  left {clock}", file=sys.stderr, flush=True)
