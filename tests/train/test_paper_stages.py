"""Stages at the paper's size: every config builds, has Table 2's numbers, and runs a step at a tiny size."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration
from emova.model.building import ImageShape, ModelConfig, ProjectorShape, TextShape, emova_config
from emova_train.core.config import RunConfig
from emova_train.data.packing import collate
from emova_train.data.recipe import read_recipe
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.lora import LoraConfig, add_adapters, merge_adapters
from emova_train.stages.losses.ctc import CTC, CTCConfig
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.program import train
from emova_train.stages.start import build, freeze, use_liger
from emova_train.stages.tasks import ConversationConfig, Conversations
from emova_train.stages.validation import SampleConfig
from tests.train.fixtures_recipe import write_recipe

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for size in ("paper", "mini") for path in (ROOT / "configs" / "stages" / size).glob("*.yaml"))
MODELS = {"paper": "8b", "mini": "mini"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer, tiny_parts) -> Path:
    """Data, tokenizer and model shapes of a tiny run."""
    root = tmp_path_factory.mktemp("paper")
    write_recipe(root / "data")
    tiny_tokenizer.save_pretrained(root / "tokenizer")
    text = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=1024)
    save_config(ModelConfig(text, tiny_parts[0], ProjectorShape(width=16, depth=1), ImageShape()), root / "model.yaml")
    return root


def tiny(config: StageConfig, folder: Path, name: str) -> StageConfig:
    """The config with the tiny model, data and one step, everything else as it is."""
    run = replace(
        config.run, output_dir=str(folder / name), max_steps=1, batch_size=1, global_batch_size=2, workers=0,
        threads=1, save_every=1, eval_every=1, log_every=1, parallel=replace(config.run.parallel, strategy="ddp"),
    )  # fmt: skip
    return replace(
        config,
        run=run,
        init=InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer")),
        data=replace(config.data, root=str(folder / "data"), asr=["question"], tts=["answer"]),
        samples=SampleConfig(answers=0, losses_over=1),
        allow_random=True,
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_builds_on_the_meta_device(path: Path, tiny_tokenizer) -> None:
    config = load_config(StageConfig, path)
    shapes = load_config(ModelConfig, config.init.model)
    assert config.init.model == f"model/{MODELS[path.parent.name]}"
    with torch.device("meta"):
        model = EmovaForConditionalGeneration(emova_config(shapes, tiny_tokenizer))
    trained = freeze(model, config.rates, config.lora)
    assert set(trained) == {name for name in ("llm", "projector", "vision") if getattr(config.rates, name) > 0}
    assert config.data.max_tokens == 8192 and config.run.warmup_ratio == 0.03 and config.run.precision == "bf16"
    assert abs(sum(config.data.mixture.values()) - 1) < 1e-9


@pytest.mark.parametrize(
    ("stage", "batch", "samples", "rates"),
    [
        ("stage1", 256, 558_000, RatesConfig(projector=1e-3)),
        ("stage2", 256, 7_400_000, RatesConfig(projector=2e-5, llm=2e-5, vision=2e-6, vision_share=0.5)),
        ("stage2_table2", 256, 7_400_000, RatesConfig(projector=2e-5, llm=2e-5, vision=2e-5, vision_share=0.5)),
        ("stage3", 128, 4_400_000, RatesConfig(projector=2e-5, llm=2e-5, vision=2e-6)),
    ],
)
def test_table_2_is_as_printed(stage: str, batch: int, samples: int, rates: RatesConfig) -> None:
    config = load_config(StageConfig, ROOT / "configs" / "stages" / "paper" / f"{stage}.yaml")
    assert config.rates == rates and config.run.global_batch_size == batch
    assert abs(config.run.max_steps * batch - samples) <= batch  # one epoch
    assert config.run.final_lr_ratio == 0.0


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_frozen_llm", "stage3_lora"])
def test_a_tiny_version_takes_a_step(folder: Path, name: str) -> None:
    config = tiny(load_config(StageConfig, ROOT / "configs" / "stages" / "paper" / f"{name}.yaml"), folder, name)
    if config.lora.rank:
        config = replace(config, lora=replace(config.lora, rank=2, dropout=0.0))
    result = train(config)
    assert result.steps == 1 and result.skipped_steps == 0 and result.train_terms["loss"] > 0
    exported = EmovaForConditionalGeneration.from_pretrained(folder / name / "export")
    assert not [key for key in exported.state_dict() if "lora" in key]


def test_adapters_begin_with_no_effect_and_merge_with_the_same(folder: Path) -> None:
    config = StageConfig(
        run=RunConfig(output_dir=str(folder / "adapters")),
        init=InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer")),
    )
    model, _ = build(config)
    model.set_attn_implementation("sdpa")
    ids = torch.arange(5)[None]
    plain = model(ids).logits
    lora = LoraConfig(rank=2)
    add_adapters(model, lora)
    assert torch.allclose(model(ids).logits, plain, atol=1e-5)
    names = [name for name, _ in freeze(model, RatesConfig(llm=1.0), lora)["llm"]]
    assert all("lora_" in name or "embed_tokens" in name for name in names) and len(names) == 2 * 7 * 2 + 1
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = model(ids).logits
    merge_adapters(model)
    assert not torch.allclose(adapted, plain, atol=1e-3) and torch.allclose(model(ids).logits, adapted, atol=1e-4)
    with pytest.raises(InputError, match="projections"):
        LoraConfig(rank=2, projections=("q",))


def test_recomputed_activations_give_the_same_gradients(folder: Path, tiny_processor) -> None:
    recipe = read_recipe(folder / "data", "train")
    conversations = Conversations(recipe, tiny_processor, ConversationConfig())
    tasks = [conversations.tasks[name] for name in ("caption", "asr")]
    examples = [conversations.render(task.draw(np.random.default_rng(0)), task.name) for task in tasks]
    gradients = []
    for again in (False, True):
        config = StageConfig(
            run=RunConfig(output_dir=str(folder / "again")),
            init=InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer")),
            gradient_checkpointing=again,
        )
        model, _ = build(config)
        model.train()
        losses = [CTC(CTCConfig(weight=0.5, layer=1))]
        packed_loss(model, collate([examples], LossWeights(), losses), losses)["loss"].backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None and other is not None and torch.allclose(gradient, other, atol=1e-6), name


@pytest.mark.parametrize("gpu", [False, True])
def test_liger_is_never_needed(folder: Path, gpu: bool, monkeypatch) -> None:
    """Without the package too, whether there is a GPU or none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    config = StageConfig(
        run=RunConfig(output_dir=str(folder / "liger")),
        init=InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer")),
    )
    model, _ = build(config)
    assert not use_liger(model, "never")
    assert use_liger(model, "auto") is False
    with pytest.raises(InputError, match="liger"):
        StageConfig(liger="sometimes")


def test_the_plain_template_shows_the_picture_alone(folder: Path, tiny_processor) -> None:
    recipe = read_recipe(folder / "data", "train")
    qa, plain = (
        Conversations(recipe, tiny_processor, ConversationConfig(template=name)).caption(np.random.default_rng(0))
        for name in ("qa", "plain")
    )
    kinds = [[part["type"] for part in sample.messages[0]["content"]] for sample in (qa, plain)]
    assert kinds == [["image", "text"], ["image"]]
    with pytest.raises(InputError, match="template"):
        ConversationConfig(template="poem")
