"""What a run measured, as tables of text: ``page.py`` and ``run_report.py`` write them as HTML and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from emova.speech.style import DEFAULT_STYLES
from emova_eval.report.published import TABLES, PublishedTable
from emova_eval.suite.runner import Figure
from emova_eval.suite.samples import Record

Table = tuple[str, tuple[str, ...], list[list[str]]]
WORST = 5
FIGURE_HEADER = ("task", "figure", "95 % interval", "unit", "better", "items", "failures", "judge, or what is missing")
FURTHER_HEADER = ("task", "further figure", "value", "95 % interval", "note")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _range(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def figure_cells(figure: Figure) -> list[str]:
    """One line of the table of figures."""
    if figure.value is None:
        return [figure.task, "not measured", "", "", "", str(figure.count), str(figure.failures), figure.missing]
    return [
        figure.task,
        _number(figure.value),
        _range((figure.low, figure.high)),
        figure.unit,
        "higher" if figure.higher_is_better else "lower",
        str(figure.count),
        str(figure.failures),
        figure.judge,
    ]


def further_lines(figure: Figure) -> list[list[str]]:
    """A line for each further figure, and for each that no judge here gives."""
    lines = [
        [figure.task, name, _number(value), _range(figure.extra_intervals.get(name, (None, None))), ""]
        for name, value in figure.extra.items()
    ]
    return lines + [[figure.task, name, "not available", "", why] for name, why in figure.absent.items()]


def published_lines(table: PublishedTable, figures: dict[str, Figure]) -> list[list[str]]:
    """The rows of a paper's table that this run measured, with ours first; a task's variants each give a row."""
    lines = []
    for name, figure in figures.items():
        base = name if name in table.rows else name.removesuffix("-s2s").removesuffix("-s2t")
        if figure.value is None:
            continue
        suffix = " S→S" if name.endswith("-s2s") else " S→T" if name.endswith("-s2t") else ""
        ours = {base: figure.value, **{f"{base}/{key}": value for key, value in figure.extra.items()}}
        for row, (label, cells) in table.rows.items():
            if row in ours:
                value = ours[row] * (100 if row in table.percent else 1)
                lines.append([label + suffix, f"{_number(value)} ({figure.count} items)", *map(_number, cells)])
    return lines


def tables_of(figures: Sequence[Figure]) -> list[Table]:
    """The tables of all tasks: title, header, rows."""
    found: list[Table] = [("Figures of this run", FIGURE_HEADER, [figure_cells(figure) for figure in figures])]
    named = {figure.task: figure for figure in figures}
    for table in TABLES:
        if lines := published_lines(table, named):
            found.append((f"{table.title} ({table.source})", ("", "this run", *table.columns), lines))
    if rows := [line for figure in figures for line in further_lines(figure)]:
        found.append(("Further figures of the same answers: means, and shares of 1", FURTHER_HEADER, rows))
    return found


def group_tables(figures: Sequence[Figure]) -> list[Table]:
    """A small table for each task whose questions have groups."""
    return [
        (f"{figure.task} by group", ("group", "figure"), [[name, _number(v)] for name, v in figure.groups.items()])
        for figure in figures
        if figure.groups
    ]


def failures_of(records: Sequence[Record]) -> list[Table]:
    """What could not be asked or judged, in whole or in part: task, reason, how many, and which questions."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for reason in filter(None, (record.failure, *record.notes.get("judge_failures", ()))):
            found.setdefault((record.task, reason[:160]), []).append(record.id)
    rows = [
        [task, reason, str(len(ids)), ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")]
        for (task, reason), ids in found.items()
    ]
    return [("What failed, and counts as wrong", ("task", "reason", "questions", "which"), rows)] if rows else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what its cells hold cannot break it."""
    lines = [header, ("---",) * len(header), *(map(_cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def figures_table(figures: Sequence[Figure]) -> str:
    """The run's figures alone, as Markdown tables."""
    further = [line for figure in figures for line in further_lines(figure)]
    tables = [markdown_table(FIGURE_HEADER, [figure_cells(figure) for figure in figures])]
    return "\n".join(tables + ([markdown_table(FURTHER_HEADER, further)] if further else []))


def markdown(title: str, figures: Sequence[Figure], facts: dict[str, object], records: Sequence[Record] = ()) -> str:
    """The report as Markdown."""
    parts = [f"# {title}", "", "Failures (a missing file, an empty answer, a judge without a verdict) count as wrong."]
    parts += ["Published figures come from other judges and full test sets; items tell what ours stand on.", ""]
    for heading, header, rows in [*tables_of(figures), *failures_of(records), *group_tables(figures)]:
        parts += [f"## {heading}", "", markdown_table(header, rows)]
    parts += ["## Run", "", "```json", json.dumps(facts, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(parts)


LABELS = {"emotion": DEFAULT_STYLES.emotions, "pitch": ("low", "normal", "high")}


def confusion(records: Sequence[Record], key: str) -> tuple[np.ndarray, list[str]] | None:
    """Labels asked (``asked_KEY``, rows) and found (KEY, columns) in the records' notes; None where there are none.

    Emotions and pitches are all there, in their own order, whether they came or not; what else came (``none`` of an
    answer that failed) stands behind them.
    """
    pairs = [(r.notes[f"asked_{key}"], r.notes[key]) for r in records if f"asked_{key}" in r.notes and key in r.notes]
    if not pairs:
        return None
    known = LABELS.get(key, ())
    labels = [*known, *sorted({label for pair in pairs for label in pair} - set(known))]
    matrix = np.zeros((len(labels), len(labels)), int)
    for asked, found in pairs:
        matrix[labels.index(asked), labels.index(found)] += 1
    return matrix, labels


def worst_of(records: Sequence[Record], higher_is_better: bool, count: int = WORST) -> list[Record]:
    """The records with the worst scores, failures first."""

    def badness(record: Record) -> tuple[bool, float]:
        rate = record.value / record.weight if record.weight else record.value
        return bool(record.failure), -rate if higher_is_better else rate

    return sorted(records, key=badness, reverse=True)[:count]
