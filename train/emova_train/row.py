"""Programs in a row, a process each: what ``emova train all`` and ``emova train glm-codec`` do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from emova.core.errors import InputError


def from_program(lines: Sequence[Sequence[str]], first: str) -> list[Sequence[str]]:
    """The rest of a row from the first line that runs ``first``; all of it where that is empty.

    Raises: InputError: the row has no such program.
    """
    if not first:
        return list(lines)
    # The program's name comes after the options of a launch.
    matching = [number for number, line in enumerate(lines) if first in line]
    if not matching:
        known = ", ".join(
            dict.fromkeys(line[1] for line in lines if line[0] == "train" and not line[1].startswith("-"))
        )
        raise InputError(f"--from {first}: no such program; it is one of {known}")
    return list(lines[matching[0] :])


def run_row(lines: Sequence[Sequence[str]]) -> int:
    """Run ``emova LINE`` one after another; the exit status of the first that fails, 0 where none does."""
    for line in lines:
        print(f"emova {' '.join(line)}", file=sys.stderr, flush=True)
        # A process each: none keeps another's memory or threads.
        code = subprocess.run([sys.executable, "-m", "emova.cli.main", *line], check=False).returncode
        if code:
            return code
    return 0
