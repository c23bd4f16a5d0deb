"""Laws of training on several processes, on two over gloo: nothing hangs, nothing is lost, the numbers agree."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from emova.core.config import save_config
from emova.model.building import ImageShape, ModelConfig, ProjectorShape, TextShape
from emova_train.core import checkpointing
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.core.metrics import read
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.data import DataConfig
from emova_train.stages.lora import LoraConfig
from emova_train.stages.validation import SampleConfig
from tests.train.fixtures_recipe import write_recipe

ROOT = Path(__file__).parents[2]
SECONDS = 500
DEEPSPEED_FILE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Even the smallest weight is split, so that every module has to gather."""


def run_together(jobs: list[dict[str, Any]], folder: Path, processes: int) -> None:
    """Start ``processes`` workers on one list of jobs and wait for them."""
    path = folder / f"jobs-{processes}.json"
    path.write_text(json.dumps(jobs))
    run_module(["tests.train.parallel_worker", str(path)], processes)


def run_module(arguments: list[str], processes: int, folder: Path = ROOT) -> None:
    """Run a module in ``processes`` processes that find each other, from ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [worker.communicate(timeout=SECONDS)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(text[-3000:] for text in said)


def jobs_of_two(folder: Path) -> list[dict[str, Any]]:
    deepspeed = folder / "deepspeed.json"
    deepspeed.write_text(json.dumps(DEEPSPEED_FILE))

    def job(name: str, strategy: str, **changes: Any) -> dict[str, Any]:
        parallel = {"strategy": strategy, **({"deepspeed": str(deepspeed)} if strategy == "zero3" else {})}
        values = dict(
            output_dir=str(folder / name), max_steps=4, batch_size=1, log_every=1, save_every=2, eval_every=9,
            precision="fp32", learning_rate=1e-2, seed=1, parallel=parallel,
        )  # fmt: skip
        return {**values, **changes}

    jobs = []
    for strategy in ("ddp", "zero2"):
        jobs += [
            job(f"{strategy}-whole", strategy, noise=1),
            job(f"{strategy}-cut", strategy, noise=1, stop_at=3),
            job(f"{strategy}-cut", strategy, noise=1),
        ]
    return [
        *jobs,
        job("ddp", "ddp"),
        job("zero2", "zero2"),
        job("zero3", "zero3"),
        job("split", "zero3", split=1, max_steps=2, precision="bf16"),
        *[
            job(f"{strategy}-poisoned", strategy, max_steps=3, poison=2)
            for strategy in ("ddp", "zero2", "zero3", "fsdp")
        ],
        job("fsdp", "fsdp", stop_at=3),
        job("fsdp", "fsdp"),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs: first those of two processes, then those that go on with one."""
    folder = tmp_path_factory.mktemp("parallel")
    jobs = jobs_of_two(folder)
    run_together(jobs, folder, 2)
    alone = [{**each, "global_batch_size": 2} for each in jobs if Path(each["output_dir"]).name in ("zero2", "zero3")]
    for each in alone:
        source = Path(each["output_dir"])
        each["output_dir"] = f"{source}-on-one"
        shutil.copytree(source, each["output_dir"])
        shutil.rmtree(Path(each["output_dir"]) / "checkpoint-4")
    ddp = next(each for each in jobs if each["output_dir"] == str(folder / "ddp"))
    run_together([*alone, {**ddp, "output_dir": str(folder / "one"), "gradient_accumulation": 2}], folder, 1)
    return folder


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read(folder / "metrics.jsonl") if row["kind"] == "train"}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_resumed_equals_uninterrupted_on_two_processes(runs: Path, strategy: str) -> None:
    whole, cut = losses(runs / f"{strategy}-whole"), losses(runs / f"{strategy}-cut")
    assert sorted(whole) == [1, 2, 3, 4] and whole == cut
    first, second = (load_file(runs / f"{strategy}-{name}" / "checkpoint-4" / "model.safetensors")
                     for name in ("whole", "cut"))  # fmt: skip
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_a_signal_to_one_process_stops_both(runs: Path) -> None:
    facts = checkpointing.facts(runs / "ddp-cut" / "checkpoint-3")
    assert facts["processes"] == 2 and facts["strategy"] == "ddp"


def test_two_processes_train_as_one_with_twice_the_batch(runs: Path) -> None:
    together, alone = losses(runs / "ddp"), losses(runs / "one")
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp"])
def test_a_spread_state_trains_as_a_whole_one(runs: Path, strategy: str) -> None:
    assert losses(runs / strategy) == pytest.approx(losses(runs / "ddp"), rel=1e-4)


def test_nothing_hangs_where_one_has_no_picture_and_the_other_no_speech(runs: Path) -> None:
    rows = [row for row in read(runs / "split" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(min(row[name] for name in ("loss", "text", "units", "ctc")) > 0 for row in rows)
    assert all(row["grad_norm"] > 0 and row["skipped"] == 0 for row in rows)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp"])
def test_a_step_that_one_process_spoils_is_skipped_by_all(runs: Path, strategy: str) -> None:
    rows = [row for row in read(runs / f"{strategy}-poisoned" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["skipped"] for row in rows] == [0, 1, 1] and rows[1]["loss"] is None and rows[2]["loss"] > 0
    weights = load_file(runs / f"{strategy}-poisoned" / "checkpoint-3" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_run_of_two_goes_on_with_one(runs: Path, strategy: str) -> None:
    went_on = runs / f"{strategy}-on-one"
    assert losses(went_on) == pytest.approx(losses(runs / strategy), rel=1e-4)
    assert checkpointing.facts(went_on / "checkpoint-4")["processes"] == 1


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp"])
def test_a_checkpoint_has_the_whole_weights(runs: Path, strategy: str) -> None:
    tied = {"model.lm_head.weight": "model.model.language_model.embed_tokens.weight"}  # either name may be kept
    whole, gathered = (
        {
            tied.get(name, name): tensor
            for name, tensor in load_file(runs / each / "checkpoint-4" / "model.safetensors").items()
        }
        for each in ("ddp", strategy)
    )
    assert whole.keys() == gathered.keys()
    for name, tensor in whole.items():
        assert tensor.shape == gathered[name].shape and tensor.allclose(gathered[name], atol=1e-3), name


def test_stages_run_on_split_weights(tmp_path: Path, tiny_tokenizer, tiny_parts) -> None:
    """Stage after stage under ZeRO-3: the second reads the first's export already split."""
    write_recipe(tmp_path / "data")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    text = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=1024)
    shapes = ModelConfig(text, tiny_parts[0], ProjectorShape(width=16, depth=1), ImageShape())
    save_config(shapes, tmp_path / "model.yaml")
    (tmp_path / "deepspeed.json").write_text(json.dumps(DEEPSPEED_FILE))
    run = RunConfig(
        output_dir=str(tmp_path / "one"), max_steps=1, batch_size=1, threads=1, log_every=1, save_every=1, eval_every=1,
        warmup_ratio=0.0, precision="bf16",
        parallel=ParallelConfig(strategy="zero3", deepspeed=str(tmp_path / "deepspeed.json")),
    )  # fmt: skip
    one = StageConfig(
        run=run,
        init=InitConfig(model=str(tmp_path / "model.yaml"), tokenizer=str(tmp_path / "tokenizer")),
        rates=RatesConfig(llm=1e-2, projector=1e-2),
        data=DataConfig(root=str(tmp_path / "data"), pack_tokens=100, max_tokens=400, mixture={"caption": 1, "asr": 1}),
        samples=SampleConfig(answers=1, spoken=0, losses_over=1, max_tokens=4),
        allow_random=True,
    )
    two = replace(
        one,
        run=replace(run, output_dir=str(tmp_path / "two")),
        init=InitConfig(checkpoint=str(tmp_path / "one" / "export")),
        lora=LoraConfig(rank=2),
    )
    for name, config in (("one", one), ("two", two)):
        save_config(config, tmp_path / f"{name}.yaml")
        run_module(["emova_train.stages.program", str(tmp_path / f"{name}.yaml")], 2)
    first, second = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    changed = {name for name, tensor in first.items() if not tensor.float().allclose(second[name].float(), atol=1e-4)}
    assert any("q_proj" in name for name in changed) and not any("vision_tower" in name for name in changed)
