"""The alignment paradigms of EMOVA section 4.1 at a small scale: a table with error bars, and the paper's Figure 2.

    emova bench paradigms --estimate
    emova bench paradigms --seeds 3
    emova bench paradigms --seeds 3 --table7
    emova bench paradigms --first-seed 2 --seeds 1 --threads 1
    emova bench paradigms --seeds 3 --join OTHER/results.json

It makes what it needs, and goes on where it stopped: finished phases and results are only read, those of other machines
too (``--join``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emova.cli.main import Parser, run_program
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.writing import make_folder, staged_output, write_text
from emova_train.experiments.paradigms import (
    FOLDER,
    SIZES,
    TABLE7,
    ComparisonConfig,
    Outcome,
    ParadigmConfig,
    is_done,
    is_measured,
    join,
    paradigms,
    plan,
    prepare,
    row_of,
)

TOKENS_PER_S = 1000.0
"""Of one core while nano's stage 2 is trained (docs/experiments/06-cost-of-a-step.md)."""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = Parser(prog="emova bench paradigms", description=(__doc__ or "").split("\n")[0])
    made.add_argument("names", nargs="*", metavar="PARADIGM", help="only these, such as joint vl_speech")
    made.add_argument("--size", choices=SIZES, default=SIZES[0], help="what all have in common (default: %(default)s)")
    made.add_argument("--table7", action="store_true", help="ways of aligning pictures (Table 7) in place of paradigms")
    made.add_argument("--configs", type=Path, default=FOLDER, help="folder of the paradigms (default: %(default)s)")
    made.add_argument("--steps", type=int, help="optimizer steps of one pass of image or speech data")
    made.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds one after another (default: 3)")
    made.add_argument("--first-seed", type=int, default=0, help="the first of them (default: 0)")
    made.add_argument(
        "--join",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS.json",
        help="results of other machines, which are then not trained here",
    )
    made.add_argument("--threads", type=int, default=2, help="torch's threads (default: 2)")
    made.add_argument("--output", type=Path, help="folder of phases, results, table and figure")
    made.add_argument("--estimate", action="store_true", help="say what is left to do and what it costs, and stop")
    made.add_argument("--set", action="append", default=[], metavar="key=value", help="a field of the common config")
    return made


def estimate(comparison: ComparisonConfig, chosen: Mapping[str, ParadigmConfig], seeds: Sequence[int]) -> str:
    """Phases, steps and hours that are left, in words."""
    phases = {phase.folder: phase for seed in seeds for each in chosen.values() for phase in
              plan(comparison, each, seed)}  # fmt: skip
    wanted = {phase.folder for seed in seeds for name, each in chosen.items()
              if not is_measured(comparison, name, each, seed) for phase in plan(comparison, each, seed)}  # fmt: skip
    left = [phase for phase in phases.values() if phase.folder in wanted and not is_done(phase)]
    tokens = sum(phase.tokens for phase in left)
    rates = [_measured(phase.folder) for phase in phases.values() if is_done(phase)]
    known = [rate for rate in rates if rate > 0]
    rate = float(np.median(known)) if known else TOKENS_PER_S * comparison.threads
    source = "as measured here" if known else "as measured elsewhere, unshared cores"
    return (
        f"{len(left)} of {len(phases)} phases to train, {sum(phase.config.run.max_steps for phase in left)} steps, "
        f"{tokens / 1e6:.1f}M tokens: {tokens / rate / 3600:.1f} h at {rate:.0f} tokens/s ({source})"
    )


def _measured(folder: Path) -> float:
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    return float(done["terms"].get("tokens_per_s", 0.0))


def columns_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The benchmarks: all pictures, kinds of pictures, speech, tokens."""
    found = {name for outcome in outcomes for name in outcome.scores}
    return sorted(found, key=lambda name: (name.startswith("tokens"), name == "asr", name != "pictures", name))


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Mean, standard deviation over seeds (of the sample; 0 for one seed) and seeds: paradigm -> benchmark -> those."""
    table: dict[str, dict[str, tuple[float, float, int]]] = {}
    for name in dict.fromkeys(outcome.paradigm for outcome in outcomes):
        own = [outcome.scores for outcome in outcomes if outcome.paradigm == name]
        table[name] = {}
        for column in columns_of(outcomes):
            values = [scores[column] for scores in own if column in scores]
            if values:
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                table[name][column] = float(np.mean(values)), spread, len(values)
    return table


def markdown(outcomes: Sequence[Outcome], titles: Mapping[str, str]) -> str:
    """The table, in per cent, mean ± standard deviation over the seeds."""
    table, columns = summary(outcomes), columns_of(outcomes)
    lines = ["| paradigm | seeds | " + " | ".join(columns) + " |", "| --- | --- |" + " --- |" * len(columns)]
    for name, row in table.items():
        seeds = max(count for _, _, count in row.values())
        cells = [_cell(*row[c]) if c in row else "" for c in columns]
        lines.append(f"| {titles[name]} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(mean: float, spread: float, seeds: int) -> str:
    """Per cent; a single seed has no spread to tell."""
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if seeds > 1 else "")


def draw(outcomes: Sequence[Outcome], titles: Mapping[str, str], path: Path) -> None:
    """Figure 2 of the paper: pictures left and in the middle, then speech (1 - WER), with error bars; tokens last."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    table, columns = summary(outcomes), columns_of(outcomes)
    panels = [
        ("exact answers, %", [c for c in columns if c == "pictures"]),
        ("exact answers, %", [c for c in columns if c.startswith("pictures: ")]),
        ("1 - WER, %", [c for c in columns if c == "asr"]),
        ("next tokens right, %", [c for c in columns if c.startswith("tokens: ")]),
    ]
    panels = [(label, panel) for label, panel in panels if panel]
    figure = Figure(figsize=(3.2 + 1.3 * len(columns), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), width_ratios=[len(panel) + 0.3 for _, panel in panels], squeeze=False)[0]
    width = 0.8 / len(table)
    for ax, (label, panel) in zip(axes, panels, strict=True):
        for number, row in enumerate(table.values()):
            places = [place + (number - (len(table) - 1) / 2) * width for place, c in enumerate(panel) if c in row]
            heights = [100 * row[c][0] for c in panel if c in row]
            spreads = [100 * row[c][1] for c in panel if c in row]
            ax.bar(places, heights, width, yerr=spreads, capsize=2, color=f"C{number}")
        ax.set_xticks(range(len(panel)), [c.rpartition(": ")[2] for c in panel], rotation=20, fontsize=8)
        ax.set_ylabel(label, fontsize=8)
        ax.grid(axis="y", alpha=0.3)
    # Not the bars: a paradigm without pictures has none in the first panel.
    handles = [Patch(color=f"C{number}", label=titles[name]) for number, name in enumerate(table)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
    with staged_output(path) as file:
        figure.savefig(file, dpi=120, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison. Raises: InputError."""
    options = parser().parse_args(arguments)
    if options.seeds < 1 or options.threads < 1 or options.first_seed < 0:
        raise InputError("--seeds and --threads are at least 1, --first-seed 0")
    comparison = load_config(ComparisonConfig, options.configs / f"{options.size}.yaml", options.set)
    comparison = replace(
        comparison,
        threads=options.threads,
        steps=options.steps or comparison.steps,
        output=str(options.output or comparison.output),
    )
    rows = options.configs / TABLE7 if options.table7 else options.configs
    chosen, seeds = paradigms(options.names, rows), range(options.first_seed, options.first_seed + options.seeds)
    for file in options.join:
        print(f"{file}: {join(comparison, chosen, file)} results taken over", file=sys.stderr, flush=True)
    print(estimate(comparison, chosen, seeds), file=sys.stderr, flush=True)
    if not options.estimate:
        prepare(comparison)
        compare(comparison, chosen, seeds, TABLE7 if options.table7 else "")


def compare(
    comparison: ComparisonConfig, chosen: Mapping[str, ParadigmConfig], seeds: Sequence[int], named: str = ""
) -> list[Outcome]:
    """Run every paradigm with every seed, writing table, figure and ``results.json`` anew after each.

    Args:
        named: the folder below ``comparison.output`` that they go to; phases and results are shared.
    """
    from emova_train.experiments.paradigms import run_paradigm

    output = make_folder(Path(comparison.output) / named)
    titles = {name: paradigm.title for name, paradigm in chosen.items()}
    outcomes: list[Outcome] = []
    # Seed by seed, so that there is a whole comparison early.
    for seed in seeds:
        for name, paradigm in chosen.items():
            started = time.monotonic()
            outcomes.append(run_paradigm(comparison, name, paradigm, seed))
            shown = "  ".join(f"{key} {value:.3f}" for key, value in outcomes[-1].scores.items())
            print(f"{name}, seed {seed}: {shown} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
            rows = [row_of(comparison, chosen[each.paradigm], each) for each in outcomes]
            facts = {"steps": comparison.steps, "rows": rows}
            write_text(output / "results.json", json.dumps(facts, indent=1) + "\n")
            write_text(output / "table.md", markdown(outcomes, titles))
            draw(outcomes, titles, output / "figure2.png")
    print(markdown(outcomes, titles), end="")
    return outcomes


if __name__ == "__main__":
    run_program(main)
