"""The whole row on a slice of data: from nothing to a checkpoint that answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emova_train.pipeline import commands, smoke_commands

ROOT = Path(__file__).parents[2]


def test_the_smoke_profile_runs_the_programs_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    full = list(dict.fromkeys(line[0] for line in commands("nano", "data/nano", "runs/emova-nano")))
    row = smoke_commands("nano", "data/smoke", "runs/smoke", "runs/smoke/emova", 3, 2)
    assert [next(word for word in line if word in full) for line in row] == [
        name for name in full if name not in ("vision", "aloud")
    ]
    stages = [line for line in row if line[0] == "--launch"]
    assert len(stages) == 4 and all(
        "run.parallel.strategy=zero2" in line and "run.max_steps=3" in line for line in stages
    )


def test_what_the_smoke_profile_overrides_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from emova.core.config import load_config
    from emova_train.s2u.program import S2UTrainConfig
    from emova_train.stages.config import StageConfig
    from emova_train.u2s.config import U2SRecipe

    monkeypatch.chdir(ROOT)
    configs: dict[str, type] = {"s2u": S2UTrainConfig, "u2s": U2SRecipe, "prototypes": U2SRecipe}
    configs |= {f"stage{number}": StageConfig for number in range(4)}
    found: dict = {}
    for line in smoke_commands("nano", "data/smoke", "runs/smoke", "runs/smoke/emova", 3, 2):
        program = next(word for word in line if word in {*configs, "tokenizer", "units", "words", "assemble"})
        if program in configs:
            overrides = [word for word in line if "=" in word]
            found[program] = load_config(configs[program], line[line.index(program) + 1], overrides)
    assert found.keys() == configs.keys()
    assert [source.pattern for source in found["s2u"].train] == ["data/smoke/speech/s2u-train-*.tar"]
    assert not found["s2u"].whisper and found["u2s"].data.tokenizer == "runs/smoke/s2u/export"
    assert found["stage3"].init.checkpoint == "runs/smoke/stage2/export"
    assert found["stage0"].init.tokenizer == "runs/smoke/tokenizer" and found["stage1"].init.vision == ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_everything_trains_on_two_processes_and_answers(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def emova(*words: str) -> str:
        command = [sys.executable, "-m", "emova.cli.main", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    emova("train", "all", "--profile", "smoke", "--steps", "2", "--data", str(tmp_path / "smoke"), "--runs", str(runs))
    for number in range(4):
        assert (runs / f"stage{number}" / "checkpoint-2" / "complete.json").is_file()
    answer = tmp_path / "answer.wav"
    emova("chat", "--model", str(runs / "emova"), "--text", "Hello, how are you?", "--out", str(answer))
    assert answer.stat().st_size > 44
