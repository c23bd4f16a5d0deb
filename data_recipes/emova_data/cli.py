"""``emova data``: list, fetch and make the training data."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from emova.core.errors import InputError
from emova_data import cli_sources

ACTIONS = "{list,fetch,verify,convert,tokenise,questions,synthesise,make,stats}"
SMOKE, SMALL, BILINGUAL = "smoke", "small", "nano-zh"
RECIPES = {
    "nano": "everything that emova-nano is trained on: speech, pictures, talk (English)",
    BILINGUAL: "speech and talk in Mandarin and English, for one codec and one model (needs nano's sources)",
    SMOKE: "a slice that needs no download, to try the training programs (`emova train all --profile smoke`)",
    SMALL: "a small world that needs no download, to compare ways to train (`emova bench paradigms`)",
}
_EPILOG = """examples:
  emova data list                          the recipes, their steps and sources, and what is missing here
  emova data fetch nano                    download and verify the sources (about 360 MB)
  emova data make nano --jobs 2            make everything; call it again to continue after an interruption
  emova data make nano --only s2u          one step (repeat --only for more)
  emova data make smoke                    a slice for a trial of the training programs, in a minute
  emova data make nano-zh --jobs 2         Mandarin and English, by the offline voices that `fetch nano` brought
  emova data stats nano                    counts and hours of what is there
  emova data fetch libritts                a public source: download (resumable), compare checksums, unpack
  emova data verify libritts               compare the checksums again
  emova data convert libritts              write shards; call it again to continue after an interruption
  emova data convert FOLDER --format speech    your own recordings with transcripts; also llava, messages, recordings
  emova data tokenise libritts --tokenizer FOLDER    the same with units, as training reads it
  emova data synthesise omni --help        spoken dialogues with emotion from text or visual instructions
"""


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command on ``parser`` and set its ``run``."""
    parser.description = "Fetch, convert and make training data: reproducible by seed, resumable."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar=ACTIONS)
    listing = actions.add_parser("list", help="recipes, steps, sources and licences")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.add_argument(
        "--stage", default="", help="only the public sources of this stage: 1, 2, 3, codec, pretraining"
    )
    fetch = actions.add_parser("fetch", help="download and verify a recipe's sources, or a public source")
    make = actions.add_parser("make", help="make a recipe's data")
    stats = actions.add_parser("stats", help="counts and hours of what is there")
    for sub in (fetch, make, stats):
        sub.add_argument("recipe", help="a name from `emova data list`, such as nano")
        sub.add_argument("--root", type=Path, default=Path("data"), help="data folder (default: data)")
    make.add_argument("--only", action="append", metavar="STEP", help="this step only; may be repeated")
    make.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    make.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    stats.add_argument("--json", action="store_true", help="for machines")
    cli_sources.register(actions)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``emova data``. Raises: InputError."""
    if args.action == "list":
        return _list(args.json, args.stage)
    if args.action == "synthesise":
        return cli_sources.synthesise(args)
    if args.action == "tokenise":
        return cli_sources.tokenise(args)
    if args.action == "questions":
        return cli_sources.questions(args)
    if args.action == "convert" and args.format:
        return cli_sources.run(args)
    if args.recipe not in RECIPES:
        if args.action == "make":
            raise InputError(f"recipe {str(args.recipe)[:40]!r} is unknown; `emova data list` names them")
        return cli_sources.run(args)
    if args.action in ("verify", "convert"):
        raise InputError(f"{args.recipe}: `emova data fetch` verifies it and `emova data make` writes its shards")
    if args.recipe in (SMOKE, SMALL, BILINGUAL) and args.action != "make":
        raise InputError(f"{args.recipe}: can only be made: emova data make {args.recipe}")
    if args.action == "stats":
        return _stats(args.root, args.json)
    return _make(args)


def _list(as_json: bool, stage: str) -> int:
    if stage:
        return cli_sources.show(as_json, stage)
    from emova_data.nano.packages import DEBIAN, SOURCES, missing_debian
    from emova_data.nano.recipe import STEPS

    missing = missing_debian()
    if as_json:
        sources = [
            {"name": s.name, "version": s.version, "registry": s.registry, "licence": s.licence} for s in SOURCES
        ]
        debian = [{"name": name, "licence": lic, "installed": name not in missing} for name, lic, _ in DEBIAN.values()]
        steps = {name: about for name, (about, _) in STEPS.items()}
        print(json.dumps({"recipes": RECIPES, "steps": steps, "sources": sources, "debian": debian,
                          "public": [asdict(source) for source in cli_sources.listed()]}))  # fmt: skip
        return 0
    for recipe, about in RECIPES.items():
        print(f"{recipe}: {about}\n\nsteps of `emova data make {recipe} --only STEP`:")
        for name, (what, _) in STEPS.items():
            print(f"  {name:10} {what}")
        print("\nsources fetched by `emova data fetch nano`:")
        for source in SOURCES:
            print(f"  {source.registry:5} {source.name} {source.version}: {source.used_for} ({source.licence})")
        print("\nDebian packages:")
        for package, licence, use in DEBIAN.values():
            print(f"  {'missing' if package in missing else 'there':8}{package}: {use} ({licence})")
        if missing:
            print(f"\nto get what is missing: apt-get install {' '.join(missing)}")
    print()
    return cli_sources.show(False, "")


def _stats(root: Path, as_json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from emova_data.nano import manifest
    from emova_data.nano.speech.sets import SpeechPlan

    folder = root / "nano"
    if not folder.is_dir():
        raise InputError(f"{folder}: no data here; run `emova data make nano`")
    found = manifest.build(folder, SpeechPlan(), 0)
    if as_json:
        print(json.dumps({key: found[key] for key in ("speech", "pictures", "text")}))
        return 0
    table = Table("what", "shards", "items", "hours")
    manifest.report(found, table.add_row)
    Console().print(table)
    return 0


def _make(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from emova_data.nano.recipe import STEPS, Progress, Recipe, make
    from emova_data.nano_zh import recipe as bilingual

    class Drawn(Progress):
        task = None

        def start(self, what: str, total: int | None) -> None:
            if self.task is not None:
                bars.stop_task(self.task)
            self.task = bars.add_task(what, total=total)

        def advance(self, note: str = "") -> None:
            if self.task is not None:
                bars.advance(self.task)

    only = ["sources"] if args.action == "fetch" else args.only
    known = list(bilingual.STEPS if args.recipe == BILINGUAL else STEPS)
    for name in only or ():
        if name not in known:
            raise InputError(f"step {name[:40]!r} is unknown; choose from {', '.join(known)}")
    if args.action == "make" and args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: at least 1 process is needed")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        if args.recipe in (SMOKE, SMALL):
            from emova_data.nano import smoke

            plan = smoke.SMALL if args.recipe == SMALL else smoke.SmokePlan()
            smoke.make(args.root, args.seed, args.jobs, Drawn(), plan)
            return 0
        seed, jobs = getattr(args, "seed", 0), getattr(args, "jobs", 1)
        if args.recipe == BILINGUAL:
            bilingual.make(bilingual.RecipeZh(args.root, seed, jobs, progress=Drawn()), only)
            return 0
        make(Recipe(args.root, seed=seed, jobs=jobs, progress=Drawn()), only)
    return 0
