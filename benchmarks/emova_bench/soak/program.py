"""Many clients at once for minutes, honest ones and others: slow readers, disconnects in the middle of an answer,
sockets that say no more, requests that are taken back. Honest requests must all be answered, or told when to come
again, and the server must hold no more memory, threads and file descriptors afterwards than before."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emova.cli.main import run_program
from emova_bench.common import arguments, parse, report
from emova_bench.soak.clients import HONEST, MIX, Client, Health, Place, Tally
from emova_bench.soak.process import Held, ServerProcess, serving

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: tuple[type[Client], ...] = (*dict.fromkeys(MIX), Health)
ASKED: tuple[type[Client], ...] = (*HONEST, Health)  # of whom each request must be answered
OWN_ADDRESSES = sys.platform.startswith("linux")  # elsewhere the loopback range has one address


async def load(port: int, model: str, count: int, seconds: float, seed: int) -> dict[str, Tally]:
    """What became of the requests of ``count`` clients, by kind."""
    makers: list[type[Client]] = [*(MIX[index % len(MIX)] for index in range(count)), Health]
    tallies = {each.kind: Tally() for each in KINDS}
    until = asyncio.get_running_loop().time() + seconds
    runs = []
    for number, make in enumerate(makers):
        address = f"127.0.{1 + number // 200}.{1 + number % 200}" if OWN_ADDRESSES else "127.0.0.1"
        place = Place(port, model, address, random.Random(seed * 10_000 + number))
        runs.append(make(place, tallies[make.kind]).run(until))
    await asyncio.gather(*runs)
    return tallies


def row_of(kind: str, tally: Tally, seconds: float) -> dict[str, object]:
    """A kind's line of the table."""
    times = tally.seconds or None
    worst = ", ".join(f"{count} {what}" for what, count in tally.failures.most_common(3))
    return {
        "clients": kind,
        "done": len(tally.seconds),
        "a minute": 60 * len(tally.seconds) / seconds,
        "told to wait": tally.busy,
        "failed": sum(tally.failures.values()),
        **{f"p{rank} s": times and float(np.percentile(times, rank)) for rank in (50, 95, 99)},
        "how": worst or "-",
    }


def faults(options: argparse.Namespace, tallies: dict[str, Tally], before: Held, after: Held, ended: bool) -> list[str]:
    """Why the server has not stood the soak."""
    found = []
    for kind in ASKED:
        tally = tallies[kind.kind]
        if tally.failures:
            found.append(f"{kind.kind}: {sum(tally.failures.values())} failed ({', '.join(tally.failures)})")
        if not tally.seconds and not tally.failures:
            found.append(f"{kind.kind}: none was answered")
    for name, most in (("rss_mb", options.max_rss), ("threads", options.max_threads), ("descriptors", options.max_fds)):
        was, now = getattr(before, name), getattr(after, name)
        if now > was + most:
            found.append(f"{name}: {was:.0f} before, {now:.0f} after, {most:g} more were allowed")
    if not ended:
        found.append("the server did not end when it was asked to")
    return found


def measured(server: ServerProcess, quiet: float) -> Held:
    """After a quiet time."""
    time.sleep(quiet)
    return server.held()


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("soak", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--warm", type=float, default=60.0, help="s of the same load before the first measurement")
    parser.add_argument("--quiet", type=float, default=45.0, help="s without clients before each measurement")
    parser.add_argument("--max-rss", type=float, default=100.0, metavar="MB", help="memory that may be left")
    parser.add_argument("--max-threads", type=int, default=4, help="threads that may be left")
    parser.add_argument("--max-fds", type=int, default=8, help="file descriptors that may be left")
    options = parse(parser, given, seconds=4.0, clients=16, warm=4.0, quiet=12.0)
    if not Path("/proc/self/fd").is_dir():
        raise SystemExit("soak: this system does not tell what a process holds; run it on Linux")
    model = Path(options.checkpoint).name
    with serving(["--model", options.checkpoint], options.threads) as server:
        asyncio.run(load(server.port, model, options.clients, options.warm, 0))
        before = measured(server, options.quiet)
        tallies = asyncio.run(load(server.port, model, options.clients, options.seconds, 1))
        after = measured(server, options.quiet) if server.alive else Held(0, 0, 0)
        ended = server.stop()
    rows = [row_of(kind, tally, options.seconds) for kind, tally in tallies.items()]
    found = faults(options, tallies, before, after, ended)

    def draw(axes: Axes) -> None:
        for kind in HONEST:
            values = np.sort(tallies[kind.kind].seconds)
            axes.plot(values, np.linspace(0, 100, len(values)), label=kind.kind)
        axes.set_xlabel("s until a request was answered in full")
        axes.set_ylabel("% of the honest requests")
        axes.legend()

    names = {"rss_mb": "memory MB", "threads": "threads", "descriptors": "file descriptors"}
    held = {name: f"{asdict(before)[key]:.0f} before, {asdict(after)[key]:.0f} after" for key, name in names.items()}
    report("soak", options, rows, draw, **held, faults="; ".join(found) or "none")
    if found:
        raise SystemExit(f"soak: {'; '.join(found)}")


if __name__ == "__main__":
    run_program(main)
