"""The evaluation's table, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emova.core.writing import make_folder, staged_output, write_text


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: what was measured.
        value: the figure, or None when it could not be measured.
        goal: the figure to reach; None where there is none.
        higher_is_better: the direction of the goal.
        unit: ``%``, ``s``, ``MB``, or nothing.
        count: how many items the figure stands on.
        note: the judge, the voices, what is missing.
        parts: the figure of each part of the items.
        low, high: the 95 % interval.
    """

    name: str
    value: float | None
    goal: float | None
    higher_is_better: bool
    unit: str = ""
    count: int = 0
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the goal is met; a missing figure is a miss, and without a goal there is nothing to miss."""
        if self.goal is None:
            return True
        if self.value is None:
            return False
        return self.value >= self.goal if self.higher_is_better else self.value <= self.goal

    def cells(self) -> list[str]:
        """Name, goal, figure, verdict, count and note as text."""
        sign = "≥" if self.higher_is_better else "≤"
        unit = self.unit and " " + self.unit
        value = "not measured" if self.value is None else f"{self.value:.4g}{unit}"
        if self.low is not None and self.high is not None:
            value += f" ({self.low:.3g} to {self.high:.3g})"
        if self.goal is None:
            return [self.name, "", value, "", str(self.count), self.note]
        return [
            self.name,
            f"{sign} {self.goal:g}{unit}",
            value,
            "yes" if self.reached else "no",
            str(self.count),
            self.note,
        ]


HEADER = ("what", "goal", "measured", "reached", "items", "judge and notes")


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "| " + " | ".join("---" for _ in HEADER) + " |"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def print_table(rows: Sequence[Row]) -> None:
    """The rows on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*row.cells(), style=None if row.reached else "yellow")
    Console().print(table)


def write_report(
    folder: Path, rows: Sequence[Row], settings: dict[str, Any], figures: Sequence[dict[str, Any]] = ()
) -> None:
    """Write ``report.md`` and ``results.json`` into ``folder``; ``figures`` are what the rows stand on."""
    make_folder(folder)
    lines = [{**asdict(row), "reached": row.reached} for row in rows]
    results = {"settings": settings, "rows": lines, "figures": list(figures)}
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "report.md", "# emova-nano: measured figures\n\n" + markdown_table(rows))


def plot_confusion(path: Path, matrix_NN: np.ndarray, labels: Sequence[str], title: str) -> None:
    """A confusion matrix (rows: asked, columns: heard), in per cent of each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    share = 100 * matrix_NN / np.maximum(matrix_NN.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(4.6, 4.2), dpi=120)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for i, j in np.ndindex(*share.shape):
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color="white" if share[i, j] > 55 else "black")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("heard")
    axes.set_ylabel("asked")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="% of the row", fraction=0.046)
    figure.tight_layout()
    with staged_output(path) as file:
        figure.savefig(file, format="png")
    plt.close(figure)


def plot_bars(path: Path, shares: dict[str, float], title: str, goal: float) -> None:
    """Horizontal bars in per cent with the goal as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted(shares)
    figure, axes = plt.subplots(figsize=(5.6, 0.36 * len(names) + 1.2), dpi=120)
    axes.barh(
        names, [shares[name] for name in names], color=["#4477aa" if shares[n] >= goal else "#cc7744" for n in names]
    )
    axes.axvline(goal, color="black", linewidth=1, linestyle="--", label=f"goal {goal:g} %")
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, %")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    with staged_output(path) as file:
        figure.savefig(file, format="png")
    plt.close(figure)
