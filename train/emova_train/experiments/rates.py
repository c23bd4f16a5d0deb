"""GLM-4-Voice's Table 1 at nano's size: how well speech is recognised through a codebook, by units a second.

As in the paper (section 3.1) the same Whisper is fine-tuned with the middle pooled to 50, 25, 12.5 or 6.25 vectors a
second, and the codebook grows as they get fewer: by as many bits as between the paper's rows. Word errors are those of
the reader behind the codebook, phone errors those of a decoder that sees the codes alone. Rows that are finished are
only read, and a training that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log2
from pathlib import Path

import numpy as np

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_train.experiments.tables import over_seeds
from emova_train.vq.program import VQTrainConfig, train

RESULT = "result.json"
FRAMES = 50
"""Vectors a second before the pooling."""
PAPER_BITS = {1: 12, 2: 12, 4: 14, 8: 16}
"""Of the codebook, by pooling (Table 1: 600, 300, 175 and 100 bits a second)."""


@dataclass(frozen=True)
class RateStudy:
    """The study.

    Attributes:
        base: the config that all rows share; its own pooling and codebook are where the others start from.
        poolings: vectors at 50 a second that become one unit.
        steps: of every row.
        seeds: trainings of each.
        overrides: ``key=value`` of every training.
    """

    base: str = "vq/nano"
    poolings: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 500
    seeds: int = 1
    overrides: tuple[str, ...] = ("validation_clips=20",)
    output: str = "runs/codecs/rates"

    def __post_init__(self) -> None:
        if unknown := [pooling for pooling in self.poolings if pooling not in PAPER_BITS]:
            raise InputError(f"rates: pooling {unknown[0]} is unknown; give {', '.join(map(str, PAPER_BITS))}")
        if not self.poolings or self.steps < 1 or self.seeds < 1:
            raise InputError("rates: at least one pooling, one step and one seed")


@dataclass(frozen=True)
class Cell:
    """One training."""

    pooling: int
    seed: int
    config: VQTrainConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run.output_dir)

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True)
class Result:
    """Errors as shares by family of voices (``word_error/FAMILY``, ``phone_error/FAMILY``), the perplexity of the units
    that came (``codebook_perplexity``), and the training's seconds."""

    rate: float
    codes: int
    seed: int
    seconds: float
    figures: dict[str, float]

    def error(self, kind: str) -> float:
        """Mean over the families, in per cent; NaN where none was measured."""
        found = [value for name, value in self.figures.items() if name.startswith(f"{kind}/")]
        return 100 * float(np.mean(found)) if found else float("nan")


def cells(study: RateStudy) -> Iterator[Cell]:
    """All trainings, every rate with one seed before the next seed."""
    for seed in range(study.seeds):
        for pooling in study.poolings:
            yield Cell(pooling, seed, config_of(study, pooling, seed))


def config_of(study: RateStudy, pooling: int, seed: int) -> VQTrainConfig:
    """The training of a row, in a folder that bears a digest of its config."""
    base = load_config(VQTrainConfig, study.base, list(study.overrides), kind="vq")
    encoder = base.model.encoder
    if encoder.pooling not in PAPER_BITS:
        raise InputError(f"{study.base}: its pooling {encoder.pooling} is no row of the paper's table")
    codes = int(encoder.codes * 2.0 ** (PAPER_BITS[pooling] - PAPER_BITS[encoder.pooling]))
    # A code has to be used as rarely, for its share of the vectors, before it begins again.
    rarer = (encoder.pooling / pooling) * (encoder.codes / codes)
    decoder = replace(base.model.decoder, labels_per_unit=pooling)  # as many phones a second at every rate
    model = replace(base.model, encoder=replace(encoder, pooling=pooling, codes=codes), decoder=decoder)
    run = replace(base.run, seed=seed, max_steps=study.steps, eval_every=study.steps, output_dir="")
    made = replace(base, model=model, run=run, restart_below=base.restart_below * rarer)
    digest = hashlib.sha256(json.dumps(asdict(made), sort_keys=True).encode()).hexdigest()[:10]
    folder = Path(study.output) / f"{FRAMES / pooling:g}Hz-seed{seed}-{digest}"
    return replace(made, run=replace(run, output_dir=str(folder)))


def run_cell(cell: Cell) -> Result:
    """Train one row, or read what it gave. Its checkpoints go when its result is written; the export stays."""
    kept = cell.folder / RESULT
    if cell.done:
        return Result(**json.loads(kept.read_text(encoding="utf-8")))
    found = train(cell.config)
    figures = {name: value for name, value in found.eval_terms.items() if name.split("/")[0] in
               ("word_error", "phone_error", "codebook_perplexity")}  # fmt: skip
    codes = cell.config.model.encoder.codes
    result = Result(FRAMES / cell.pooling, codes, cell.seed, round(found.seconds, 1), figures)
    write_text(kept, json.dumps(asdict(result), indent=1) + "\n")
    for path in cell.folder.glob("checkpoint*"):
        shutil.rmtree(path)
    return result


def run(study: RateStudy, report: Callable[[str], None] = print) -> list[Result]:
    """All rows; ``table.md`` is written anew after each. Raises: InputError: speech, labels or Whisper are missing."""
    found: list[Result] = []
    todo = list(cells(study))
    for number, cell in enumerate(todo, 1):
        known = cell.done
        found.append(run_cell(cell))
        told = "read" if known else f"{found[-1].seconds:.0f} s"
        report(f"{number}/{len(todo)} {FRAMES / cell.pooling:g} units a second, seed {cell.seed}: {told}")
        write_text(Path(study.output) / "table.md", table(found))
    return found


def table(results: Sequence[Result]) -> str:
    """By units a second: mean ± standard deviation over the seeds."""
    heads = ["units/s", "codes", "bits/s", "seeds", "words wrong %", "phones wrong %", "perplexity", "s a run"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for rate in dict.fromkeys(each.rate for each in results):
        rows = [each for each in results if each.rate == rate]
        codes = rows[0].codes
        cells_of = [
            f"{rate:g}", f"{codes:,}", f"{rate * log2(codes):.0f}", str(len(rows)),
            over_seeds([each.error("word_error") for each in rows]),
            over_seeds([each.error("phone_error") for each in rows]),
            over_seeds([each.figures.get("codebook_perplexity", float("nan")) for each in rows], 0),
            f"{np.mean([each.seconds for each in rows]):.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells_of)} |")
    return "\n".join(lines) + "\n"
