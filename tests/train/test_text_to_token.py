"""A text-to-token model: it learns units alone, resumes to the same bits, trains alike on two processes, and reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emova.core.config import load_config, save_config, shipped_configs
from emova.core.errors import InputError
from emova.model import EmovaConfig, EmovaForConditionalGeneration
from emova.model.building import ModelConfig, ProjectorShape, TextShape, emova_config
from emova.vision.towers import VisionConfig
from emova_data.synthesis.text_to_units import ReadingConfig, TextToTokenModel, unit_name
from emova_train.core.config import RunConfig
from emova_train.core.metrics import read
from emova_train.data.pack_reader import ShardConfig
from emova_train.stages.config import InitConfig
from emova_train.text_to_token.config import TextToTokenConfig, TextToTokenData
from emova_train.text_to_token.program import train
from tests.train.fixtures_killed import killed_at
from tests.train.fixtures_recipe import write_recipe
from tests.train.fixtures_sets import write_sets
from tests.train.test_parallel import run_module

SHIPPED = [name for name in shipped_configs() if name.startswith("text_to_token/")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """Sets, a recipe, a tokenizer, and a tiny LLaMA without a tower."""
    root = tmp_path_factory.mktemp("text-to-token")
    write_sets(root / "sets")
    write_recipe(root / "recipe")
    tiny_tokenizer.save_pretrained(root / "tokenizer")
    text = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=512)
    none = ProjectorShape(kind="none", pooling=1)
    save_config(ModelConfig(text, VisionConfig(kind="none"), none), root / "model.yaml")
    return root


def config(folder: Path, name: str, steps: int = 4) -> TextToTokenConfig:
    run = RunConfig(
        output_dir=str(folder / name), max_steps=steps, batch_size=2, threads=1, log_every=1, save_every=2,
        eval_every=4, precision="fp32", learning_rate=1e-3,
    )  # fmt: skip
    data = TextToTokenData(
        sets={"speech": 1.0}, held_out=["speech"], shards=ShardConfig(str(folder / "sets"), window=2, block=4),
        pack_tokens=200, max_tokens=200,
    )  # fmt: skip
    init = InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer"))
    return TextToTokenConfig(data, run, init, losses_over=4, heard=1, max_units=8)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint-4" / "model.safetensors")


def test_it_learns_units_resumes_to_the_same_bits_and_reads(folder: Path) -> None:
    result = train(config(folder, "whole"))
    assert {"units", "units_accuracy"} <= result.eval_terms.keys()
    # Beside them the end of the turn, which counts as text.
    assert not {"transcript", "answer", "prompt_text", "prompt_units"} & result.eval_terms.keys()

    killed_at(3, lambda: train(config(folder, "broken")))
    train(config(folder, "broken"))
    whole, broken = weights(folder / "whole"), weights(folder / "broken")
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)
    rows = [[row["loss"] for row in read(folder / name / "metrics.jsonl") if row["kind"] == "train"]
            for name in ("whole", "broken")]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 4

    model = str(folder / "whole" / "export")
    texts = ["A small cat.", "It sat on the mat. It slept."]
    reads = TextToTokenModel(model, ReadingConfig(at_once=2))
    together = reads(texts)
    assert together == [reads([each])[0] for each in texts] and all(together)
    assert all(0 <= unit < 4096 for units in together for unit in units)
    assert unit_name(model, "") == EmovaConfig.from_pretrained(model).unit_tokenizer


def test_two_processes_learn_what_one_does(folder: Path) -> None:
    """Of a recipe, whose batches do not depend on who reads them."""
    one = config(folder, "one")
    recipe = TextToTokenData(root=str(folder / "recipe"), pack_tokens=60, max_tokens=200)
    run = replace(one.run, batch_size=1, gradient_accumulation=2, eval_every=4)
    train(replace(one, data=recipe, run=run, heard=0))
    two = replace(one, data=recipe, run=replace(run, output_dir=str(folder / "two"), gradient_accumulation=1), heard=0)
    save_config(two, folder / "two.yaml")
    run_module(["emova_train.text_to_token.program", str(folder / "two.yaml")], 2)
    alone, together = weights(folder / "one"), weights(folder / "two")
    for name, tensor in alone.items():
        assert torch.allclose(tensor, together[name], atol=2e-6), name


def test_data_are_of_one_kind(folder: Path) -> None:
    both = replace(config(folder, "x"), data=TextToTokenData(sets={"speech": 1.0}, root="data/nano"))
    for wrong in (both, replace(both, data=TextToTokenData())):
        with pytest.raises(InputError, match="data: give sets"):
            wrong.stage()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_whole(name: str, tiny_tokenizer) -> None:
    shipped = load_config(TextToTokenConfig, name)
    stage = shipped.stage()
    assert stage.run.output_dir.startswith("runs/") and stage.rates.llm == shipped.run.learning_rate
    assert stage.rates.vision == stage.rates.projector == 0 and stage.weights.units == 1
    shapes = load_config(ModelConfig, shipped.init.model, kind="model")
    with torch.device("meta"):
        model = EmovaForConditionalGeneration(emova_config(shapes, tiny_tokenizer))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert (1200 < millions < 1700) if name.endswith("paper") else millions < 10
