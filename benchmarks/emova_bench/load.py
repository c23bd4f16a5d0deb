"""Several sessions at once: the real-time factor of each and its first sound, written together against one after
another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emova.cli.main import run_program
from emova.events import AudioChunk, Done, Reply
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova_bench.common import arguments, checked, load, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def together(scheduler: Scheduler, texts: list[str]) -> tuple[list[tuple[float, Reply]], list[float]]:
    """When each reply was whole, and the replies; and when each was first heard."""
    started = time.perf_counter()
    readers = {index: scheduler.open().ask(text) for index, text in enumerate(texts)}
    ended: list[tuple[float, Reply]] = []
    heard: dict[int, float] = {}
    while readers:
        for index, reader in list(readers.items()):
            event = checked(next(reader))
            if isinstance(event, AudioChunk):
                heard.setdefault(index, time.perf_counter() - started)
            if isinstance(event, Done):
                ended.append((time.perf_counter() - started, event.reply))
                del readers[index]
    return ended, list(heard.values())


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("load", __doc__ or "")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--alone", type=int, default=4, help="replies that are timed one after another, for all")
    options = parse(parser, given, sessions=[1, 2])
    assistant = load(options)
    rows: list[dict[str, int | float | str]] = []
    for count in options.sessions:
        texts = [f"Tell me about day {index + 1}." for index in range(count)]
        factors: list[list[float]] = []
        times: list[tuple[float, float]] = []
        firsts: list[float] = []
        for _ in range(options.repeats):
            ended, heard = together(Scheduler(assistant, SchedulerConfig(max_sessions=count)), texts)
            factors.append(sorted(seconds / (len(reply.audio) / reply.sample_rate) for seconds, reply in ended))
            firsts += heard
            started = time.perf_counter()
            for text in texts[: options.alone]:
                list(assistant.conversation().stream(text=text))
            alone = (time.perf_counter() - started) * len(texts) / len(texts[: options.alone])
            times.append((max(seconds for seconds, _ in ended), alone))
        each = np.median(factors, axis=0)
        rows.append(
            {
                "sessions": count,
                "real-time factors": " ".join(f"{factor:.2f}" for factor in each),
                "worst": float(each[-1]),
                "faster than real time": int((each < 1).sum()),
                "first sound ms, median": 1000 * float(np.median(firsts)),
                "first sound ms, p95": 1000 * float(np.percentile(firsts, 95)),
                "together s": float(np.median([both for both, _ in times])),
                "one after another s": float(np.median([alone for _, alone in times])),
            }
        )

    def draw(axes: Axes) -> None:
        axes.plot([row["sessions"] for row in rows], [row["worst"] for row in rows], "o-")
        axes.axhline(1, linestyle=":")
        axes.set_xlabel("sessions at once")
        axes.set_ylabel("time per second of voice (worst)")

    report("load", options, rows, draw)


if __name__ == "__main__":
    run_program(main)
