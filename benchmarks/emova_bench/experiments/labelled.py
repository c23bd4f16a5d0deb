"""Phone error of the speech tokenizer against labelled minutes, by what its encoder starts from.

    emova bench labelled --estimate
    emova bench labelled
    emova bench labelled --starts random whisper --minutes 10 100 --seeds 1
    emova bench labelled --join OTHER/results.json

It goes on where it stopped: finished trainings are only read, those of other machines too (``--join``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova_train.experiments.labelled import STARTS, LabelledConfig, cells, config_of, join, run, table

SECONDS_A_STEP = 3.0
"""Of one core, for nano's encoder and batches of 20 s in two views: an estimate that --estimate prints as one."""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = Parser(prog="emova bench labelled", description=(__doc__ or "").split("\n")[0])
    default = LabelledConfig()
    made.add_argument("--base", default=default.base, help="the supervised config (default: %(default)s)")
    made.add_argument("--pretrained", default=default.pretrained, help="SPIRAL's export (default: %(default)s)")
    made.add_argument("--whisper", default=default.whisper, help="a Whisper model (default: %(default)s)")
    made.add_argument("--starts", nargs="+", choices=STARTS, default=list(default.starts))
    made.add_argument("--minutes", nargs="+", type=float, default=list(default.minutes), help="of labelled speech")
    made.add_argument("--seeds", type=int, default=default.seeds)
    made.add_argument(
        "--join",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS.json",
        help="results of other machines, which are then not trained here",
    )
    made.add_argument("--output", type=Path, default=default.output)
    made.add_argument("--set", action="append", default=[], metavar="key=value", help="a field of every training")
    made.add_argument("--estimate", action="store_true", help="say what is left to do and what it costs, and stop")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it. Raises: InputError: the export of the pre-training or the recipe's speech is missing."""
    given = parser().parse_args(arguments)
    config = LabelledConfig(
        given.base, given.pretrained, given.whisper, tuple(given.starts), tuple(given.minutes), given.seeds,
        (*LabelledConfig().overrides, *given.set), given.output,
    )  # fmt: skip
    for file in given.join:
        print(f"{file}: {join(config, file)} results taken over", file=sys.stderr)
    left = [cell for cell in cells(config) if not cell.done]
    steps = sum(config_of(config, cell).run.max_steps for cell in left)
    print(f"{len(left)} trainings left, {steps} steps, about {steps * SECONDS_A_STEP / 60:.0f} minutes of one core")
    if not given.estimate:
        print(table(run(config)))


if __name__ == "__main__":
    sys.exit(run_program(main))
