"""What a stage would do is known before it is started, and what would stop it stops its launch files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emova.cli.main import main
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.distributed.world import World, resolved
from emova_train.planning.dry_run import Machine, Plan, plan, report
from emova_train.planning.memory import state
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.origins import FILE, RANDOM, origins
from emova_train.stages.program import train
from emova_train.stages.start import build
from tests.train.fixtures_sets import write_sets
from tests.train.test_conversations import on_sets
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)

SIZES = ("1", "2", "3")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


def test_a_plan_says_what_a_run_then_does(folder: Path, sets: Path) -> None:  # noqa: F811
    config = on_sets(folder, sets, "planned", parallel=ParallelConfig(strategy="ddp"))
    found = plan(config, Machine(1))
    result = train(config)
    assert found.problems == () and found.run.max_steps == result.steps == 5
    assert found.conversations == 16 and found.epochs == 1.0
    assert [(each.name, each.conversations, each.counted) for each in found.amounts] == [
        ("pictures", 40, True), ("text", 40, True),
    ]  # fmt: skip
    model, _ = build(config)
    assert sum(part.total for part in found.parts) == sum(each.numel() for each in model.parameters())
    rows = [json.loads(line) for line in (folder / "planned" / "metrics.jsonl").read_text().splitlines()]
    seen = [row["tokens_per_s"] / row["steps_per_s"] for row in rows if row["kind"] == "train"]
    assert found.tokens == pytest.approx(sum(seen), rel=0.1)  # of all; the plan has rendered some
    lines = "\n".join(report(found, "stage2", "mine.yaml"))
    assert (
        "16 conversations a step = 1 processes x 4 a pass x 4 passes" in lines and "80 conversations an epoch" in lines
    )


def test_an_uncounted_batch_is_told_too(folder: Path) -> None:  # noqa: F811
    base = stage(folder, "packs", rates=RatesConfig(llm=1e-3))
    found = plan(replace(base, data=replace(base.data, mixture={"talk_text": 1})), Machine(3))
    assert found.epochs == 0 and found.problems == ()
    assert "1 packs of 300 tokens a pass x 1 passes x 3 processes" in "\n".join(report(found, "stage0", "x"))


def test_a_frozen_part_is_not_left_at_random(folder: Path, sets: Path) -> None:  # noqa: F811
    config = replace(on_sets(folder, sets, "frozen"), rates=RatesConfig(projector=1e-3), allow_random=False)
    found = plan(config, Machine(1))
    assert [line.split(":")[0] for line in found.problems] == ["language model", "vision tower"]
    with pytest.raises(InputError, match="language model: is frozen .*weights are random; .* allow_random=true"):
        train(config)
    half = replace(config, rates=RatesConfig(projector=1e-3, llm=1e-3, vision=1e-4, vision_share=0.5))
    assert "is partly frozen" in plan(half, Machine(1)).problems[0]
    assert not plan(replace(config, allow_random=True), Machine(1)).problems
    text = replace(config, rates=RatesConfig(llm=1e-3), data=replace(config.data, sets={"text": 1.0}))
    assert not plan(text, Machine(1)).problems  # nothing is seen, so the tower does nothing


def test_an_export_remembers_what_no_stage_has_trained(folder: Path, sets: Path) -> None:  # noqa: F811
    first = replace(on_sets(folder, sets, "first", max_steps=1, epochs=0.0), allow_random=False)
    train(replace(first, data=replace(first.data, sets={"text": 1.0})))
    export = folder / "first" / "export"
    assert json.loads((export / FILE).read_text())["vision"] == RANDOM
    second = replace(first, init=InitConfig(checkpoint=str(export)), run=replace(first.run, output_dir="elsewhere"))
    assert origins(second) == {"llm": str(export), "projector": str(export), "vision": RANDOM}
    with pytest.raises(InputError, match="vision tower: is frozen"):
        train(second)
    (export / FILE).unlink()  # an export of an earlier version says nothing
    assert RANDOM not in origins(second).values()


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_stages_on_128_processes(size: str) -> None:
    """Table 2: batches of 256, 256 and 128 conversations, about 558K and 7.4M samples."""
    config = load_config(StageConfig, f"sets/paper/stage{size}")
    found = plan(config, Machine(128))
    assert found.conversations == found.run.global_batch_size == {"1": 256, "2": 256, "3": 128}[size]
    assert found.run.gradient_accumulation == 1 and found.epochs == pytest.approx(1.0, abs=0.01)
    trained = [part.name for part in found.parts if part.trained]
    assert trained == (["projector"] if size == "1" else ["language model", "projector", "vision tower"])
    amount = sum(each.conversations for each in found.amounts)
    assert amount == pytest.approx({"1": 558e3, "2": 7.4e6, "3": 15.5e6}[size], rel=0.02)
    assert 0 < found.held.total < 80 * 2**30 and found.seconds > 3600
    assert any("data/sets" in line for line in found.problems)  # which are not here


def test_a_global_batch_divides_among_any_fitting_number() -> None:
    run = RunConfig(global_batch_size=256, batch_size=4, precision="fp32")
    shares = {size: resolved(run, World(0, size)) for size in (1, 8, 32, 64, 128, 256)}
    assert {size: (each.batch_size, each.gradient_accumulation) for size, each in shares.items()} == {
        1: (4, 64), 8: (4, 8), 32: (4, 2), 64: (4, 1), 128: (2, 1), 256: (1, 1),
    }  # fmt: skip
    assert resolved(replace(run, batch_size=3), World(0, 2)).batch_size == 2
    for size in (3, 512):
        with pytest.raises(InputError, match="does not divide it; give .* or another number of processes"):
            resolved(run, World(0, size))


def test_memory_falls_as_more_is_split() -> None:
    def held(strategy: str, processes: int = 8, **parallel: Any) -> float:
        run = RunConfig(precision="bf16", parallel=ParallelConfig(strategy=strategy, **parallel))
        return state(run, 8 * 10**9, 8 * 10**9, processes, 0.0).total

    assert held("ddp") == held("ddp", 64) == 16 * 8e9
    assert held("zero1") > held("zero2") > held("zero2", 64) > held("zero3", 64) > held("zero3", 64, offload="all")


def launched(tmp_path: Path, capsys, *arguments: str) -> tuple[int, str, list[str]]:
    code = main(["train", "--launch", "slurm", "--nodes", "2", "--launch-dir", str(tmp_path / "launch"), *arguments])
    printed = capsys.readouterr()
    return code, printed.err, sorted(path.name for path in (tmp_path / "launch").glob("*"))


def test_what_stops_a_stage_stops_its_launch_files(folder: Path, sets: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    path = tmp_path / "mine.yaml"
    save_config(on_sets(folder, sets, "launched"), path)
    for wrong, words in {
        "run.max_step=3": "max_step",
        "run.global_batch_size=24": "does not divide it",
        "data.sets.txet=1.0": "did you mean text?",
        "init.tokenizer=nowhere": "no tokenizer there",
        "init.internvit=./nowhere": "init.internvit=./nowhere: no such file",
        "allow_random=false": "is frozen",
    }.items():
        code, said, written = launched(tmp_path, capsys, "stage2", str(path), wrong)
        assert code == 2 and words in said.splitlines()[-1] and written == [], wrong
    assert launched(tmp_path, capsys, "stage2", str(tmp_path / "other.yaml"))[0] == 2
    assert launched(tmp_path, capsys, "stage2")[0] == 2
    code, _, written = launched(tmp_path, capsys, "stage2", str(path))
    assert code == 0 and written == ["stage2.sbatch"]


def test_data_may_lie_elsewhere(folder: Path, sets: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    path = tmp_path / "mine.yaml"
    config = on_sets(folder, sets, "elsewhere")
    save_config(replace(config, init=replace(config.init, tokenizer="nowhere")), path)
    assert launched(tmp_path, capsys, "--elsewhere", "stage2", str(path))[::2] == (0, ["stage2.sbatch"])


def test_the_command_line_of_a_dry_run(folder: Path, sets: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    path = tmp_path / "mine.yaml"
    save_config(on_sets(folder, sets, "dry"), path)
    for arguments in (
        ["--dry-run", "--processes", "4", "stage2", str(path)],
        ["stage2", str(path), "--dry-run", "--processes", "4", "run.epochs=2", "--gpu", "H100", "--mfu", "0.5"],
    ):
        assert main(["train", *arguments]) == 0
        said = capsys.readouterr().out
        assert "= 4 processes x 4 a pass x 1 passes" in said and f"from {RANDOM}" in said
    assert "2.00 epochs" in said and "H100 at 50%" in said and not (folder / "dry").exists()
    assert main(["train", "s2u", "nano", "--dry-run"]) == 2
    assert main(["train", "stage2", str(path), "--dry-run", "--gpu", "abacus"]) == 2
    assert "abacus: unknown" in capsys.readouterr().err


def test_plans_are_of_any_shipped_stage() -> None:
    nothing = plan(load_config(StageConfig, "stages/own"), Machine(1))
    assert nothing.problems[0].startswith("data: names neither sets nor tasks")
    for name in ("stages/nano/stage3", "stages/mini/stage2", "stages/paper/stage3_lora"):
        found: Plan = plan(load_config(StageConfig, name), Machine(8))
        assert found.tokens > 0 and found.held.total > 0


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("stage1", 24), ("stage2", 80), ("stage2_lora", 24), ("stage3", 80), ("stage3_lora", 24)]
)
def test_three_billions_fit_one_gpu(name: str, gigabytes: int) -> None:
    """Adapters on 24 GB, everything on 80 GB, with a tenth left for what the estimate leaves out."""
    found = plan(load_config(StageConfig, f"real/3b/{name}"), Machine(1))
    total = sum(part.total for part in found.parts)
    assert 3.3e9 < total < 3.8e9 and found.held.total < 0.9 * gigabytes * 1e9
    begun = {part.name: part.origin for part in found.parts}
    if name == "stage1":
        assert begun["vision tower"].startswith("vit_intern300m") and "Llama-3.2-3B" in begun["language model"]
    assert not [line for line in found.problems if "random" in line]
