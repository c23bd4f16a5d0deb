"""A run's report as one HTML page that loads nothing from elsewhere: tables, histograms, confusions, players."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from emova_eval.report.plots import plot_confusion, plot_histogram
from emova_eval.report.tables import Table, confusion, failures_of, figure_cells, group_tables, tables_of, worst_of
from emova_eval.suite.run_folder import RunFolder, by_task
from emova_eval.suite.runner import Figure
from emova_eval.suite.samples import Record

TEMPLATE = Path(__file__).parent / "page.html.jinja"
MAX_PLAYER_BYTES = 2 << 20
MAX_CELL = 400
LONG_LIST = 80  # characters; longer ones (units, embeddings) are for programs, not for readers
_NUMBER_LIKE = re.compile(r"[-+]?[\d.]+( to [-+]?[\d.]+)?( \(\d+ items\))?|–")


def page(
    title: str, figures: Sequence[Figure], folder: RunFolder, records: Sequence[Record], first: Sequence[Table] = ()
) -> str:
    """The page; everything that comes from outside is escaped.

    Args:
        first: tables (title, header, rows) that stand before the others.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests["number_like"] = lambda cell: _NUMBER_LIKE.fullmatch(cell) is not None
    found = by_task(records)
    measured = sum(figure.value is not None for figure in figures)
    failed = sum(figure.failures for figure in figures)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        summary=f"{measured} tasks measured, {len(figures) - measured} not; {len(records)} questions, {failed} failed.",
        tables=[*first, *tables_of(figures), *failures_of(records)],
        groups=group_tables(figures),
        tasks=[_task(figure, found[figure.task], folder) for figure in figures if figure.task in found],
        facts=json.dumps(folder.facts, indent=2, ensure_ascii=False),
    )


def _task(figure: Figure, records: Sequence[Record], folder: RunFolder) -> dict[str, object]:
    histogram = io.BytesIO()
    plot_histogram(histogram, [r.value / r.weight if r.weight else r.value for r in records], figure.task)
    pictures = [(f"scores of {figure.task}", histogram.getvalue())]
    for key in ("emotion", "pitch"):
        if matrix := confusion(records, key):
            path = folder.path / f"{key}-{figure.task}.png"
            plot_confusion(path, *matrix, f"{key}: asked and found")
            pictures.append((f"confusion of {key}", path.read_bytes()))
    cells = figure_cells(figure)
    line = f"{cells[1]} {figure.unit} ({cells[2]}), {cells[4]} is better; {figure.judge}" if figure.judge else cells[-1]
    return {
        "name": figure.task,
        "line": line,
        "pictures": [(alt, base64.b64encode(data).decode()) for alt, data in pictures],
        "worst": [_answer(record, folder.path) for record in worst_of(records, figure.higher_is_better)],
    }


def _answer(record: Record, folder: Path) -> dict[str, object]:
    shown = {
        name: note for name, note in record.notes.items() if not (isinstance(note, list) and len(str(note)) > LONG_LIST)
    }
    return {
        "id": record.id[:MAX_CELL],
        "question": record.question[:MAX_CELL],
        "references": "; ".join(record.answers)[:MAX_CELL],
        "output": record.output[:MAX_CELL],
        "score": f"{record.value:.3g} / {record.weight:.3g}",
        "failure": record.failure,
        "notes": "; ".join(f"{name}: {note}" for name, note in shown.items())[:MAX_CELL],
        "sounds": [
            (what, source)
            for what, path in (("asked", record.audio_in), ("answered", record.audio_out and folder / record.audio_out))
            if (source := _sound(path))
        ],
    }


def _sound(path: str | Path) -> str:
    """A recording as the source of a player; nothing where there is none, or a long one."""
    path = Path(path)
    if path.suffix not in (".wav", ".flac", ".ogg", ".mp3") or not path.is_file():
        return ""
    if path.stat().st_size > MAX_PLAYER_BYTES:
        return ""
    return f"data:audio/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
