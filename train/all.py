"""``emova train all``: every program in a row, from the recipe's data to a checkpoint.

A program whose result is there already finds its last checkpoint and only loads it, so an interrupted row goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emova.errors import InputError


def commands(size: str, data: str, out: str) -> list[list[str]]:
    """The command lines of the row, as arguments of ``emova train``."""
    configs = {name: f"configs/{name}/{size}.yaml" for name in ("s2u", "u2s", "vision")}
    stages = [f"configs/stages/{size}/stage{number}.yaml" for number in range(4)]
    missing = [path for path in (*configs.values(), *stages) if not Path(path).is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such config; the size {size} has none, or this is not the project's folder")
    units = f"runs/s2u-{size}/export"
    return [
        ["tokenizer", "--text", f"{data}/text", "--out", f"runs/tokenizer-{size}"],
        ["s2u", configs["s2u"]],
        ["units", "--tokenizer", units, "--data", data, "--set", "question", "answer", "s2u"],
        ["vision", configs["vision"]],
        *[[f"stage{number}", path] for number, path in enumerate(stages)],
        ["u2s", configs["u2s"]],
        ["assemble", "--model", f"runs/stage3-{size}/export", "--speech-tokenizer", units]
        + ["--speech-detokenizer", f"runs/u2s-{size}/export", "--out", out],
    ]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train all``."""
    parser.add_argument("--size", default="nano", help="whose configs are run")
    parser.add_argument("--data", default="data/nano", help="the recipe's folder")
    parser.add_argument("--out", default="runs/emova-nano", help="the checkpoint's folder")
    parser.add_argument("--from", dest="first", default="", help="start with this program")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    row = commands(arguments.size, arguments.data, arguments.out)
    names = [line[0] for line in row]
    if arguments.first and arguments.first not in names:
        raise InputError(f"--from {arguments.first}: no such program; it is one of {', '.join(names)}")
    return _run_row(row[names.index(arguments.first) if arguments.first else 0 :])


def _run_row(row: Sequence[Sequence[str]]) -> int:
    for line in row:
        print(f"emova train {' '.join(line)}", file=sys.stderr, flush=True)
        # A process each: none keeps another's memory or threads.
        code = subprocess.run([sys.executable, "-m", "emova.cli", "train", *line], check=False).returncode
        if code:
            return code
    return 0
