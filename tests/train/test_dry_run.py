"""What a stage would do is known before it is started, and what would stop it stops its launch files."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emova.cli.main import main
from emova.core.config import load_config, save_config, shipped_configs
from emova.core.errors import InputError
from emova_data.records.records import Draft, Media, Part, Record, message, reject, text
from emova_data.records.selection import selection_of
from emova_data.sources.convert import COPY, SKIPPED, ConvertConfig, build_one, convert
from emova_data.sources.registry import entry_of
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
ENTRY = {"title": "x", "stages": {}, "modality": [], "languages": [], "licence": "", "size": "", "citation": ""}


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
    """Table 2: batches of 256, 256 and 128 conversations, about 558K, 7.4M and 4.4M samples, weighted alike."""
    config = load_config(StageConfig, f"sets/paper/stage{size}")
    found = plan(config, Machine(128))
    assert found.conversations == found.run.global_batch_size == {"1": 256, "2": 256, "3": 128}[size]
    assert found.run.gradient_accumulation == 1 and found.epochs == pytest.approx(1.0, abs=0.01)
    trained = [part.name for part in found.parts if part.trained]
    assert trained == (["projector"] if size == "1" else ["language model", "projector", "vision tower"])
    amount = sum(each.conversations for each in found.amounts)
    assert amount == pytest.approx({"1": 558e3, "2": 7.4e6, "3": 4.4e6}[size], rel=0.02)
    told = "\n".join(report(found, f"stage{size}", "sets"))
    if size == "2":  # both directions of a speech pair are in its two passes
        speech = {name: passes for name, passes in config.data.sets.items() if name.endswith("-units")}
        assert set(speech.values()) == {2.0} and config.data.shards.records.both_directions
    if size == "3":
        assert "4,400,097 conversations an epoch" in told and "before selection, 0.2258 passes over 7,000,000" in told
    assert 0 < found.held.total < 80 * 2**30 and found.seconds > 3600
    assert any("data/sets" in line for line in found.problems)  # which are not here


@pytest.mark.parametrize(
    "name", [name for name in shipped_configs() if re.match(r"stages/paper/|sets/paper/|real/", name)]
)
def test_what_is_learnt_counts_alike_at_the_papers_size(name: str) -> None:
    weights = load_config(StageConfig, name).weights
    learnt = {kind: getattr(weights, kind) for kind in ("text", "transcript", "answer", "style", "units", "skeleton")}
    assert set(learnt.values()) == {1.0} and weights.prompt_units == weights.prompt_text == 0


def test_a_plan_tells_what_selection_and_copies_took(folder: Path, sets: Path, tmp_path: Path) -> None:  # noqa: F811
    """`select` is counted apart from damage, goes on where it stopped, and the dry run says what it took."""
    quality = selection_of({"min_answer_words": 1, "max_repeated": 0.5, "min_side": 20, "refusals": ["I cannot"]}, "x")

    def said(number: int, answer: str, *media: Media) -> Draft:
        pictures: list[Part] = [{"type": "image", "image": each.member} for each in media]
        asked = message("user", *pictures, text(f"What is number {number}?"))
        return Draft(str(number), lambda: Record(str(number), [asked, message("assistant", text(answer))], media))

    small = io.BytesIO()
    Image.new("RGB", (8, 40)).save(small, "PNG")
    drafts = [said(number, f"It is ball {number}.") for number in range(6)]
    drafts += [
        said(6, "Round and round it goes, " * 9), said(7, "?"), said(8, "I cannot help."),
        said(9, "A line.", Media("0.png", small.getvalue())), drafts[0], said(10, "四个红球。"),
    ]  # fmt: skip
    config = ConvertConfig(per_shard=2, max_skip_rate=0.01, min_tried=1, deduplicate=True)
    whole = convert(drafts, tmp_path / "whole", "mine", suffix=".jsonl", config=config, select=quality)
    assert whole.records == 7 and whole.skipped == {
        "selection: an answer that repeats itself": 1, "selection: a short answer": 1, "selection: a refusal": 1,
        "selection: a small picture": 1, COPY: 1,
    }  # fmt: skip
    stop = Draft("stop", reject("never built"))

    def stopping(todo):
        for draft in todo:
            if draft is stop:
                raise KeyError(draft.id)
            yield build_one(draft)

    with pytest.raises(KeyError):  # stopped in the middle
        convert([*drafts[:5], stop], tmp_path / "mine", "mine", suffix=".jsonl", config=config, select=quality,
                build=stopping)  # fmt: skip
    again = convert(drafts, tmp_path / "mine", "mine", suffix=".jsonl", config=config, select=quality)
    assert again == whole
    assert (tmp_path / "mine" / SKIPPED).read_text() == (tmp_path / "whole" / SKIPPED).read_text()

    base = on_sets(folder, sets, "selected", epochs=1.0)
    data = replace(base.data, sets={"mine": 0.5}, shards=replace(base.data.shards, root=str(tmp_path)))
    found = plan(replace(base, data=data), Machine(1))
    assert [(each.conversations, each.copies, each.selected) for each in found.amounts] == [(3.5, 1, 4)]
    told = "counted here, 0.5 passes over 7; its conversion left out 1 copies and 4 by selection"
    assert told in "\n".join(report(found, "stage3", "mine.yaml"))
    for wrong, why in (
        ({"min_sid": 3}, "select.min_sid is unknown"), ({"min_side": -1}, "select.min_side is a number of 0 or more"),
        ({"refusals": "no"}, "select.refusals is a list"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            entry_of({"name": "x", "select": wrong, **ENTRY}, "mine.yaml")


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
    shapes = tmp_path / "shapes.yaml"
    for wrong in ("text: {pretrained: runs/nowhere}", "vision_pretrained: ./nowhere", "projector_pretrained: nowhere"):
        shapes.write_text(f"base: {folder / 'model.yaml'}\n{wrong}\n")
        code, said, written = launched(tmp_path, capsys, "stage2", str(path), f"init.model={shapes}")
        assert code == 2 and "nowhere: no such file" in said.splitlines()[-1] and written == [], wrong
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
