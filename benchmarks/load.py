"""Several sessions at once: the real-time factor of each, written together against one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.common import arguments, checked, load, parse, report
from emova.results import Done, Reply
from emova.streaming.hub import Hub, HubConfig


def together(hub: Hub, texts: list[str]) -> list[tuple[float, Reply]]:
    """When each reply was whole, and the replies."""
    started = time.perf_counter()
    readers = {index: hub.open().ask(text) for index, text in enumerate(texts)}
    ended: list[tuple[float, Reply]] = []
    while readers:
        for index, reader in list(readers.items()):
            event = checked(next(reader))
            if isinstance(event, Done):
                ended.append((time.perf_counter() - started, event.reply))
                del readers[index]
    return ended


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("load", __doc__ or "")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parse(parser, given, sessions=[1, 2])
    assistant = load(options)
    rows: list[dict[str, Any]] = []
    for count in options.sessions:
        texts = [f"Tell me about day {index + 1}." for index in range(count)]
        ended = together(Hub(assistant, HubConfig(max_sessions=count)), texts)
        started = time.perf_counter()
        spoken = sum(len(reply.audio) / reply.sample_rate for _, reply in ended)
        for text in texts:
            list(assistant.conversation().stream(text=text))
        alone = time.perf_counter() - started
        factors = [seconds / (len(reply.audio) / reply.sample_rate) for seconds, reply in ended]
        rows.append(
            {
                "sessions": count,
                "worst real-time factor": max(factors),
                "above real time": sum(factor < 1 for factor in factors),
                "together s": max(seconds for seconds, _ in ended),
                "one after another s": alone,
                "spoken s": spoken,
            }
        )

    def draw(axes: Any) -> None:
        axes.plot([row["sessions"] for row in rows], [row["worst real-time factor"] for row in rows], "o-")
        axes.axhline(1, linestyle=":")
        axes.set_xlabel("sessions at once")
        axes.set_ylabel("time per second of voice (worst)")

    report("load", options, rows, draw)


if __name__ == "__main__":
    main()
