"""All benchmarks one after another, each in a process of its own; their tables go into the README of the benchmarks.

What an earlier, interrupted run has finished is not run again. One table of the README has a row for each processor
that this was run on; the others are those of the last one.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.writing import check_writable, make_folder, write_text
from emova_bench.cli import BENCHMARKS
from emova_bench.tables import Report, Row, between, inside, markdown, parsed, read_reports

RUNS: Mapping[str, tuple[str, ...]] = {
    "decode": ("--repeats", "3"),
    "batching": ("--repeats", "2"),
    "larger": ("--repeats", "2"),
    "latency": ("--repeats", "3"),
    "load": ("--repeats", "1"),
    "flat": ("--repeats", "2"),
    "training": ("--repeats", "3"),
    "vocoder": ("--repeats", "2"),
    "storage": (),
}
"""The benchmarks, in order, and their options: some ten minutes on two cores, and seven more with ``soak``."""
MORE = ("soak", "loader", "runtimes", "llamacpp")
NO_CHECKPOINT = ("soak", "loader")
"""Benchmarks that take none."""
README = Path("benchmarks/README.md")
PROCESSORS = "processors"


def figures(reports: Mapping[str, Report]) -> dict[str, object]:
    """What the table of processors says of one."""
    machine = next(iter(reports.values())).machine
    row: dict[str, object] = {
        "processor": f"{machine.get('processor')}, {machine.get('instructions')}, {machine.get('threads')} threads"
    }

    def take(column: str, name: str, key: tuple[str, ...], field: str) -> None:
        report = reports.get(name)
        row[column] = report.by_key().get(key, {}).get(field) if report else None

    for bits in ("", " int8", " int4"):
        take(f"decode{bits or ' float16'}, tokens/s", "decode", (f"compiled{bits}",), "tokens/s")
        take(f"x llama.cpp{bits or ' float16'}", "decode", (f"compiled{bits}",), "x llama.cpp")
    take("x transformers", "decode", ("compiled",), "x transformers")
    take("30 M weights, 8 sessions, of real time", "larger", ("float16", "8"), "of real time")
    take("8 together, tokens/s", "batching", ("8",), "together, tokens/s")
    take("x llama.cpp, 8 slots", "batching", ("8",), "x llama.cpp")
    take("first sound p95 of 8, ms", "load", ("8",), "first sound ms, p95")
    row["on"] = datetime.date.today().isoformat()
    return row


def with_row(rows: Sequence[Row], new: Row) -> list[Row]:
    """The table of processors with the row of one, in the place of an older one of the same."""
    others = [row for row in rows if row.get("processor") != new["processor"]]
    return sorted([*others, new], key=lambda row: str(row.get("processor")))


def write_tables(readme: Path, reports: Mapping[str, Report]) -> list[str]:
    """Put the tables between the README's markers; the names of those that it has."""
    text, written = readme.read_text(encoding="utf-8"), []
    for name, report in reports.items():
        if f"<!-- {name}: begin -->" in text:
            machine = report.machine
            head = (
                f"{machine.get('processor')}, {machine.get('instructions')}, {machine.get('threads')} threads; the "
                f"load average was {float(str(machine.get('load average') or 0)):.1f}.\n\n"
            )
            text = between(text, name, head + markdown(report.rows))
            written.append(name)
    rows = with_row(parsed(inside(text, PROCESSORS)), figures(reports))
    write_text(readme, between(text, PROCESSORS, markdown(rows)))
    return written


def main(given: Sequence[str] | None = None) -> int:
    """Run them; 1 where one failed. Raises: InputError: a folder or the README cannot be written."""
    parser = Parser(prog="emova bench all", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", nargs="?", default="emova-nano", help="a shipped name or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the reports")
    parser.add_argument("--only", nargs="+", choices=(*RUNS, *MORE), help="these alone")
    parser.add_argument("--with", dest="more", nargs="+", choices=MORE, default=[], help="these too")
    parser.add_argument("--again", action="store_true", help="those too that an earlier run has finished")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs; no README is written")
    parser.add_argument("--readme", type=Path, help=f"whose tables are written ({README} where there is one)")
    options = parser.parse_args(given)
    check_writable(make_folder(options.output) / "report")
    readme = options.readme or (README if README.is_file() else None)
    if options.readme and not options.readme.is_file():
        raise InputError(f"{options.readme}: no such file")
    failed = []
    for name in options.only or (*RUNS, *options.more):
        if (options.output / f"{name}.json").is_file() and not options.again:
            print(f"{name}: finished before (--again runs it once more)", flush=True)
            continue
        command = [sys.executable, "-m", BENCHMARKS[name]]
        command += [] if name in NO_CHECKPOINT else [options.checkpoint]
        command += ["--output", str(options.output), "--threads", str(options.threads)]
        command += ["--quick"] if options.quick and name != "loader" else RUNS.get(name, ())
        print(f"{name}: {' '.join(command[2:])}", flush=True)
        started = time.monotonic()
        if subprocess.run(command).returncode:
            failed.append(name)
        print(f"{name}: {time.monotonic() - started:.0f} s\n", flush=True)
    reports = read_reports(options.output)
    if readme is not None and not options.quick:
        print(f"{readme}: tables of {', '.join(write_tables(readme, reports))}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    run_program(main)
