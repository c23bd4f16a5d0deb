"""What every benchmark shares: its arguments, the machine, and a report as a table, JSON and a figure."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from emova import Assistant
from emova.cli.common import EXAMPLES
from emova.cli.main import Parser
from emova.core.writing import check_writable, make_folder, staged_output, write_text
from emova.engine.engine import Engine
from emova.engine.llama import Llama
from emova.events import AudioChunk, Done, Failed, Reply, SessionEvent
from emova.native.compiled import STEP
from emova.speech.audio import load_audio

if TYPE_CHECKING:
    from matplotlib.axes import Axes


EventT = TypeVar("EventT")


def arguments(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take."""
    parser = Parser(prog=f"emova bench {name}", description=description)
    parser.add_argument("checkpoint", nargs="?", default="emova-nano", help="a shipped name or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the report")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reply-format", help="json or interleaved; the checkpoint's own if not given")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs, not for figures")
    return parser


def parse(parser: argparse.ArgumentParser, given: Sequence[str] | None, **quick: object) -> argparse.Namespace:
    """The options; with ``--quick``, ``quick`` takes the place of the defaults. Sets the number of threads.

    Raises:
        InputError: the report's folder cannot be written to.
    """
    if parser.parse_known_args(given)[0].quick:
        parser.set_defaults(repeats=1, **quick)
    options = parser.parse_args(given)
    check_writable(make_folder(options.output) / "report")  # before the long work
    torch.set_num_threads(options.threads)
    return options


def load(options: argparse.Namespace) -> Assistant:
    """The assistant that is measured."""
    return Assistant.from_pretrained(options.checkpoint, reply_format=options.reply_format)


def layers(engine: Engine) -> Llama:
    """The engine's own layers; none of these benchmarks runs transformers' in them."""
    assert isinstance(engine.llama, Llama)
    return engine.llama


def question(seconds: float, rate: int = 16_000) -> np.ndarray:
    """The shipped spoken question, again and again with a breath between, float32 ``[T]``."""
    once = load_audio(EXAMPLES / "question.wav", rate)
    breath = np.zeros(rate // 4, dtype=np.float32)
    return np.resize(np.concatenate([once, breath]), int(seconds * rate))


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def checked(event: EventT) -> EventT:
    """The event, if the reply did not fail."""
    if isinstance(event, Failed):
        raise SystemExit(event.message)
    return event


def whole_reply(events: Iterable[SessionEvent]) -> Reply:
    """The reply at the end of a session's events."""
    return next(event.reply for event in map(checked, events) if isinstance(event, Done))


def first_sound(events: Iterable[SessionEvent]) -> None:
    """Read up to the first sound."""
    next(event for event in map(checked, events) if isinstance(event, AudioChunk))


def resident_bytes() -> int:
    """The process's memory now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _machine() -> dict[str, object]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "instructions": STEP.status().why.partition(",")[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Above the number of cores, something else was running and the figures are worth little.
        "load average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def report(
    name: str,
    options: argparse.Namespace,
    rows: Sequence[Mapping[str, object]],
    draw: Callable[[Axes], None],
    **facts: object,
) -> None:
    """Print ``rows`` as a table; write ``NAME.json`` and ``NAME.png``."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[index]) for line in cells)) for index, column in enumerate(columns)]
    for line in (columns, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for key, value in facts.items():
        print(f"{key}: {_cell(value)}")
    make_folder(options.output)
    content = {
        "benchmark": name,
        "options": {key: str(value) for key, value in vars(options).items()},
        "machine": _machine(),
        "torch": torch.__version__,
        "rows": rows,
        **facts,
    }
    write_text(options.output / f"{name}.json", json.dumps(content, indent=2) + "\n")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    draw(axes)
    axes.set_title(name)
    with staged_output(options.output / f"{name}.png") as file:
        figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)
