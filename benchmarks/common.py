"""What every benchmark shares: its arguments, the machine, and a report as a table, JSON and a figure."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emova import Assistant


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", nargs="?", default="emova-nano", help="a shipped name or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the report")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def load(options: argparse.Namespace) -> Assistant:
    """The assistant, on the asked-for number of threads."""
    torch.set_num_threads(options.threads)
    return Assistant.from_pretrained(options.checkpoint)


def question(seconds: float, rate: int = 16_000) -> np.ndarray:
    """Something to hear: a voice-like buzz with syllables, the same every time, float32 ``[T]``."""
    times = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 140 * harmonic * times) / harmonic for harmonic in range(1, 12))
    return (0.1 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * times))).astype(np.float32)


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def report(
    name: str, options: argparse.Namespace, rows: list[dict[str, Any]], draw: Callable[[Any], None], **facts: Any
) -> None:
    """Print ``rows`` as a table; write ``NAME.json`` and ``NAME.png``."""
    columns = list(rows[0])
    cells = [[f"{row[column]:.3g}" if isinstance(row[column], float) else str(row[column]) for column in columns]
             for row in rows]  # fmt: skip
    widths = [max(len(column), *(len(line[index]) for line in cells)) for index, column in enumerate(columns)]
    for line in (columns, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for key, value in facts.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    options.output.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    content = {"benchmark": name, "machine": machine, "torch": torch.__version__, "rows": rows, **facts}
    (options.output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    draw(axes)
    axes.set_title(name)
    figure.savefig(options.output / f"{name}.png", dpi=120)
    pyplot.close(figure)
