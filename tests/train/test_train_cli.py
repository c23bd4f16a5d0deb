"""``emova train``: programs are found, imported only when called, and errors are one line."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from emova.cli import main as cli
from emova.core.errors import InputError
from emova_train import glm_codec
from emova_train.cli import PROGRAMS, register
from emova_train.pipeline import commands
from emova_train.row import from_program, run_row

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_registers(program: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(PROGRAMS[program][0]).register(parser)
    assert callable(parser.get_default("run"))


def test_help_imports_no_program() -> None:
    code = "import argparse, sys; from emova_train.cli import register; register(argparse.ArgumentParser());"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "stage1", "nothing.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_arguments_reach_the_program() -> None:
    parser = argparse.ArgumentParser()
    register(parser)
    parsed = parser.parse_args(["units", "--set", "question", "--jobs", "1"])
    assert parsed.program == "units" and parsed.rest == ["--set", "question", "--jobs", "1"]


def test_the_row_names_known_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    row = commands("nano", "data/nano", "runs/emova-nano")
    last = ["aloud", "words", "u2s", "prototypes", "assemble"]
    # What a row doesn't need, and the other paper's codec.
    apart = (
        "all",
        "kmeans",
        "average",
        "distil",
        "distil-units",
        "s2u-pretrain",
        "text-to-token",
        "vq",
        "pseudo-labels",
        "flow",
        "glm-codec",
    )
    once = [name for name in PROGRAMS if name not in (*apart, *last)]
    reading = ["aloud", "words", "stage3"]  # the last stage once more makes the model that reads aloud
    assert [line[0] for line in row] == [*once, *reading, *last[2:]]


def test_the_other_codecs_row_names_known_programs_and_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    row = glm_codec.commands("nano")
    assert [line[:2] for line in row] == [
        ["train", name] for name in ("pseudo-labels", "vq", "flow", "flow", "prototypes")
    ]
    assert from_program(row, "flow") == row[2:]
    with pytest.raises(InputError, match="one of pseudo-labels, vq, flow, prototypes"):
        from_program(row, "u2s")
    with pytest.raises(InputError, match="no config vq/huge"):
        glm_codec.commands("huge")


def test_a_row_stops_at_the_first_program_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    row = [["train", "vq", "missing.yaml"], ["train", "--help"]]
    assert run_row(row) == 2 and run_row(row[1:]) == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_argument_is_told_in_one_line(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", program, "--bogus"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("emova: ") and line.endswith(f"; see emova train {program} --help")
