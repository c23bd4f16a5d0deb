"""Laws of checkpoints: a kill at any moment loses nothing, a full disk leaves no checkpoint and one clear line."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.loop import fit
from tests.train.test_engine import Net, Noisy, run_config

STEPS = 50


def write_one(folder: Path, step: int) -> None:
    """A checkpoint of a tiny state, as the trainer writes it."""
    name = f"checkpoint-{step}"
    stage = checkpointing.stage_folder(folder, step)
    (stage / name / "part").mkdir(parents=True)
    for file in ("model.safetensors", "part/optimizer.safetensors"):
        save_file({"step": torch.full((512,), float(step))}, stage / name / file)
    checkpointing.commit(stage / name, folder / name, processes=1)
    checkpointing.prune(folder, 2)


def save_until_killed(folder: Path, first: int, told: int) -> None:
    """In a forked process: write checkpoints one after another and tell of each that is done."""
    try:
        for step in range(first, STEPS + 1):
            write_one(folder, step)
            os.write(told, bytes([step]))
    finally:
        os._exit(0)


def test_kills_at_random_points_of_fifty_saves_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    done = kills = 0
    while done < STEPS:
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            save_until_killed(tmp_path, done + 1, told)
        os.close(told)
        os.read(heard, 1)  # the process is at work
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported = list(os.read(heard, STEPS))
        os.close(heard)
        kills += 1
        newest = checkpointing.latest(tmp_path)
        assert newest is not None
        step = checkpointing.step_of(newest)
        assert step >= max([done + 1, *reported]), "a finished checkpoint was lost"
        for file in ("model.safetensors", "part/optimizer.safetensors"):
            assert load_file(newest / file)["step"].eq(step).all()
        done = step
    assert kills >= 2
    write_one(tmp_path, STEPS + 1)  # what the kills left behind goes with the next save
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{STEPS}", f"checkpoint-{STEPS + 1}"]


def test_a_complete_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    write_one(tmp_path, 3)
    before = (tmp_path / "checkpoint-3" / "model.safetensors").stat().st_mtime_ns
    write_one(tmp_path, 3)
    assert (tmp_path / "checkpoint-3" / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "checkpoint-3" / checkpointing.MARKER).unlink()
    write_one(tmp_path, 3)
    assert checkpointing.facts(tmp_path / "checkpoint-3")["processes"] == 1


def train_on_a_full_disk(folder: Path, told: int) -> None:
    """In a forked process: a run whose second half can write only small files, as on a disk that has just filled."""
    said = "no error"
    try:
        fit(Net(), Noisy(), None, run_config(folder, max_steps=4))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
        fit(Net(), Noisy(), None, run_config(folder, max_steps=8, log_every=8))
    except InputError as error:
        said = str(error)
    finally:
        os.write(told, said.encode())
        os._exit(0)


def test_a_disk_that_fills_leaves_no_checkpoint_and_one_line(tmp_path: Path) -> None:
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        train_on_a_full_disk(tmp_path, told)
    os.close(told)
    os.waitpid(child, 0)
    said = os.read(heard, 10_000).decode()
    os.close(heard)
    assert "checkpoint of step 8 could not be written" in said and "make room" in said and "\n" not in said
    assert checkpointing.latest(tmp_path) == tmp_path / "checkpoint-4" and not list(tmp_path.glob(".stage*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("words of a later version"),
    ],
)
def test_what_torch_says_of_a_full_disk_becomes_one_line(tmp_path: Path, error: Exception) -> None:
    """By what the disk says, whatever the words are."""
    stage = checkpointing.stage_folder(tmp_path, 5)
    (stage / "optimizer.pt").write_bytes(bytes(2000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
    try:
        with (
            pytest.raises(InputError, match="checkpoint of step 5 could not be written"),
            checkpointing.clear_errors(tmp_path, 5),
        ):
            raise error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    checkpointing.stage_folder(tmp_path, 5)
    with pytest.raises(RuntimeError, match="a bug"), checkpointing.clear_errors(tmp_path, 5):
        raise RuntimeError("a bug")
