"""Every benchmark runs on tiny parts and leaves a table, JSON and a figure."""

from __future__ import annotations

import importlib
import json

import pytest

SMALL = {
    "decode": ["--tokens", "4"],
    "latency": ["--seconds", "0.5"],
    "flat": ["--seconds", "3"],
    "load": ["--sessions", "1", "2"],
}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name, tiny_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    arguments = [
        name,
        str(tiny_checkpoint),
        "--output",
        str(tmp_path),
        "--repeats",
        "1",
        "--threads",
        "1",
        *SMALL[name],
    ]
    monkeypatch.setattr("sys.argv", arguments)
    importlib.import_module(f"benchmarks.{name}").main()
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["benchmark"] == name and content["rows"]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert all(column in capsys.readouterr().out for column in list(content["rows"][0])[:1])
