"""Running a training program as a module: ``python -m emova_train.s2u.program …`` beside ``emova train s2u …``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emova.cli.main import Parser
from emova.core.errors import InputError

if TYPE_CHECKING:
    from emova_train.core.config import ParallelConfig
    from emova_train.core.loop import FitResult


def run_module(register: Callable[[argparse.ArgumentParser], None], name: str, description: str | None) -> int:
    """Parse the command line of the program that ``register`` describes and run it; bad input gives one line and 2."""
    parser = Parser(prog=f"python -m {name}", description=description)
    register(parser)
    try:
        arguments = parser.parse_args()
        return int(arguments.run(arguments))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


ConfigT = TypeVar("ConfigT")


def run_training(train: Callable[[ConfigT], FitResult], config: ConfigT, processes: ParallelConfig) -> int:
    """Train on all processes; the first one tells what came of it. The exit code."""
    from emova_train.distributed import world

    result = train(config)
    if world.start(processes).main:
        print_result(result)
    world.stop()
    return 0


def print_result(result: FitResult) -> None:
    """The closing line of a program: steps, seconds, the last validation."""
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.eval_terms.items())
    print(f"{result.steps} steps, {result.seconds:.0f} s; {shown}")


def add_config(
    parser: argparse.ArgumentParser, shipped: str, default: str | None = None, field: str = "run.max_steps=200"
) -> None:
    """A program's config and the fields that differ; ``shipped`` and ``field`` are examples, ``default`` makes the
    config optional."""
    text = f"a YAML file, or a shipped config such as {shipped}"
    if default is None:
        parser.add_argument("config", help=text)
    else:
        parser.add_argument("config", nargs="?", default=default, help=f"{text} (%(default)s)")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=f"such as {field}")
