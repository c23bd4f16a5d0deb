"""Programs in a row, a process each: what ``emova train all`` and ``emova train glm-codec`` do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from emova.core.config import shipped_configs
from emova.core.errors import InputError
from emova_train.cli import PROGRAMS


def need_configs(size: str, names: Sequence[str]) -> None:
    """See that a size's configs are shipped. Raises: InputError: one is not."""
    missing = [name for name in names if name not in shipped_configs()]
    if missing:
        raise InputError(f"--size {size}: no config {missing[0]} is shipped; give nano, or run the programs singly")


def from_program(lines: Sequence[Sequence[str]], first: str) -> list[Sequence[str]]:
    """The rest of a row from the first line that runs ``first``; all of it where that is empty.

    Raises: InputError: the row has no such program.
    """
    if not first:
        return list(lines)
    # A program's name comes after the options of a launch.
    programs = [next((word for word in line if word in PROGRAMS), "") for line in lines]
    if first not in programs:
        raise InputError(
            f"--from {first}: no such program; it is one of {', '.join(filter(None, dict.fromkeys(programs)))}"
        )
    return list(lines[programs.index(first) :])


def run_row(lines: Sequence[Sequence[str]]) -> int:
    """Run ``emova LINE`` one after another; the exit status of the first that fails, 0 where none does."""
    for line in lines:
        print(f"emova {' '.join(line)}", file=sys.stderr, flush=True)
        # A process each: none keeps another's memory or threads.
        code = subprocess.run([sys.executable, "-m", "emova.cli.main", *line], check=False).returncode
        if code:
            return code
    return 0
