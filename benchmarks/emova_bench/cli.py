"""``emova bench``: one of the benchmarks, or all of them."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = {
    "decode": "emova_bench.decode",
    "storage": "emova_bench.experiments.storage",
    "vocoder": "emova_bench.vocoder",
    "runtimes": "emova_bench.experiments.runtimes",
    "codec": "emova_bench.codec",
    "latency": "emova_bench.latency",
    "long_speech": "emova_bench.long_speech",
    "flat": "emova_bench.flat",
    "load": "emova_bench.load",
    "batching": "emova_bench.batching",
    "larger": "emova_bench.larger",
    "training": "emova_bench.training",
    "loader": "emova_bench.loader",
    "paradigms": "emova_bench.experiments.paradigms",
    "labelled": "emova_bench.experiments.labelled",
    "codecs": "emova_bench.experiments.codecs",
    "rates": "emova_bench.experiments.rates",
    "soak": "emova_bench.soak.program",
    "smollm": "emova_bench.experiments.smollm",
    "llamacpp": "emova_bench.llamacpp",
}
"""Each and its module."""
TOGETHER = {"all": "emova_bench.all", "compare": "emova_bench.compare"}
"""What runs them one after another, and what tells two such runs apart."""


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = "examples:\n  emova bench latency\n  emova bench decode --quick --threads 1\n  emova bench all"
    parser.add_argument("benchmark", choices=(*BENCHMARKS, *TOGETHER))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark; --help after its name lists them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure; the benchmarks are imported now, not with the command line."""
    module = {**BENCHMARKS, **TOGETHER}[arguments.benchmark]
    done = importlib.import_module(module).main(arguments.options)
    return done if isinstance(done, int) else 0
