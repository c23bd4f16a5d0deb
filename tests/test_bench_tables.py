"""``emova bench all`` and ``compare``: what is run, kept and written, and what is told of two runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_bench import all as everything
from emova_bench import compare
from emova_bench.cli import BENCHMARKS
from emova_bench.tables import between, cell, inside, markdown, parsed, read_reports
from tests.documents import ROOT

MACHINE = {"processor": "P", "instructions": "avx2", "threads": 2, "load average": 0.5}


def write(folder: Path, name: str, rows: list[dict[str, object]], **machine: object) -> None:
    folder.mkdir(exist_ok=True)
    content = {"benchmark": name, "machine": {**MACHINE, **machine}, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_tables_are_read_as_they_were_written() -> None:
    rows: list[dict[str, object]] = [{"a": 1234.5, "b": None, "c": True}, {"a": 0.01234, "d": "x"}]
    table = markdown(rows)
    assert parsed(table) == [
        {"a": "1,234", "b": "", "c": "yes", "d": ""},
        {"a": "0.0123", "b": "", "c": "", "d": "x"},
    ]
    text = "before\n<!-- t: begin -->\nold\n<!-- t: end -->\nafter\n"
    new = between(text, "t", table)
    assert inside(new, "t") == table and new.startswith("before\n") and new.endswith("\nafter\n")
    assert between(new, "t", "old\n") == text and parsed("") == [] and inside(text, "u") == ""
    with pytest.raises(InputError, match="<!-- u: begin -->"):
        between(text, "u", table)
    assert cell(250.4) == "250" and cell(12) == "12"


def test_a_processor_has_one_row(tmp_path: Path) -> None:
    """A second run of the same processor takes the place of the first; another's row stays."""
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in ("processors", "decode")))
    for processor, speed in (("P", 100.0), ("Q", 200.0), ("P", 300.0)):
        write(tmp_path / "run", "decode", [{"decoder": "compiled", "tokens/s": speed}], processor=processor)
        assert everything.write_tables(readme, read_reports(tmp_path / "run")) == ["decode"]
    rows = parsed(inside(readme.read_text(), "processors"))
    assert [(row["processor"], row["decode float16, tokens/s"]) for row in rows] == [
        ("P, avx2, 2 threads", "300"),
        ("Q, avx2, 2 threads", "200"),
    ]
    assert "| compiled | 300 |" in inside(readme.read_text(), "decode")


def test_the_readme_has_the_markers() -> None:
    text = (ROOT / everything.README).read_text(encoding="utf-8")
    for name in (everything.PROCESSORS, "decode", "batching", "larger", "latency", "load", "training"):
        assert between(text, name, "") != between(text, name, "x"), name
    assert {*everything.RUNS, *everything.MORE} <= set(BENCHMARKS)


def test_what_was_finished_is_not_run_again(tmp_path: Path, monkeypatch, capsys) -> None:
    ran = []

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        name = command[2].rpartition(".")[2]
        ran.append(name)
        if name != "larger":
            write(tmp_path, name, [{"decoder": "compiled", "tokens/s": 1.0}])
        return subprocess.CompletedProcess(command, int(name == "larger"))

    monkeypatch.setattr(everything.subprocess, "run", run)
    given = ["--output", str(tmp_path), "--quick", "--only", "decode", "larger", "load"]
    assert everything.main(given) == 1 and ran == ["decode", "larger", "load"]
    assert "failed: larger" in capsys.readouterr().out
    ran.clear()
    everything.main(given)
    assert ran == ["larger"]
    ran.clear()
    everything.main([*given, "--again"])
    assert ran == ["decode", "larger", "load"]


def test_what_changed_between_two_runs_is_told(tmp_path: Path, capsys) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    rows: list[dict[str, object]] = [
        {"speech s": 1.0, "picture": False, "turn": 1, "median ms": 50.0, "p95 ms": 60.0},
        {"speech s": 3.0, "picture": False, "turn": 1, "median ms": 50.0, "p95 ms": 60.0},
    ]
    write(before, "latency", rows)
    write(after, "latency", [rows[1], {**rows[0], "median ms": 75.0, "p95 ms": 61.0}], threads=1)
    write(after, "load", [{"sessions": 1, "worst": 1.0}])
    assert compare.main([str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert "latency: 1.0, False, 1: median ms: 50 -> 75 (x 1.50)" in said
    assert "latency: threads: 2 before, 1 after" in said and "load: only after" in said
    assert "1 figures differ by more than 5%" in said
    with pytest.raises(InputError, match="no reports"):
        compare.main([str(tmp_path), str(after)])
    (before / "decode.json").write_text("{")
    with pytest.raises(InputError, match="decode.json: no report"):
        compare.main([str(before), str(after)])


@pytest.mark.slow
def test_one_of_all_runs_for_real(tiny_checkpoint, tmp_path: Path) -> None:
    given = [str(tiny_checkpoint), "--output", str(tmp_path), "--quick", "--threads", "1", "--only", "batching"]
    assert everything.main(given) == 0
    assert read_reports(tmp_path)["batching"].machine["instructions"]
