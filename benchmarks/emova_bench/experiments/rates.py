"""GLM-4-Voice's Table 1 at nano's size: words and phones recognised through the codebook at 50, 25, 12.5, 6.25 units a
second.

    emova bench rates --dry-run
    emova bench rates --refresh docs/codecs.md

It goes on where it stopped: finished trainings are only read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from emova.cli.main import Parser, run_program
from emova_bench.tables import find_section, refresh_section
from emova_train.experiments.rates import PAPER_BITS, RateStudy, cells, run, table

SECTION = "rates"
"""The markers of a document that takes up the table."""
SECONDS_A_STEP = 1.3
"""Of one core, for half of Whisper tiny and batches of 30 s: an estimate that --dry-run prints as one."""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = Parser(prog="emova bench rates", description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    default = RateStudy()
    made.add_argument("--base", default=default.base, help="the config that the rows share (default: %(default)s)")
    made.add_argument("--poolings", nargs="+", type=int, choices=PAPER_BITS, default=list(default.poolings),
                      help="of 50 vectors a second (default: all)")  # fmt: skip
    made.add_argument("--steps", type=int, default=default.steps, help="of each training (default: %(default)s)")
    made.add_argument("--seeds", type=int, default=default.seeds, help="trainings of each (default: %(default)s)")
    made.add_argument("--output", default=default.output, help="folder of trainings and table (default: %(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="key=value", help="a field of every training")
    made.add_argument("--dry-run", action="store_true", help="say what is left to do and what it costs, and stop")
    made.add_argument("--refresh", nargs="+", default=[], metavar="FILE", help="documents that take up the table")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it. Raises: InputError: speech, labels or the Whisper model are missing."""
    given = parser().parse_args(arguments)
    for document in given.refresh:
        find_section(document, SECTION)  # before the long work
    overrides = (*RateStudy.overrides, *given.set)
    study = RateStudy(given.base, tuple(given.poolings), given.steps, given.seeds, overrides, given.output)
    todo = list(cells(study))
    steps = sum(study.steps for cell in todo if not cell.done)
    print(f"{sum(not cell.done for cell in todo)} of {len(todo)} trainings left, {steps} steps, about "
          f"{steps * SECONDS_A_STEP / 60:.0f} minutes of one core", flush=True)  # fmt: skip
    if given.dry_run:
        return
    text = table(run(study))
    print(text)
    for document in given.refresh:
        refresh_section(document, SECTION, text)


if __name__ == "__main__":
    sys.exit(run_program(main))
