"""``emova data`` for the public sources of the registry, and ``emova data synthesise``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emova.core.errors import InputError
from emova_data.sources.convert import ConvertConfig
from emova_data.sources.registry import DataSource, find, mixture, registry

KINDS = ("omni", "interleaved", "synthdog")


def register(actions: Any) -> None:
    """Add ``verify``, ``convert``, ``tokenise`` and ``synthesise`` to the sub-parsers ``actions``."""
    defaults = ConvertConfig()
    verify = actions.add_parser("verify", help="compare a public source's files with their checksums")
    convert = actions.add_parser("convert", help="write a public source as shards")
    for sub in (verify, convert):
        sub.add_argument("recipe", help="a name from `emova data list`, such as libritts")
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
    units.add_argument("--tokenizer", required=True, help="folder of a speech tokenizer")
    units.add_argument("--out", type=Path, help="folder of the new shards (default: ROOT/sets/NAME-units)")
    units.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    units.add_argument("--keep-audio", action="store_true", help="keep the recordings, too")
    make = actions.add_parser("synthesise", help="make spoken dialogues, interleaved speech and text, or text pages")
    make.add_argument("kind", choices=KINDS, help="what to make")
    make.add_argument("config", nargs="?", type=Path, help="YAML of settings; see configs/data/")
    make.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def folders(root: Path, name: str) -> tuple[Path, Path]:
    """Where a source's own files lie, and its shards."""
    return root / "sources" / name, root / "sets" / name


def listed(stage: str = "") -> list[dict[str, Any]]:
    """The registry as plain containers. Raises: InputError: no such stage."""
    wanted = mixture(stage) if stage else registry()
    return [asdict(registry()[name]) for name in wanted]


def show(as_json: bool, stage: str) -> int:
    """Print the sources, all or those of one stage. Raises: InputError."""
    entries = listed(stage)
    if as_json:
        print(json.dumps({"public": entries}, ensure_ascii=False))
        return 0
    print("public sources (`emova data fetch | verify | convert | stats NAME`):")
    for entry in entries:
        stages = ", ".join(f"{name} × {weight:g}" for name, weight in entry["stages"].items()) or "evaluation"
        print(f"  {entry['name']:22} {entry['title']}")
        print(
            f"  {'':22} stage {stages}; {'+'.join(entry['modality'])}; {'+'.join(entry['languages'])}; {entry['size']}"
        )
        print(f"  {'':22} licence: {entry['licence']}" + ("" if entry["access"] == "open" else f"; {entry['access']}"))
        if entry["note"]:
            print(f"  {'':22} {entry['note']}")
    return 0


def run(args: argparse.Namespace) -> int:
    """``fetch``, ``verify``, ``convert`` or ``stats`` of a source. Raises: InputError."""
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
        return _stats(source, out, args.json)
    return _convert(source, args.origin or origin, args.out or out, args)


def _fetch(source: DataSource, folder: Path) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from emova_data.sources.download import fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=size or None)

        paths = fetch(source, folder, report=report)
    print(f"{source.name}: {len(paths)} files in {folder}; licence: {source.licence}; please cite {source.citation}")
    return 0


def convert_source(
    source: DataSource, origin: Path, out: Path, config: ConvertConfig, *, split: str = "train", report: Any = None
) -> Any:
    """Convert ``source`` from ``origin`` to ``out``; copies of sets that lie beside ``out`` are left out.

    Raises:
        InputError: it has no converter, its files are missing, or too many records are damaged.
    """
    from emova_data.sources.convert import convert, state_of_source
    from emova_data.sources.converters import CONVERTERS

    if not source.converter:
        raise InputError(f"{source.name}: nothing to convert. {source.note}")
    if not origin.is_dir():
        raise InputError(f"{origin}: no such folder; run `emova data fetch {source.name}`, or give one by --from")
    drafts = CONVERTERS[source.converter](origin, source.options)
    others = [out.parent / name for name in source.dedup_against if (out.parent / name).is_dir()]
    keywords = {} if report is None else {"report": report}
    made_from = state_of_source(origin)
    return convert(
        drafts,
        out,
        source.name,
        split=split,
        suffix=source.suffix,
        config=config,
        against=others,
        made_from=made_from,
        **keywords,
    )


def _convert(source: DataSource, origin: Path, out: Path, args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    if args.per_shard < 1 or args.limit < 0 or not 0 <= args.max_skip_rate <= 1:
        raise InputError("--per-shard is at least 1, --limit at least 0, --max-skip-rate between 0 and 1")
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
    return 0


def _stats(source: DataSource, folder: Path, as_json: bool) -> int:
    from emova_data.sources.convert import set_statistics

    found = {"name": source.name, "licence": source.licence, **set_statistics(folder)}
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    for key, value in found.items():
        print(f"{key:9} {value}")
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
    if args.config is not None and "=" in args.config.name and not args.config.is_file():
        args.overrides, args.config = [str(args.config), *args.overrides], None
    if args.kind == "synthdog":
        from emova_data.synthesis import synthdog

        return synthdog.main(args.config, args.overrides)
    if args.kind == "interleaved":
        from emova_data.synthesis import interleave

        return interleave.main(args.config, args.overrides)
    from emova_data.synthesis import pipeline

    return pipeline.main(args.config, args.overrides)
