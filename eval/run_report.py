"""A run's report: ``report.md``, a self-contained ``report.html``, and ``results.json``."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emova.style import EMOTIONS
from eval.published import TABLES, PublishedTable
from eval.runfolder import RunFolder, by_task, write_text
from eval.runner import Figure
from eval.samples import Record

Table = tuple[str, tuple[str, ...], list[list[str]]]
WORST = 5
MAX_PLAYER_BYTES = 2 << 20
FIGURE_HEADER = (
    "task",
    "figure",
    "95 % interval",
    "unit",
    "better",
    "items",
    "failures",
    "judge",
    "also: means, shares of 1",
)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{border:1px solid #ccc;padding:.25rem .6rem;text-align:left;vertical-align:top}
th{background:#f2f4f8}.bad{color:#a03020}code{background:#f4f4f4}img{max-width:100%}
"""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def figure_cells(figure: Figure) -> list[str]:
    """One line of the table of figures."""
    if figure.value is None:
        counts = [str(figure.count), str(figure.failures)]
        return [figure.task, "not measured", "", "", "", *counts, "", figure.missing]
    also = ", ".join(f"{name} {value:.3g}" for name, value in figure.extra.items())
    return [
        figure.task,
        _number(figure.value),
        f"{_number(figure.low)} to {_number(figure.high)}",
        figure.unit,
        "higher" if figure.higher_is_better else "lower",
        str(figure.count),
        str(figure.failures),
        figure.judge,
        also,
    ]


def published_lines(table: PublishedTable, figures: dict[str, Figure]) -> list[list[str]]:
    """The rows of a paper's table that this run measured, with ours first; a task's variants each give a row."""
    lines = []
    for name, figure in figures.items():
        base = name if name in table.rows else name.removesuffix("-s2s").removesuffix("-s2t")
        if base not in table.rows or figure.value is None:
            continue
        label, cells = table.rows[base]
        suffix = " S→S" if name.endswith("-s2s") else " S→T" if name.endswith("-s2t") else ""
        lines.append([label + suffix, f"{_number(figure.value)} ({figure.count} items)", *map(_number, cells)])
    return lines


def tables_of(figures: Sequence[Figure]) -> list[Table]:
    """Every table: title, header, rows."""
    found: list[Table] = [("Figures of this run", FIGURE_HEADER, [figure_cells(figure) for figure in figures])]
    named = {figure.task: figure for figure in figures}
    for table in TABLES:
        if lines := published_lines(table, named):
            found.append((f"{table.title} ({table.source})", ("", "this run", *table.columns), lines))
    for figure in figures:
        if figure.groups:
            rows = [[name, _number(value)] for name, value in figure.groups.items()]
            found.append((f"{figure.task} by group", ("group", "figure"), rows))
    return found


def failures_of(records: Sequence[Record]) -> list[Table]:
    """What could not be asked or judged: a table of task, reason, how many, and which questions."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.failure:
            found.setdefault((record.task, record.failure[:160]), []).append(record.id)
    rows = [
        [task, reason, str(len(ids)), ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")]
        for (task, reason), ids in found.items()
    ]
    return [("What failed, and counts as wrong", ("task", "reason", "questions", "which"), rows)] if rows else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def figures_table(figures: Sequence[Figure]) -> str:
    """The run's figures alone, as a Markdown table."""
    lines = [FIGURE_HEADER, ("---",) * len(FIGURE_HEADER), *(map(_cell, figure_cells(figure)) for figure in figures)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(title: str, figures: Sequence[Figure], facts: dict[str, Any], records: Sequence[Record] = ()) -> str:
    """The report as Markdown."""
    parts = [f"# {title}", "", "Failures (a missing file, an empty answer, a judge without a verdict) count as wrong."]
    parts += ["Published figures come from other judges and full test sets; items tell what ours stand on.", ""]
    for heading, header, rows in [*tables_of(figures), *failures_of(records)]:
        parts += [f"## {heading}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        parts += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows] + [""]
    parts += ["## Run", "", "```json", json.dumps(facts, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(parts)


LABELS = {"emotion": EMOTIONS, "pitch": ("low", "normal", "high")}


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


def plot_histogram(path: Path | io.BytesIO, values: Sequence[float], title: str) -> None:
    """How scores are spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, 2.4), dpi=100)
    axes.hist(values, bins=20, color="#4477aa")
    axes.set_xlabel("score of a question")
    axes.set_ylabel("questions")
    axes.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, format="png")
    plt.close(figure)


def _picture(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _player(folder: Path, name: str) -> str:
    path = folder / name
    if not name or not path.is_file() or path.stat().st_size > MAX_PLAYER_BYTES:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>'


def worst_of(records: Sequence[Record], higher_is_better: bool, count: int = WORST) -> list[Record]:
    """The records with the worst scores, failures first."""

    def badness(record: Record) -> tuple[bool, float]:
        rate = record.value / record.weight if record.weight else record.value
        return bool(record.failure), -rate if higher_is_better else rate

    return sorted(records, key=badness, reverse=True)[:count]


def page(
    title: str, figures: Sequence[Figure], folder: RunFolder, records: Sequence[Record], first: Sequence[Table] = ()
) -> str:
    """The report as one HTML page that loads nothing from elsewhere; everything from outside is escaped.

    Args:
        first: tables (title, header, rows) that stand before the others.
    """
    from eval.report import plot_confusion

    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    parts += [f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"]
    parts += ["<p>Failures (a missing file, an empty answer, a judge without a verdict) count as wrong.</p>"]
    for heading, header, rows in [*first, *tables_of(figures), *failures_of(records)]:
        lines = [header, *rows]
        body = "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
            for line, tag in zip(lines, ["th"] + ["td"] * len(rows), strict=True)
        )
        parts.append(f"<h2>{html.escape(heading)}</h2><table>{body}</table>")
    tasks = by_task(records)
    for figure in figures:
        found = tasks.get(figure.task, [])
        if not found:
            continue
        parts.append(f"<h2>{html.escape(figure.task)}</h2>")
        picture = io.BytesIO()
        plot_histogram(picture, [r.value / r.weight if r.weight else r.value for r in found], figure.task)
        parts.append(_picture(picture.getvalue(), f"scores of {figure.task}"))
        for key in ("emotion", "pitch"):
            if matrix := confusion(found, key):
                path = folder.path / f"{key}-{figure.task}.png"
                plot_confusion(path, *matrix, f"{key}: asked and found")
                parts.append(_picture(path.read_bytes(), f"confusion of {key}"))
        names = ("id", "question", "references", "answer", "score", "what went wrong, notes", "sound")
        body = "<tr>" + "".join(f"<th>{cell}</th>" for cell in names) + "</tr>"
        for record in worst_of(found, figure.higher_is_better):
            score = f"{record.value:.3g} / {record.weight:.3g}"
            notes = record.failure or json.dumps(record.notes, ensure_ascii=False)
            cells = (record.id, record.question, "; ".join(record.answers), record.output, score, notes)
            body += "<tr>" + "".join(f"<td>{html.escape(cell[:400])}</td>" for cell in cells)
            body += f"<td>{_player(folder.path, record.audio_out)}</td></tr>"
        parts.append(f"<h3>Worst answers</h3><table>{body}</table>")
    parts.append(f"<h2>Run</h2><pre>{html.escape(json.dumps(folder.facts, indent=2, ensure_ascii=False))}</pre></html>")
    return "\n".join(parts)


def write_run_report(title: str, figures: Sequence[Figure], folder: RunFolder, records: Sequence[Record]) -> None:
    """Write ``report.md``, ``report.html`` and ``results.json`` into the run's folder."""
    results = {"run": folder.facts, "figures": [figure.as_json() for figure in figures]}
    write_text(folder.path / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(folder.path / "report.md", markdown(title, figures, folder.facts, records))
    write_text(folder.path / "report.html", page(title, figures, folder, records))
