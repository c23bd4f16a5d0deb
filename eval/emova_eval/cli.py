"""``emova eval``: benchmark programs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova_eval.report.refresh import Section, find_place, refresh

if TYPE_CHECKING:
    from emova_eval.suite.runner import Figure
    from emova_eval.suite.suite import SuiteConfig

EXAMPLES = """examples:
  emova eval nano                                   every figure, with the shipped checkpoint
  emova eval nano limit=50 parts=[dialogue]         a quick look at the answers
  emova eval all --offline                          every task that needs no data from a hub, on shipped fixtures
  emova eval all --data benchmarks                  every task that has a file or folder of its name in that folder
  emova eval own --data my-folder --out runs/mine   your own questions: a folder with meta.jsonl, see eval/README.md
  emova eval docvqa --data val.json --images pics   a benchmark's own file, or a .tsv of VLMEvalKit
  emova eval seed-tts-zh --data meta.lst --whisper large-v3 --paraformer paraformer-zh
                                                    the papers' judges, fetched from a hub
  emova eval styles --data my-folder --emotion-judge iic/emotion2vec_plus_large
  emova eval dialogue-end-to-end --data my-folder --judge URL --judge-model NAME --votes 3
  emova eval latency --endpoint http://127.0.0.1:8000/v1 --endpoint-model peer
                                                    speech in to first audio of any OpenAI-compatible server
  emova eval tokenizer emova-nano runs/kmeans-nano/export --data 'data/nano/speech/style-test-*.tar'
                                                    one table for speech tokenizers of any kind
  emova eval codecs --refresh docs/codecs.md        pairs of tokenizer and decoder side by side; or name pairs:
  emova eval codecs mine=runs/my-s2u/export,runs/my-u2s/export --data 'data/nano/speech/style-test-*.tar'
  emova eval compare runs/a runs/b                  is the difference more than chance?
  emova eval nano --refresh docs/figures/emova-nano.md
                                                    put the figures into the model's card
"""


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova eval``."""
    parser.description = "Measure a checkpoint on held-out data; write every answer, tables, plots and a report."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "task", help="nano, all, latency, tokenizer, codecs, compare, own, or a benchmark (an unknown name lists them)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of nano; the two runs of compare; tokenizers; pairs"
    )
    parser.add_argument("--model", help="a checkpoint's name or folder (emova-nano)")
    parser.add_argument("--data", help="the benchmark's file or folder; with all, the folder of all of them")
    parser.add_argument("--images", help="the folder of its pictures, where they lie apart")
    parser.add_argument("--out", help="the run's folder; an interrupted run goes on there")
    parser.add_argument("--limit", type=int, help="at most so many questions of a task")
    parser.add_argument("--judge", metavar="URL", help="an OpenAI-compatible address; its key is in OPENAI_API_KEY")
    parser.add_argument("--judge-model", help="the judge's name there")
    parser.add_argument("--votes", type=int, help="how often the judge is asked")
    parser.add_argument(
        "--whisper", help="the recogniser: a folder (data/nano/sources/whisper-base), or a name such as large-v3"
    )
    parser.add_argument("--paraformer", metavar="MODEL", help="hear Chinese with this FunASR model (paraformer-zh)")
    parser.add_argument(
        "--emotion-judge", metavar="MODEL", help="hear emotions with this FunASR model (iic/emotion2vec_plus_large)"
    )
    parser.add_argument("--language", choices=("en", "zh"), help="of your dialogues and recordings (en)")
    parser.add_argument("--offline", action="store_true", help="with all: the shipped fixtures, nothing from a hub")
    parser.add_argument("--endpoint", metavar="URL", help="with latency: the server to time, instead of --model")
    parser.add_argument("--endpoint-model", default="", help="with latency: its model's name there")
    parser.add_argument("--refresh", nargs="+", default=[], metavar="FILE", help="documents that take up the figures")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table; figures that miss their goals are no error."""
    for document in arguments.refresh:
        find_place(document, arguments.task)
    if arguments.task == "nano":
        return _nano(arguments)
    if arguments.task == "compare":
        return _compare(arguments)
    if arguments.task == "tokenizer":
        return _tokenizer(arguments)
    if arguments.task == "codecs":
        return _codecs(arguments)
    if arguments.overrides:
        raise InputError(
            f"{arguments.overrides[0][:40]!r}: only nano, compare, tokenizer and codecs take further words; use --data"
        )
    if (arguments.limit or 0) < 0 or (arguments.votes or 1) < 1:
        raise InputError("--limit must not be negative, and --votes at least 1")
    if arguments.endpoint and arguments.task != "latency":
        raise InputError("--endpoint: only latency can ask a server; the other tasks take --model")
    return _latency(arguments) if arguments.task == "latency" else _suite(arguments)


def _command(arguments: argparse.Namespace) -> str:
    words = ["emova eval", arguments.task, *map(quote, arguments.overrides)]
    words += [f"--{name} {value}" for name in ("model", "limit") if (value := getattr(arguments, name)) is not None]
    words += [f"--data {quote(arguments.data)}"] if arguments.task == "codecs" and arguments.data else []
    return " ".join([*words, *(["--offline"] if arguments.offline else [])])


def _nano(arguments: argparse.Namespace) -> int:
    from emova.core.config import load_config
    from emova_eval.nano.program import NanoEvalConfig, evaluate
    from emova_eval.report.goals import goals_table, print_table

    named = {"model": arguments.model, "output_dir": arguments.out, "limit": arguments.limit, "data": arguments.data}
    overrides = [*arguments.overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]
    config = load_config(NanoEvalConfig, None, overrides)
    rows = evaluate(config, lambda part: print(f"measuring: {part}", flush=True))
    print_table(rows)
    print(f"report: {config.folder}/report.html")
    said = {"pictures.png": "Picture questions right, by kind", "emotions.png": "Emotion asked and emotion heard"}
    pictures = [(config.folder / name, words) for name, words in said.items() if (config.folder / name).is_file()]
    for document in arguments.refresh:
        refresh(document, Section("nano", _command(arguments), goals_table(rows), pictures))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from emova.core.writing import make_folder, write_text
    from emova_eval.metrics.compare import as_json, compare_runs, comparison_table

    if len(arguments.overrides) != 2:
        raise InputError("compare: give the folders of two runs")
    a, b = arguments.overrides
    found = compare_runs(a, b)
    table = comparison_table(found, a, b)
    print(table)
    if arguments.out:
        folder = make_folder(arguments.out)
        write_text(folder / "compare.md", table)
        write_text(folder / "compare.json", as_json(found))
    return 0


def _tokenizer(arguments: argparse.Namespace) -> int:
    from emova_eval.tokenizer.program import run

    names = arguments.overrides or [arguments.model or "emova-nano"]
    run(names, (arguments.data or "").split(), arguments.limit or 0, arguments.out or "")
    return 0


def _codecs(arguments: argparse.Namespace) -> int:
    from emova_eval.codecs.pairs import parse_pairs
    from emova_eval.codecs.program import CodecsConfig, judges_of, run, table

    config = CodecsConfig(parse_pairs(arguments.overrides), (arguments.data or "").split(), arguments.limit or 0)
    named = {"whisper": arguments.whisper, "emotion_judge": arguments.emotion_judge, "output": arguments.out}
    config = replace(config, **{key: value for key, value in named.items() if value is not None})
    judges = judges_of(config)
    rows = run(config, judges)
    for document in arguments.refresh:
        refresh(document, Section("codecs", _command(arguments), table(rows, judges)))
    return 0


def _config(arguments: argparse.Namespace) -> SuiteConfig:
    from emova.checkpoint.loading import find_checkpoint
    from emova_eval.suite.run_folder import hash_model, safe_name
    from emova_eval.suite.suite import SuiteConfig

    model = arguments.endpoint_model or arguments.model or "emova-nano"
    mark = safe_name(model) if arguments.endpoint else hash_model(find_checkpoint(model))[:8]
    named = {
        "model": model,
        "data": arguments.data,
        "images": arguments.images,
        # Another model never goes on in a run's folder, so the folder's name tells the model.
        "output_dir": arguments.out or f"runs/eval-{safe_name(arguments.task)}-{mark}",
        "limit": arguments.limit,
        "judge_url": arguments.judge,
        "judge_model": arguments.judge_model,
        "votes": arguments.votes,
        "whisper": arguments.whisper,
        "paraformer": arguments.paraformer,
        "language": arguments.language,
        "emotion_judge": arguments.emotion_judge,
    }
    return SuiteConfig(**{key: value for key, value in named.items() if value is not None})


def _suite(arguments: argparse.Namespace) -> int:
    from emova_eval.report.tables import figures_table
    from emova_eval.suite.offline import offline_tasks
    from emova_eval.suite.suite import build_task, run_suite, tasks_in
    from emova_eval.suite.tasks import MetricTask

    tasks: list[MetricTask | Figure]
    if arguments.task == "all" and not (arguments.offline or arguments.data):
        raise InputError("all: add --offline for the shipped fixtures, or --data with the folder of the data sets")
    config = _config(arguments)
    if arguments.task == "all":
        tasks = offline_tasks(config) if arguments.offline else tasks_in(Path(arguments.data), config)
    else:
        tasks = [build_task(arguments.task, config)]
    figures = run_suite(
        tasks, config, f"{config.model}: {arguments.task}", advance=lambda line: print(line, flush=True)
    )
    _print(figures)
    print(f"report: {config.output_dir}/report.html")
    emotions = Path(config.output_dir) / "emotion-fixture-styles.png"
    pictures = [(emotions, "Emotion asked and emotion heard")] if emotions.is_file() else []
    for document in arguments.refresh:
        refresh(document, Section(arguments.task, _command(arguments), figures_table(figures), pictures))
    return 0


def _latency(arguments: argparse.Namespace) -> int:
    from emova_eval.suite.datasets import read_own
    from emova_eval.suite.latency import AssistantTalker, EndpointTalker, LatencyTask, TalkerConfig
    from emova_eval.suite.offline import questions
    from emova_eval.suite.suite import run_suite

    talker: EndpointTalker | AssistantTalker
    if arguments.endpoint:
        talker = EndpointTalker(TalkerConfig(arguments.endpoint, arguments.endpoint_model))
        config = _config(arguments)
    else:
        from emova.assistant import Assistant

        config = _config(arguments)
        talker = AssistantTalker(Assistant.from_pretrained(config.model), config.model)
    items = [item for item in read_own(config.data) if item.audio] if config.data else questions()[:8]
    if not items:
        raise InputError(f"{config.data}: no question has audio")
    figures = run_suite([LatencyTask(items)], config, f"{talker.name}: latency", talker)  # type: ignore[arg-type]
    _print(figures)
    print(f"report: {config.output_dir}/report.html")
    return 0


def _print(figures: list[Figure]) -> None:
    from rich.console import Console
    from rich.table import Table

    from emova_eval.report.tables import FIGURE_HEADER, FURTHER_HEADER, figure_cells, further_lines

    further = [line for figure in figures for line in further_lines(figure)]
    for header, lines in ((FIGURE_HEADER, [figure_cells(figure) for figure in figures]), (FURTHER_HEADER, further)):
        table = Table(*header)
        for line in lines:
            table.add_row(*line)
        if lines:
            Console().print(table)
