"""The curves of a run: ``metrics.jsonl``, one row a logging window or validation, and ``curves.png`` drawn from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emova.core.writing import staged_output, write_text
from emova_train.core.reporting import Reporter

FILE_NAME = "metrics.jsonl"
PLOT_NAME = "curves.png"
_NOT_PLOTTED = frozenset({"step", "time", "kind", "epoch"})


class MetricsFile:
    """Appends rows to ``metrics.jsonl``; each row has ``kind`` (train or eval), ``step`` and numbers.

    Args:
        reporters: are told the same numbers.
    """

    def __init__(self, output_dir: str | Path, reporters: Sequence[Reporter] = ()) -> None:
        self.reporters = reporters
        self.path = Path(output_dir) / FILE_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        row: dict[str, Any] = {"kind": kind, "step": step}
        # JSON has no NaN; null keeps the row readable by any reader.
        row.update({name: value if math.isfinite(value) else None for name, value in values.items()})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for reporter in self.reporters:
            reporter.write(kind, step, values)

    def close(self) -> None:
        """Let the reporters write what they hold."""
        for reporter in self.reporters:
            reporter.close()

    def drop_after(self, step: int) -> None:
        """Forget rows later than ``step``: a resumed run writes them again."""
        kept = [row for row in read(self.path) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))


def read(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a kill is left out."""
    rows = []
    if Path(path).is_file():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def plot(metrics_path: str | Path, target: str | Path | None = None) -> Path | None:
    """Draw every curve of a metrics file, training and validation over each other, and return the picture's path."""
    rows = read(metrics_path)
    curves: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in _NOT_PLOTTED or not isinstance(value, (int, float)):
                continue
            steps, values = curves.setdefault(name, {}).setdefault(row["kind"], ([], []))
            steps.append(row["step"])
            values.append(float(value))
    if not curves:
        return None
    # The object interface keeps no global figure list, so plotting through a long run does not grow.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * lines))
    figure.subplots_adjust(left=0.08, right=0.98, top=0.93, bottom=0.08, hspace=0.5, wspace=0.3)
    FigureCanvasAgg(figure)
    for position, (name, kinds) in enumerate(sorted(curves.items(), key=lambda item: (item[0] != "loss", item[0]))):
        axes = figure.add_subplot(lines, columns, position + 1)
        for kind, (steps, values) in sorted(kinds.items(), reverse=True):
            axes.plot(steps, values, linewidth=1, marker="o" if kind == "eval" else None, markersize=3, label=kind)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(kinds) > 1:
            axes.legend(fontsize=7)
    path = Path(target) if target is not None else Path(metrics_path).with_name(PLOT_NAME)
    with staged_output(path) as file:
        figure.savefig(file, dpi=72, format="png")
    return path
