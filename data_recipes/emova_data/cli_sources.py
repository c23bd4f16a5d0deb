"""``emova data`` for the public sources of the registry, and ``emova data synthesise``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova_data.sources.convert import ConvertConfig, ConvertResult
from emova_data.sources.registry import DataSource, find, mixture, registry

if TYPE_CHECKING:
    from rich.progress import TaskID

    from emova_data.sources.own import OwnSource

KINDS = ("omni", "interleaved", "dialogues", "synthdog", "styles", "spoken")
FORMATS = ("llava", "messages", "speech", "recordings", "text")
MOST_NOTES = 12


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verify``, ``convert``, ``tokenise`` and ``synthesise`` to the sub-parsers ``actions``."""
    defaults = ConvertConfig()
    verify = actions.add_parser("verify", help="compare a public source's files with their checksums")
    convert = actions.add_parser("convert", help="write a public source as shards")
    verify.add_argument("recipe", help="a name from `emova data list`, such as libritts")
    convert.add_argument(
        "recipe", metavar="SOURCE", help="a name from `emova data list`, a source's YAML, or with --format a folder"
    )
    convert.add_argument("--format", choices=tuple(FORMATS), help="what a folder of your own holds")
    convert.add_argument("--name", default="", help="of the set (default: the folder's)")
    convert.add_argument("--language", default="", help="of the speech, a code such as en, zh, de (default: en)")
    convert.add_argument(
        "--g2p", default="", help="phones of the transcripts: auto (by the language), none, en, zh, espeak:CODE"
    )
    convert.add_argument(
        "--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the converter, such as images=pictures, layout=plain, voice=anna; repeatable",
    )  # fmt: skip
    questions = actions.add_parser(
        "questions", help="write samples of a converted set as questions for `emova eval own`"
    )
    questions.add_argument("recipe", metavar="set", help="a converted set, such as librispeech")
    questions.add_argument("--out", type=Path, required=True, help="the folder of the questions")
    questions.add_argument("--limit", type=int, default=200, help="most questions (default: %(default)s)")
    questions.add_argument("--metric", default="", help="how answers are judged; default: wer of speech, else contains")
    for sub in (verify, convert, questions):
        sub.add_argument("--root", type=Path, default=Path("data"), help="data folder (default: data)")
    convert.add_argument("--from", dest="origin", type=Path, help="folder of the source's own files")
    convert.add_argument("--out", type=Path, help="folder of the shards (default: ROOT/sets/NAME)")
    convert.add_argument("--split", default="train", help="goes into the shards' names (default: train)")
    convert.add_argument("--limit", type=int, default=0, help="records to read at most (default: all)")
    convert.add_argument("--per-shard", type=int, default=defaults.per_shard, help="records in a shard")
    convert.add_argument(
        "--max-skip-rate", type=float, default=defaults.max_skip_rate,
        help="end with an error above this share of damaged records (default: %(default)s)",
    )  # fmt: skip
    units = actions.add_parser("tokenise", help="write a converted set again with its speech as units, for training")
    units.add_argument("recipe", metavar="set", help="a converted set, such as librispeech")
    units.add_argument("--root", type=Path, default=Path("data"), help="data folder (default: data)")
    units.add_argument(
        "--tokenizer", required=True, help="a speech tokenizer's folder, or a checkpoint such as emova-nano"
    )
    units.add_argument("--out", type=Path, help="folder of the new shards (default: ROOT/sets/NAME-units)")
    units.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    units.add_argument("--keep-audio", action="store_true", help="keep the recordings, too")
    make = actions.add_parser(
        "synthesise",
        help="make spoken dialogues, interleaved speech and text, text pages, speech in all styles, spoken questions",
    )
    make.add_argument("kind", choices=KINDS, help="what to make")
    make.add_argument("config", nargs="?", type=Path, help="YAML of settings; see configs/data/")
    make.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def folders(root: Path, name: str) -> tuple[Path, Path]:
    """Where a source's own files lie, and its shards."""
    return root / "sources" / name, root / "sets" / name


def listed(stage: str = "") -> list[DataSource]:
    """The registry, or the sources of one stage. Raises: InputError: no such stage."""
    wanted = mixture(stage) if stage else registry()
    return [registry()[name] for name in wanted]


def show(as_json: bool, stage: str) -> int:
    """Print the sources, all or those of one stage. Raises: InputError."""
    entries = listed(stage)
    if as_json:
        print(json.dumps({"public": [asdict(entry) for entry in entries]}, ensure_ascii=False))
        return 0
    print("public sources (`emova data fetch | verify | convert | stats NAME`):")
    for entry in entries:
        stages = ", ".join(f"{name} × {weight:g}" for name, weight in entry.stages.items()) or "evaluation"
        print(f"  {entry.name:22} {entry.title}")
        print(f"  {'':22} stage {stages}; {'+'.join(entry.modality)}; {'+'.join(entry.languages)}; {entry.size}")
        print(f"  {'':22} licence: {entry.licence}" + ("" if entry.access == "open" else f"; {entry.access}"))
        if entry.note:
            print(f"  {'':22} {entry.note}")
    return 0


def run(args: argparse.Namespace) -> int:
    """``fetch``, ``verify``, ``convert`` or ``stats`` of a source. Raises: InputError."""
    if args.action == "convert" and (own := _own(args)) is not None:
        origin = args.origin or own.folder
        if origin is None:
            raise InputError(f"{args.recipe}: says no folder; give its key `folder`, or --from")
        return _convert(own.source, origin, args.out or folders(args.root, own.source.name)[1], args)
    if args.action == "stats" and (folders(args.root, args.recipe)[1] / "progress.json").is_file():
        return _stats(args.recipe, "", folders(args.root, args.recipe)[1], args.json)
    source = find(args.recipe)
    origin, out = folders(args.root, source.name)
    if args.action == "fetch":
        return _fetch(source, origin)
    if args.action == "verify":
        from emova_data.sources.download import verify

        for name, how in verify(source, origin).items():
            print(f"{how:10} {name}")
        return 0
    if args.action == "stats":
        return _stats(source.name, source.licence, out, args.json)
    return _convert(source, args.origin or origin, args.out or out, args)


def _own(args: argparse.Namespace) -> OwnSource | None:
    """The source of one's own that the arguments of ``convert`` mean. Raises: InputError."""
    from emova_data.sources.own import of_folder, read_yaml

    path = Path(args.recipe)
    if args.format:
        return of_folder(path, args.format, name=args.name)
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path, args.name)
    if path.is_dir() and args.recipe not in registry():
        raise InputError(f"{path}: say what the folder holds, --format {', '.join(FORMATS)}")
    return None


def _options(source: DataSource, args: argparse.Namespace) -> DataSource:
    """``source`` with the options that the command line gives. Raises: InputError: one has no value."""
    options = dict(source.options)
    for each in args.options:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise InputError(f"--set {each[:40]}: give KEY=VALUE")
        options[key] = value
    if args.language:
        options["language"] = args.language
    # Speech with transcripts gets phones, from which a speech tokenizer learns.
    if source.modality[0] == "speech" and source.converter != "recordings":
        options["g2p"] = args.g2p or options.get("g2p", "auto")
    elif args.g2p:
        raise InputError(f"--g2p: {source.name} gets no phones, only speech with its transcripts does; leave it out")
    return replace(source, options=options)


def _fetch(source: DataSource, folder: Path) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from emova_data.sources.download import fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=size or None)

        paths = fetch(source, folder, report=report)
    print(f"{source.name}: {len(paths)} files in {folder}; licence: {source.licence}; please cite {source.citation}")
    return 0


def convert_source(
    source: DataSource,
    origin: Path,
    out: Path,
    config: ConvertConfig,
    *,
    split: str = "train",
    report: Callable[[int, int], None] = lambda tried, skipped: None,
) -> ConvertResult:
    """Convert ``source`` from ``origin`` to ``out``; copies of sets that lie beside ``out`` are left out.

    Raises:
        InputError: it has no converter, its files are missing, or too many records are damaged.
    """
    from emova_data.sources.convert import convert, state_of_source
    from emova_data.sources.converters import CONVERTERS
    from emova_data.sources.converters import FORMATS as OWN

    converters = {**CONVERTERS, **OWN}
    if not source.converter:
        raise InputError(f"{source.name}: nothing to convert. {source.note}")
    if not origin.is_dir():
        raise InputError(f"{origin}: no such folder; run `emova data fetch {source.name}`, or give one by --from")
    drafts = converters[source.converter](origin, source.options)
    others = [out.parent / name for name in source.dedup_against if (out.parent / name).is_dir()]
    return convert(
        drafts,
        out,
        source.name,
        split=split,
        suffix=source.suffix,
        config=config,
        against=others,
        select=source.select,
        made_from=state_of_source(origin, source.options),
        units=source.units,
        report=report,
    )


def _convert(source: DataSource, origin: Path, out: Path, args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    if args.per_shard < 1 or args.limit < 0 or not 0 <= args.max_skip_rate <= 1:
        raise InputError("--per-shard is at least 1, --limit at least 0, --max-skip-rate between 0 and 1")
    source = _options(source, args)
    config = ConvertConfig(args.per_shard, args.max_skip_rate, limit=args.limit, deduplicate=source.deduplicate)
    for other in source.dedup_against:
        if not (out.parent / other).is_dir():
            Console(stderr=True).print(f"{other} is not converted yet, so its copies stay in {source.name}")
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(source.name)

        def report(tried: int, skipped: int) -> None:
            bars.update(task, description=f"{source.name}: {tried} read, {skipped} left out")

        result = convert_source(source, origin, out, config, split=args.split, report=report)
    print(f"{source.name}: {result.records} records in {len(result.shards)} shards in {out}")
    for reason, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {count}: {reason}")
    for note, count in sorted(result.notes.items(), key=lambda item: -item[1])[:MOST_NOTES]:
        print(f"  {count} of them: {note}")
    if len(result.notes) > MOST_NOTES:
        print(f"  and {len(result.notes) - MOST_NOTES} notes more in {out / 'progress.json'}")
    return 0


def _stats(name: str, licence: str, folder: Path, as_json: bool) -> int:
    from emova_data.sources.convert import set_statistics

    found = {"name": name, **({"licence": licence} if licence else {}), **set_statistics(folder)}
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    for key, value in found.items():
        print(f"{key:9} {value}")
    return 0


def questions(args: argparse.Namespace) -> int:
    """``emova data questions``. Raises: InputError."""
    from emova_data.sources.questions import write_questions

    if args.limit < 1:
        raise InputError("--limit must be at least 1")
    count = write_questions(folders(args.root, args.recipe)[1], args.out, args.limit, args.metric)
    print(f"{args.out}: {count} questions; ask them: emova eval own --data {args.out}")
    return 0


def tokenise(args: argparse.Namespace) -> int:
    """``emova data tokenise``. Raises: InputError."""
    from emova_data.sources.tokenise import TokeniseConfig, tokenise

    _, folder = folders(args.root, args.recipe)
    out = args.out or folders(args.root, f"{args.recipe}-units")[1]
    config = TokeniseConfig(args.tokenizer, args.keep_audio, jobs=args.jobs)
    result = tokenise(folder, out, out.name, config)
    print(f"{args.recipe}: {result.records} records in {len(result.shards)} shards in {out}")
    for reason, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {count}: {reason}")
    return 0


def synthesise(args: argparse.Namespace) -> int:
    """``emova data synthesise``. Raises: InputError."""
    # `key=value` may come without a file before it.
    if args.config is not None and "=" in str(args.config) and not args.config.is_file():
        args.overrides, args.config = [str(args.config), *args.overrides], None
    if args.kind == "synthdog":
        from emova_data.synthesis import synthdog

        return synthdog.main(args.config, args.overrides)
    if args.kind == "styles":
        from emova_data.synthesis import styles

        return styles.main(args.config, args.overrides)
    if args.kind == "spoken":
        from emova_data.synthesis import spoken

        return spoken.main(args.config, args.overrides)
    if args.kind == "interleaved":
        from emova_data.synthesis import interleave

        return interleave.main(args.config, args.overrides)
    if args.kind == "dialogues":
        from emova_data.synthesis import dialogues

        return dialogues.main(args.config, args.overrides)
    from emova_data.synthesis import pipeline

    return pipeline.main(args.config, args.overrides)
