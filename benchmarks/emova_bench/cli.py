"""``emova bench``: one of the benchmarks, or all of them."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = (
    "decode",
    "storage",
    "vocoder",
    "runtimes",
    "codec",
    "latency",
    "long_speech",
    "flat",
    "load",
    "batching",
    "larger",
    "training",
    "loader",
    "paradigms",
    "labelled",
    "soak",
    "smollm",
    "llamacpp",
)
TOGETHER = ("all", "compare")
"""What runs them one after another, and what tells two such runs apart."""


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = "examples:\n  emova bench latency\n  emova bench decode --quick --threads 1\n  emova bench all"
    parser.add_argument("benchmark", choices=(*BENCHMARKS, *TOGETHER))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark; --help after its name lists them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure; the benchmarks are imported now, not with the command line."""
    done = importlib.import_module(f"emova_bench.{arguments.benchmark}").main(arguments.options)
    return done if isinstance(done, int) else 0
