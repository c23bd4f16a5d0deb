"""Which codec a language model learns faster: nano's shape from nothing on the units of each, a table and curves.

    emova bench codecs --dry-run
    emova bench codecs
    emova bench codecs 'mine=runs/my-s2u/export,runs/my-u2s/export' --tokens 3000000 --seeds 1

Codecs are named as ``emova eval codecs`` names them, the same three without a name. It goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emova.cli.main import Parser, run_program
from emova.core.writing import make_folder, staged_output, write_text
from emova.speech.style import DEFAULT_STYLES
from emova_bench.experiments.paradigms import TOKENS_PER_S
from emova_bench.tables import find_section, refresh_section
from emova_eval.codecs.pairs import Codec, Pair, parse_pairs
from emova_eval.suite.suite import SuiteConfig, make_recogniser
from emova_eval.suite.tasks import Recogniser, hear
from emova_train.experiments.codecs import (
    Cell,
    LearningConfig,
    Learnt,
    Point,
    cells,
    prepare,
    run_cell,
    table,
)

SECTION = "learning"
"""The markers of a document that takes up the table."""
POINT_S = 30.0
"""Seconds of one core for a point: transcripts, sentences, the recogniser. An estimate that --dry-run prints as one."""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    default = LearningConfig()
    made = Parser(prog="emova bench codecs", description=(__doc__ or "").split("\n")[0])
    made.add_argument("pairs", nargs="*", metavar="NAME=TOKENIZER[,DETOKENIZER]", help="codecs (default: the three)")
    made.add_argument("--tokens", type=int, default=default.tokens, help="of each run (default: %(default)s)")
    made.add_argument("--seeds", type=int, default=default.seeds, help="runs of each, seeds 0, 1, ... (%(default)s)")
    made.add_argument("--points", type=int, default=default.points, help="of a run that are measured (%(default)s)")
    made.add_argument(
        "--shards", type=int, default=default.shards, help="of a set that are tokenised; 0: all (%(default)s)"
    )
    made.add_argument("--data", default=default.data, help="the recipe's folder (default: %(default)s)")
    made.add_argument("--model", default=default.model, help="the model's shape (default: %(default)s)")
    made.add_argument("--tokenizer", default=default.tokenizer, help="whose text tokenizer (default: %(default)s)")
    made.add_argument("--stage", default=default.stage, help="rates, mixture, packs (default: %(default)s)")
    made.add_argument("--whisper", default=SuiteConfig.whisper, help="who hears what is spoken (default: %(default)s)")
    made.add_argument("--threads", type=int, default=default.threads, help="torch's, and processes that tokenise")
    made.add_argument("--output", default=default.output, help="folder of runs and table (default: %(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="key=value", help="a field of the stage")
    made.add_argument("--dry-run", action="store_true", help="say what is left to do and what it costs, and stop")
    made.add_argument("--refresh", nargs="+", default=[], metavar="FILE", help="documents that take up the table")
    return made


def learnt(pair: Pair, recogniser: Recogniser) -> Learnt:
    """A pair as what is learnt, in the neutral female voice. Raises: InputError: a part is missing or does not fit."""
    codec = Codec(pair)

    def heard(units: Sequence[int]) -> str:
        return hear(recogniser, codec.render(units, DEFAULT_STYLES.default))

    return Learnt(pair.name, codec.folders.tokenizer, heard if codec.voice else None)


def estimate(config: LearningConfig, todo: Sequence[Cell]) -> str:
    """What is left, in words."""
    left = [cell for cell in todo if not cell.done]
    tokens = sum(cell.tokens for cell in left)
    minutes = (tokens / TOKENS_PER_S + len(left) * config.points * POINT_S) / 60
    return (
        f"{len(left)} of {len(todo)} runs to train, {tokens / 1e6:.2f}M tokens and {len(left) * config.points} points: "
        f"about {minutes:.0f} minutes of one core, after {config.shards or 'all'} shards of each set are tokenised"
    )


def run(
    config: LearningConfig, codecs: Sequence[Learnt], report: Callable[[str], None] = print
) -> dict[str, list[list[Point]]]:
    """All runs; ``table.md`` and ``curves.png`` are written anew after each. Raises: InputError."""
    prepare(config, codecs)
    output = make_folder(config.output)
    found: dict[str, list[list[Point]]] = {codec.name: [] for codec in codecs}
    todo = list(cells(config, codecs))
    for number, cell in enumerate(todo, 1):
        known = cell.done
        points = run_cell(config, cell)
        found[cell.codec.name].append(points)
        last = points[-1]
        report(f"{number}/{len(todo)} {cell.codec.name}, seed {cell.seed}: hears {100 * last.hear:.1f} % wrong, speaks "
               f"{100 * last.speak:.1f} %{', read' if known else ''}")  # fmt: skip
        write_text(output / "table.md", table(found))
        draw(found, output / "curves.png")
    return found


def draw(found: dict[str, list[list[Point]]], path: Path) -> None:
    """Word errors over tokens, hearing left and speaking right: means with the spread over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, title in zip(figure.subplots(1, 2), ("hear", "speak"), ("hears", "speaks"), strict=True):
        for name, runs in found.items():
            columns = list(zip(*runs, strict=False))
            values = [[100 * getattr(point, key) for point in column] for column in columns]
            if not columns or np.isnan(values).all():
                continue
            spread = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in values]
            axes.errorbar(
                [column[0].tokens for column in columns], np.mean(values, axis=1), spread, capsize=2, label=name
            )
        axes.set(xlabel="tokens", ylabel="WER, %", title=title)
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    with staged_output(path) as file:
        figure.savefig(file, dpi=120, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it. Raises: InputError: a codec, the recogniser or the recipe's speech is missing."""
    options = parser().parse_args(arguments)
    config = LearningConfig(
        options.stage, options.model, options.tokenizer, options.data, options.output, tokens=options.tokens,
        points=options.points, seeds=options.seeds, shards=options.shards, threads=options.threads,
    )  # fmt: skip
    config = replace(config, overrides=(*config.overrides, *options.set))
    for document in options.refresh:
        find_section(document, SECTION)  # before the long work
    recogniser = make_recogniser(SuiteConfig(whisper=options.whisper))
    codecs = [learnt(pair, recogniser) for pair in parse_pairs(options.pairs)]
    print(estimate(config, list(cells(config, codecs))), flush=True)
    if options.dry_run:
        return
    text = table(run(config, codecs))
    print(text)
    for document in options.refresh:
        refresh_section(document, SECTION, text)


if __name__ == "__main__":
    sys.exit(run_program(main))
