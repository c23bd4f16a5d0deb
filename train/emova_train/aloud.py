"""Everyday sentences as units, from packages of text to sets: what the configs ``nano/stage3_*`` learn.

    emova train aloud --tokenizer runs/s2u-nano/export --shards 50

``units/aloud.jsonl`` has them by the canonical voice, ``units/heard.jsonl`` others of them by many voices. Shards that
are there are kept, so an interrupted run goes on, and a later one with more shards adds to them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from emova.checkpoint.loading import find_part
from emova.core.errors import InputError
from emova.core.writing import make_folder, write_text
from emova.speech.tokenizer.units import units_of
from emova_data.nano.aloud import spoken, texts
from emova_data.nano.aloud.as_units import write_units
from emova_train.core.program import run_module
from emova_train.data import heard
from emova_train.data.units import NAMED

SETS = ("aloud", "heard")
UNITS = "units.json"
"""Beside the shards: whose units they hold."""


def make(
    root: Path, tokenizer: str, *, sets: Sequence[str] = SETS, shards: int | None = None, jobs: int = 1, seed: int = 0
) -> dict[str, int]:
    """Fetch, speak and join; how many utterances each set has.

    Args:
        root: the data folder; the sentences go to ``root/nano/text``.
        tokenizer: a speech tokenizer's folder, or a checkpoint's name.
        sets: ``aloud``, by the canonical voice, and ``heard``, by many.
        shards: of 500 sentences, of each set; None: all 255.

    Raises:
        InputError: a package of text cannot be fetched, the tokenizer cannot be read, or it is another one than made
            the shards that are there.
    """
    if shards is not None and shards < 1:
        raise InputError("--shards is at least 1")
    folder = find_part(tokenizer, "speech_tokenizer")
    nano, named = root / "nano", json.dumps({"units": units_of(folder)})
    for name in sets:
        _refuse_other_units(nano / name, named)
    if not (nano / "text" / "aloud.jsonl").is_file():
        texts.write(root, seed)
    for name in sets:
        maker = spoken if name == "aloud" else heard
        make_folder(nano / name)
        write_text(nano / name / UNITS, named)
        maker.make(root, str(folder), jobs=jobs, last=shards, seed=seed)
    made = {name: write_units(nano, name) for name in sets}
    for name in sets:
        write_text((nano / "units" / f"{name}.jsonl").with_suffix(NAMED), named)
    return made


def _refuse_other_units(folder: Path, named: str) -> None:
    known = folder / UNITS
    if known.is_file() and known.read_text(encoding="utf-8") != named:
        raise InputError(f"{folder}: its shards hold another tokenizer's units; delete it, or give another --root")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train aloud``."""
    parser.add_argument("--root", type=Path, default=Path("data"), help="the data folder (default: data)")
    parser.add_argument("--tokenizer", default="runs/s2u-nano/export", help="whose units (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which (default: both)")
    parser.add_argument("--shards", type=int, help="of 500 sentences, of each set (default: all 255, hours)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    made = make(arguments.root, arguments.tokenizer, sets=arguments.sets, shards=arguments.shards,
                jobs=arguments.jobs, seed=arguments.seed)  # fmt: skip
    print(", ".join(f"{name}: {count:,} utterances" for name, count in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_module(register, "emova_train.aloud", (__doc__ or "").split("\n")[0]))
