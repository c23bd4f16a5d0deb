"""Numbers arrive at the real packages, offline; each runs in a process of its own, as it keeps a global run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_train.core.reporting import open_reporters

ROOT = Path(__file__).parents[2]
# Stopped behind step 2 and resumed from step 1.
RUN = """
import sys
from emova_train.core.reporting import open_reporters
for steps in ((1, 2), (2, 3)):
    [reporter] = open_reporters([sys.argv[1]], sys.argv[2])
    for step in steps:
        reporter.write("train", step, {"loss": 1.0 / step, "grad_norm": float("nan")})
    reporter.write("eval", steps[-1], {"loss": 0.25})
    reporter.close()
"""
READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = {name: SQLiteStorage.get_logs("emova", name) for name in SQLiteStorage.get_runs("emova")}
print(json.dumps(runs, default=str))
"""


def python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_trackio_has_one_run_with_every_step(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    settings = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    python(RUN, "trackio", str(tmp_path / "second" / "stage2"), **settings)
    runs = json.loads(python(READ_TRACKIO, **settings).splitlines()[-1])
    assert list(runs) == ["second-stage2"]
    rows = runs["second-stage2"]
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(1, 1.0), (2, 0.5), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [row["step"] for row in rows if "eval/loss" in row] == [2, 3]
    assert not any("train/grad_norm" in row for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_wandb_writes_its_offline_runs_beside_the_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "second" / "stage2"
    folder.mkdir(parents=True)
    said = python(RUN, "wandb", str(folder), WANDB_MODE="offline", WANDB_SILENT="true")
    assert "Traceback" not in said
    files = sorted(folder.glob("wandb/offline-run-*/run-second-stage2.wandb"))
    assert files and sum(file.read_bytes().count(b"train/loss") for file in files) >= 4
    assert not any(b"train/grad_norm" in file.read_bytes() for file in files)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=f"report_to: {name} is not installed; run pip install {name}"):
            open_reporters([name], tmp_path)
