"""Every benchmark runs on tiny parts and leaves a table, JSON and a figure."""

from __future__ import annotations

import json

import pytest

from emova.cli.main import Parser
from emova_bench.cli import BENCHMARKS, register

SMALL = {
    "decode": ["--tokens", "4"],
    "vocoder": ["--data", "no-such-folder", "--sentences", "1"],
    "latency": ["--seconds", "0.5"],
    "flat": ["--seconds", "4"],
    "load": ["--sessions", "1", "2"],
}


def test_each_benchmark_is_tried() -> None:
    assert set(SMALL) | {"loader", "paradigms"} == set(BENCHMARKS)  # these two are tried in tests/train


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name, tiny_checkpoint, tmp_path, capsys) -> None:
    parser = Parser()
    register(parser)
    options = [str(tiny_checkpoint), "--output", str(tmp_path), "--quick", "--threads", "1", *SMALL[name]]
    arguments = parser.parse_args([name, *options])
    assert arguments.run(arguments) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["benchmark"] == name and content["rows"] and content["options"]["repeats"] == "1"
    assert content["machine"]["threads"] == 1
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert all(column in printed for column in content["rows"][0])
