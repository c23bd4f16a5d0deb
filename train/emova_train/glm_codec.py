"""``emova train glm-codec``: GLM-4-Voice's tokenizer and decoder (sections 3.1 and 3.2) from the recipe's speech on.

Every program goes on where it stopped, so an interrupted row does too.
"""

from __future__ import annotations

import argparse

from emova_train.row import from_program, need_configs, run_row


def commands(size: str) -> list[list[str]]:
    """The command lines of the row. Raises: InputError: the size has no configs."""
    need_configs(size, [f"vq/{size}", f"flow/{size}", f"flow/{size}_blocks"])
    blocks, voice = f"{size}_blocks", f"runs/flow-{size}-blocks/export"
    return [
        ["train", "pseudo-labels", size],
        ["train", "vq", size],
        ["train", "flow", size],
        ["train", "flow", blocks],
        ["train", "prototypes", blocks, "--detokenizer", voice, "--recogniser", "acoustic"],
    ]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train glm-codec``."""
    parser.add_argument("--size", default="nano", help="whose configs are run (default: %(default)s)")
    parser.add_argument("--from", dest="first", default="", help="start with this program")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    return run_row(from_program(commands(arguments.size), arguments.first))
