"""``emova eval``: benchmark programs."""

from __future__ import annotations

import argparse

from emova.errors import InputError

EXAMPLES = """examples:
  emova eval nano                                   every figure, with the shipped checkpoint
  emova eval nano limit=50 parts=[dialogue]         a quick look at the answers
  emova eval own --data my-folder --out runs/mine   your own questions: a folder with meta.jsonl, see eval/datasets.py
  emova eval docvqa --data val.json --images pics   a benchmark's own file, or a .tsv of VLMEvalKit
  emova eval all --offline                          every task that needs no data from a hub
  emova eval compare runs/a runs/b                  is the difference more than chance?
"""


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova eval``."""
    parser.description = "Measure a checkpoint on held-out data; write every answer, tables, plots and a report."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", help="nano, all, compare, own, or a benchmark (an unknown name lists them)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of nano; the two runs of compare")
    parser.add_argument("--model", help="a checkpoint's name or folder (emova-nano)")
    parser.add_argument("--data", help="the benchmark's file or folder")
    parser.add_argument("--images", help="the folder of its pictures, where they lie apart")
    parser.add_argument("--out", help="the run's folder; an interrupted run goes on there")
    parser.add_argument("--limit", type=int, help="at most so many questions of a task")
    parser.add_argument("--judge", metavar="URL", help="an OpenAI-compatible address; its key is in OPENAI_API_KEY")
    parser.add_argument("--judge-model", help="the judge's name there")
    parser.add_argument("--votes", type=int, help="how often the judge is asked")
    parser.add_argument("--offline", action="store_true", help="with all: only what needs no hub")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table; figures that miss their goals are no error."""
    if arguments.task == "nano":
        return _nano(arguments)
    if arguments.task == "compare":
        return _compare(arguments)
    if arguments.overrides:
        raise InputError(f"{arguments.overrides[0][:40]!r}: only nano and compare take further words; use --data")
    return _suite(arguments)


def _nano(arguments: argparse.Namespace) -> int:
    from emova.config import load_config
    from eval.nano import NanoEvalConfig, evaluate
    from eval.report import print_table

    named = {"model": arguments.model, "output_dir": arguments.out, "limit": arguments.limit, "data": arguments.data}
    overrides = [*arguments.overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]
    config = load_config(NanoEvalConfig, None, overrides)
    rows = evaluate(config, lambda part: print(f"measuring: {part}", flush=True))
    print_table(rows)
    print(f"report: {config.folder}/report.html")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from eval.compare import as_json, compare_runs, comparison_table
    from eval.runfolder import write_text

    if len(arguments.overrides) != 2:
        raise InputError("compare: give the folders of two runs")
    a, b = arguments.overrides
    found = compare_runs(a, b)
    table = comparison_table(found, a, b)
    print(table)
    if arguments.out:
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "compare.md", table)
        write_text(folder / "compare.json", as_json(found))
    return 0


def _suite(arguments: argparse.Namespace) -> int:
    from eval.offline import offline_tasks
    from eval.run_report import FIGURE_HEADER, figure_cells
    from eval.runner import Figure
    from eval.suite import SuiteConfig, build_task, run_suite
    from eval.tasks import MetricTask

    named = {
        "model": arguments.model,
        "data": arguments.data,
        "images": arguments.images,
        "output_dir": arguments.out or f"runs/eval-{arguments.task}",
        "limit": arguments.limit,
        "judge_url": arguments.judge,
        "judge_model": arguments.judge_model,
        "votes": arguments.votes,
    }
    if (arguments.limit or 0) < 0 or (arguments.votes or 1) < 1:
        raise InputError("--limit must not be negative, and --votes at least 1")
    config = SuiteConfig(**{key: value for key, value in named.items() if value is not None})
    if arguments.task == "all":
        if not arguments.offline:
            raise InputError("all: add --offline; benchmarks with data sets are run by their names")
        tasks: list[MetricTask | Figure] = offline_tasks(config)
    else:
        tasks = [build_task(arguments.task, config)]
    figures = run_suite(
        tasks, config, f"{config.model}: {arguments.task}", advance=lambda line: print(line, flush=True)
    )

    from rich.console import Console
    from rich.table import Table

    table = Table(*FIGURE_HEADER)
    for figure in figures:
        table.add_row(*figure_cells(figure))
    Console().print(table)
    print(f"report: {config.output_dir}/report.html")
    return 0
