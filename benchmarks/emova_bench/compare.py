"""What changed between two runs of the benchmarks: every figure that differs by more than noise would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova_bench.tables import Report, cell, read_reports


@dataclass(frozen=True)
class Change:
    """A figure of a row that is in both runs."""

    benchmark: str
    row: str
    figure: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else float("inf")


def changes(before: Report, after: Report, least: float) -> Iterator[Change]:
    """The figures that differ by more than the part ``least`` of what they were."""
    rows = after.by_key()
    for key, row in before.by_key().items():
        other = rows.get(key)
        for figure, value in row.items() if other is not None else ():
            assert other is not None
            new = other.get(figure)
            if not (_is_number(value) and _is_number(new)):
                continue
            old, now = float(str(value)), float(str(new))
            if abs(now - old) > least * abs(old):
                yield Change(before.name, ", ".join(key), figure, old, now)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def main(given: Sequence[str] | None = None) -> int:
    """Print them. Raises: InputError: a folder holds no reports."""
    parser = Parser(prog="emova bench compare", description=__doc__)
    parser.add_argument("before", type=Path, help="folder of a run")
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=0.05, help="part by which a figure must differ (%(default)s)")
    options = parser.parse_args(given)
    before, after = read_reports(options.before), read_reports(options.after)
    found = []
    for name in before.keys() & after.keys():
        machines = [each[name].machine for each in (before, after)]
        for fact in ("processor", "instructions", "threads"):
            if machines[0].get(fact) != machines[1].get(fact):
                print(f"{name}: {fact}: {machines[0].get(fact)} before, {machines[1].get(fact)} after")
        found += list(changes(before[name], after[name], options.least))
    for name in sorted(before.keys() ^ after.keys()):
        print(f"{name}: only {'before' if name in before else 'after'}")
    for each in sorted(found, key=lambda change: (change.benchmark, change.row, change.figure)):
        print(
            f"{each.benchmark}: {each.row}: {each.figure}: {cell(each.before)} -> {cell(each.after)} "
            f"(x {each.ratio:.2f})"
        )
    print(f"{len(found)} figures differ by more than {options.least:.0%}")
    return 0


if __name__ == "__main__":
    run_program(main)
