"""Figures held against goals: one table, as Markdown, on the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emova.core.writing import make_folder, write_text
from emova_eval.report.tables import markdown_table


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
        table: the heading under which it stands.
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
    table: str = ""

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


def goals_table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: a table for each heading, in the order in which they first come."""
    tables = []
    for name in dict.fromkeys(row.table for row in rows):
        table = markdown_table(HEADER, [row.cells() for row in rows if row.table == name])
        tables.append(f"### {name}\n\n{table}" if name else table)
    return "\n".join(tables)


def print_table(rows: Sequence[Row]) -> None:
    """The rows on the terminal."""
    from rich.console import Console
    from rich.table import Table

    for name in dict.fromkeys(row.table for row in rows):
        table = Table(*HEADER, title=name or None)
        for row in rows:
            if row.table == name:
                table.add_row(*row.cells(), style=None if row.reached else "yellow")
        Console().print(table)


def write_report(
    folder: Path, rows: Sequence[Row], settings: dict[str, object], figures: Sequence[dict[str, object]] = ()
) -> None:
    """Write ``report.md`` and ``results.json`` into ``folder``; ``figures`` are what the rows stand on."""
    make_folder(folder)
    lines = [{**asdict(row), "reached": row.reached} for row in rows]
    results = {"settings": settings, "rows": lines, "figures": list(figures)}
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "report.md", "# emova-nano: measured figures\n\n" + goals_table(rows))
