"""Reports of benchmarks as they lie in a folder, and as tables between markers of a Markdown file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import write_text

KEYS = {"latency": ("speech s", "picture", "turn"), "larger": ("weights", "sessions")}
"""The columns that say which row it is; the first one where nothing is said."""
Row = Mapping[str, object]


@dataclass(frozen=True)
class Report:
    """What a benchmark has written.

    Attributes:
        machine: ``processor``, ``instructions``, ``cores``, ``threads``, ``load average``.
    """

    name: str
    machine: Mapping[str, object]
    rows: Sequence[Row]

    def by_key(self) -> dict[tuple[str, ...], Row]:
        """Its rows by what they are about."""
        columns = KEYS.get(self.name) or tuple(self.rows[0])[:1]
        return {tuple(str(row.get(column)) for column in columns): row for row in self.rows}


def read_reports(folder: Path) -> dict[str, Report]:
    """By their names. Raises: InputError: the folder holds none, or one that is damaged."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = content.get("rows") or [{"benchmark": path.stem, **_numbers(content)}]
            found[path.stem] = Report(path.stem, content.get("machine", {}), rows)
        except (ValueError, AttributeError, OSError):
            raise InputError(f"{path}: no report of a benchmark; remove it") from None
    if not found:
        raise InputError(f"{folder}: no reports; emova bench all --output {folder} writes them")
    return found


def _numbers(content: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in content.items() if isinstance(value, int | float)}


def cell(value: object) -> str:
    """A value as the tables show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table, each column that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *[[cell(row.get(column)) for column in columns] for row in rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def between(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` in place of what stands between the markers of ``name``.

    Raises:
        InputError: it has no such markers.
    """
    first, last = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    start, end = text.find(first), text.find(last)
    if start < 0 or end < start:
        raise InputError(f"the markers <!-- {name}: begin --> and <!-- {name}: end --> are missing")
    return text[: start + len(first)] + content + text[end:]


def find_section(document: str, name: str) -> str:
    """The text of a document that has the markers of ``name``.

    Raises:
        InputError: it is missing, or has no such markers.
    """
    try:
        text = Path(document).read_text(encoding="utf-8")
    except OSError:
        raise InputError(f"{document}: no such file") from None
    try:
        between(text, name, "")
    except InputError as error:
        raise InputError(f"{document}: {error}") from None
    return text


def refresh_section(document: str, name: str, content: str) -> None:
    """Put ``content`` between the markers of ``name``. Raises: as ``find_section``."""
    write_text(Path(document), between(find_section(document, name), name, content))


def inside(text: str, name: str) -> str:
    """What stands between the markers of ``name``; empty where they are missing."""
    found = re.search(rf"<!-- {re.escape(name)}: begin -->\n(.*?)<!-- {re.escape(name)}: end -->", text, re.DOTALL)
    return found[1] if found else ""


def parsed(table: str) -> list[dict[str, str]]:
    """A Markdown table's rows."""
    lines = [
        [part.strip() for part in line.strip().strip("|").split("|")] for line in table.splitlines() if "|" in line
    ]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[2:]] if lines else []
