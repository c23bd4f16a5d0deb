"""The files that a run leaves: ``report.md``, ``report.html`` and ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from emova.core.writing import write_text
from emova_eval.report.page import page
from emova_eval.report.tables import markdown
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import Figure
from emova_eval.suite.samples import Record


def write_run_report(title: str, figures: Sequence[Figure], folder: RunFolder, records: Sequence[Record]) -> None:
    """Write ``report.md``, ``report.html`` and ``results.json`` into the run's folder."""
    results = {"run": folder.facts, "figures": [figure.as_json() for figure in figures]}
    write_text(folder.path / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(folder.path / "report.md", markdown(title, figures, folder.facts, records))
    write_text(folder.path / "report.html", page(title, figures, folder, records))
