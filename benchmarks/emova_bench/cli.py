"""``emova bench``: one of the benchmarks."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = (
    "decode",
    "storage",
    "vocoder",
    "runtimes",
    "latency",
    "flat",
    "load",
    "loader",
    "paradigms",
    "labelled",
    "soak",
    "smollm",
    "llamacpp",
)


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = "examples:\n  emova bench latency\n  emova bench decode --quick --threads 1"
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark; --help after its name lists them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure; the benchmarks are imported now, not with the command line."""
    importlib.import_module(f"emova_bench.{arguments.benchmark}").main(arguments.options)
    return 0
