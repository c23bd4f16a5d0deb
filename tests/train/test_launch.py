"""Launch files say what was asked for; a DeepSpeed configuration that contradicts the run is refused."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emova.cli.main import main
from emova.core.errors import InputError
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.distributed import world as parallel
from emova_train.distributed.deepspeed import deepspeed_config
from emova_train.distributed.world import World, resolved
from emova_train.launch import LaunchPlan, local_command, write

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["configs/stages/paper/stage2.yaml", "run.seed=1", "data.root=/a b"]


@pytest.mark.parametrize("launcher", ["slurm", "torchrun", "deepspeed"])
@pytest.mark.parametrize("nodes", [1, 16])
def test_launch_files_are_whole(tmp_path: Path, launcher: str, nodes: int) -> None:
    plan = LaunchPlan(launcher, "stage2", ARGUMENTS, nodes, 8, tmp_path)
    paths = write(plan)
    text = paths[0].read_text()
    assert shlex.join(["emova_train.stages.program", *ARGUMENTS]) in text
    subprocess.run(["bash", "-n", paths[0]], check=True)
    if launcher == "slurm":
        assert f"#SBATCH --nodes={nodes}\n" in text and "#SBATCH --signal=TERM@" in text
    elif launcher == "torchrun":
        assert ("--standalone" in text) == (nodes == 1)
    else:
        assert len(paths[1].read_text().splitlines()) == nodes


OPTIONS = ("time=2-00:00:00", "account=physics", "mem=0", "nodes=4", "exclusive=user", "comment=two words")


def test_options_go_before_what_is_written_otherwise(tmp_path: Path) -> None:
    setup = ("module load cuda", "source .venv/bin/activate")
    text = write(LaunchPlan("slurm", "stage2", ARGUMENTS, 16, 8, tmp_path, OPTIONS, setup))[0].read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for option in OPTIONS:
        assert f"#SBATCH --{option}" in directives
    names = [line.partition("=")[0] for line in directives]
    assert len(names) == len(set(names)) and "#SBATCH --requeue" in directives
    assert text.index("module load cuda\nsource .venv/bin/activate\n") < text.index("srun")
    for launcher, option in (("torchrun", "max-restarts=0"), ("deepspeed", "master_port=1234")):
        plan = LaunchPlan(launcher, "stage2", ARGUMENTS, 2, 8, tmp_path, (option,), setup)
        path = write(plan)[0]
        subprocess.run(["bash", "-n", path], check=True)
        assert f"--{option}" in path.read_text() and "module load cuda" in path.read_text()
    for wrong in ("--time=1", "", "a b=1", "x=1\ny"):
        with pytest.raises(InputError, match="--option"):
            LaunchPlan("slurm", "stage2", ARGUMENTS, 1, 8, tmp_path, (wrong,))


def test_local_commands_start_the_stages() -> None:
    for launcher in ("torchrun", "deepspeed"):
        command = local_command(LaunchPlan(launcher, "stage2", ARGUMENTS, 1, 2))
        assert command[-4:] == ["emova_train.stages.program", *ARGUMENTS] and any(
            word.endswith("=2") for word in command
        )


def test_the_command_line_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "files")
    assert (
        main(
            ["train", "--launch", "slurm", "--nodes", "16", "--launch-dir", folder, "--elsewhere", "stage2", *ARGUMENTS]
        )
        == 0
    )
    assert "sbatch" in capsys.readouterr().out and (tmp_path / "files" / "stage2.sbatch").is_file()
    assert main(["train", "--launch", "torchrun", "--nodes", "0", "stage2", "x.yaml"]) == 2
    assert main(["train", "--launch", "torchrun", "vision", "x.yaml"]) == 2
    assert "cannot be spread" in capsys.readouterr().err


@pytest.mark.parametrize(("program", "config"), [("s2u", "paper"), ("u2s", "paper-pretrain"), ("u2s", "paper-style")])
def test_codecs_are_launched_too(program: str, config: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "files"
    words = ["train", "--launch", "torchrun", "--processes", "2", "--launch-dir", str(folder), "--only-write", program]
    assert main([*words, config, "run.tempo=1"]) == 2
    assert "run.tempo" in capsys.readouterr().err and not folder.exists()
    assert main([*words, config]) == 0
    assert f"-m emova_train.{program}.program {config}" in (folder / f"{program}.sh").read_text()


RUN = RunConfig(
    batch_size=2, gradient_accumulation=4, max_grad_norm=1.0, precision="bf16",
    parallel=ParallelConfig(strategy="zero3"),
)  # fmt: skip


def with_file(tmp_path: Path, values: Any) -> RunConfig:
    path = tmp_path / "deepspeed.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return replace(RUN, parallel=replace(RUN.parallel, deepspeed=str(path)))


def test_deepspeed_is_told_what_the_run_says(tmp_path: Path) -> None:
    made = deepspeed_config(RUN, 8)
    assert made["train_batch_size"] == 64 and made["bf16"] == {"enabled": True} and made["gradient_clipping"] == 1.0
    assert made["zero_optimization"]["stage"] == 3
    run = with_file(tmp_path, {"zero_optimization": {"overlap_comm": False}, "gradient_clipping": "auto"})
    assert deepspeed_config(run, 8)["zero_optimization"] == {**made["zero_optimization"], "overlap_comm": False}
    assert deepspeed_config(run, 8, load_universal=True)["checkpoint"] == {"load_universal": True}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"train_micro_batch_size_per_gpu": 1}, "train_micro_batch_size_per_gpu is 1, but 2"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps"),
        ({"train_batch_size": 63}, "train_batch_size is 63, but 64"),
        ({"gradient_clipping": 0.5}, "run.max_grad_norm"),
        ({"bf16": {"enabled": False}}, "run.precision=bf16"),
        ({"fp16": {"enabled": True}}, "fp16.enabled"),
        ({"zero_optimization": {"stage": 2}}, "parallel.strategy=zero3"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}, "optimizer is given"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is given"),
        ("{", "not valid JSON"),
        ([1], "not a DeepSpeed configuration"),
    ],
)
def test_a_contradiction_is_refused(tmp_path: Path, values: Any, named: str) -> None:
    with pytest.raises(InputError, match="deepspeed.json") as refused:
        deepspeed_config(with_file(tmp_path, values), 8)
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "deepspeed").iterdir()), ids=lambda path: path.name)
def test_shipped_deepspeed_configs_fit_a_run(path: Path) -> None:
    offload = "all" if "offload" in path.stem else ""
    own = ParallelConfig(strategy=path.stem.partition("_")[0], offload=offload, deepspeed=str(path))
    made = deepspeed_config(replace(RUN, parallel=own), 8)
    assert made["zero_optimization"]["stage"] == own.zero_stage and made["train_batch_size"] == 64


def test_a_global_batch_says_the_accumulation() -> None:
    run = replace(RUN, global_batch_size=256)
    assert resolved(run, World(0, 8)).gradient_accumulation == 16
    assert resolved(run, World(0, 128)).gradient_accumulation == 1
    with pytest.raises(InputError, match="does not divide"):
        resolved(run, World(0, 3))


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "zero4"},
        {"offload": "disk"},
        {"strategy": "zero2", "offload": "all"},
        {"offload": "optimizer"},
        {"deepspeed": "x.json"},
        {"step_timeout": 0},
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="parallel"):
        ParallelConfig(**values)


def test_alone_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = parallel.start(ParallelConfig())
    assert world.main and world.size == 1 and world.gather("x") == ["x"] and world.any(True) and world.sum(2.0) == 2.0
