"""The repository's documents as the tests read them: their fenced blocks, and the commands in these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FOLDERS = (
    "",
    "train",
    "eval",
    "app",
    "benchmarks",
    "data_recipes",
    "emova/checkpoints/emova-nano",
)
DOCUMENTS = [path for name in _FOLDERS if (path := ROOT / name / "README.md").exists()] + sorted(
    path for path in (ROOT / "docs").glob("*.md")
)
"""What a user follows; ``docs/experiments`` and ``docs/figures`` are records, whose commands need their own data."""
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a document's ``bash`` blocks; lines that end in a backslash are joined."""

    document: Path
    line: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}: {self.line}"


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """(document, body) of all blocks in ``language``."""
    for path in DOCUMENTS:
        for name, body in _BLOCK.findall(path.read_text(encoding="utf-8")):
            if name == language:
                yield path, body


def commands() -> list[Command]:
    """Every command of every document once, without its comment."""
    found: dict[str, Command] = {}
    for path, body in blocks("bash"):
        for raw in re.sub(r"\\\n\s*", " ", body).splitlines():
            line = raw.split(" #")[0].strip()
            if line and not line.startswith("#"):
                found.setdefault(line, Command(path, line))
    return [found[line] for line in sorted(found)]
