"""Published weights go in by name, whole and in float32, and what they expect of a picture goes into the processor."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import emova.core.compat  # noqa: F401
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.tokens import extend_tokenizer
from emova.model.building import ModelConfig, TextShape
from emova.vision.open_clip import OpenClipConfig
from emova.vision.towers import VisionConfig, build_tower
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.distributed.world import World
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.origins import RANDOM, frozen_at_random, origins
from emova_train.stages.program import export
from emova_train.stages.start import build
from emova_train.vision.pretrained import load_pretrained
from tests.train.test_stages import folder  # noqa: F401  (a fixture)

open_clip = pytest.importorskip("open_clip")
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 16, "head_width": 8, "patch_size": 7},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """open_clip knows a tiny model ViT-tiny-test; the file of its weights."""
    root = tmp_path_factory.mktemp("clip")
    (root / "ViT-tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(root)
    torch.manual_seed(3)
    model = open_clip.create_model("ViT-tiny-test")
    path = root / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def test_open_clips_weights_and_preprocessing(clip: Path, folder: Path) -> None:  # noqa: F811
    vision = VisionConfig(kind="open_clip", open_clip=OpenClipConfig(model="ViT-tiny-test"))
    tower = build_tower(vision)
    seen = load_pretrained(tower, vision, str(clip))
    model = open_clip.create_model("ViT-tiny-test", pretrained=str(clip)).eval()
    tower.eval()
    model.visual.output_tokens = True
    pixels = torch.randn(2, 3, 28, 28)
    assert torch.equal(tower(pixels), model.visual(pixels)[1])
    assert seen is not None and seen.mean == tuple(open_clip.OPENAI_DATASET_MEAN)

    shapes = load_config(ModelConfig, folder / "model.yaml")
    save_config(replace(shapes, vision=vision, vision_pretrained=str(clip)), folder / "clip.yaml")
    init = InitConfig(model=str(folder / "clip.yaml"), tokenizer=str(folder / "tokenizer"))
    config = StageConfig(
        run=RunConfig(output_dir=str(folder / "clip")), init=init, rates=RatesConfig(projector=1e-3, llm=1e-3)
    )
    made, processor = build(config)
    own = made.model.vision_tower.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in tower.state_dict().items())
    assert processor.image_processor.image_mean == list(open_clip.OPENAI_DATASET_MEAN)
    assert processor.image_processor.image_std == list(open_clip.OPENAI_DATASET_STD)
    assert origins(config)["vision"] == str(clip) and not frozen_at_random(config, origins(config), True)[1:]


def test_what_open_clip_does_not_have_is_one_line(clip: Path) -> None:
    vision = VisionConfig(kind="open_clip", open_clip=OpenClipConfig(model="ViT-tiny-test"))
    tower = build_tower(vision)
    with pytest.raises(InputError, match="vision_pretrained=webli: no such tag or file"):
        load_pretrained(tower, vision, "webli")
    gelu = VisionConfig(kind="open_clip", open_clip=OpenClipConfig(model="ViT-B-32"))
    with pytest.raises(InputError, match="give open_clip.model=ViT-B-32-quickgelu"):
        load_pretrained(tower, gelu, "openai")
    assert OpenClipConfig(model="ViT-B-32-quickgelu").quick_gelu and not OpenClipConfig(model="ViT-B-32").quick_gelu
    wide = replace(vision, open_clip=OpenClipConfig(model="ViT-tiny-test", vision={"image_size": 56}))
    with pytest.raises(InputError, match="positional_embedding is"):
        load_pretrained(build_tower(wide), wide, str(clip))


def test_timms_names_load_and_a_hub_out_of_reach_is_one_line(tiny_parts, tmp_path: Path, monkeypatch) -> None:
    vision, _ = tiny_parts
    source, target = build_tower(vision), build_tower(vision)
    save_file({name: tensor.half() for name, tensor in source.state_dict().items()}, tmp_path / "tower.safetensors")
    load_pretrained(target, vision, str(tmp_path / "tower.safetensors"))
    for name, tensor in source.state_dict().items():
        assert target.state_dict()[name].dtype == torch.float32
        assert torch.allclose(target.state_dict()[name], tensor, atol=1e-3), name
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="vit_intern300m_patch14_448.ogvl_dist: its weights cannot be fetched"):
        load_pretrained(target, vision, "vit_intern300m_patch14_448.ogvl_dist")
    with pytest.raises(InputError, match="missing or damaged"):
        load_pretrained(target, vision, str(tmp_path / "none.safetensors"))


def test_16_bits_are_trained_in_32(folder: Path, tiny_tokenizer, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    """Its weights are those of the file; the learning is not rounded away."""
    extend_tokenizer(tiny_tokenizer, 4096)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, max_position_embeddings=256, tie_word_embeddings=True,
        )
    ).bfloat16()  # fmt: skip
    llama.save_pretrained(tmp_path / "llama")
    shapes = load_config(ModelConfig, folder / "model.yaml")
    save_config(replace(shapes, text=TextShape(pretrained=str(tmp_path / "llama"))), tmp_path / "model.yaml")
    init = InitConfig(model=str(tmp_path / "model.yaml"), tokenizer=str(folder / "tokenizer"))
    model, _ = build(StageConfig(run=RunConfig(output_dir=str(tmp_path)), init=init))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    layer = model.model.language_model.layers[0].mlp.up_proj.weight
    assert torch.equal(layer, llama.model.layers[0].mlp.up_proj.weight.float())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_config(replace(shapes, text=TextShape(pretrained="no-such/llama")), tmp_path / "model.yaml")
    with pytest.raises(InputError, match="no-such/llama: no such language model here, and it cannot be fetched"):
        build(StageConfig(run=RunConfig(output_dir=str(tmp_path)), init=init))


def test_a_projector_goes_in_by_name(folder: Path, tiny_tokenizer, tmp_path: Path) -> None:  # noqa: F811
    """Out of a stage's export or a file of its own names, in float32 whatever they have; another shape is one line."""
    shapes = load_config(ModelConfig, folder / "model.yaml")
    tokenizer = str(folder / "tokenizer")

    def began(name: str) -> StageConfig:
        save_config(replace(shapes, projector_pretrained=name), tmp_path / "model.yaml")
        init = InitConfig(model=str(tmp_path / "model.yaml"), tokenizer=tokenizer)
        return StageConfig(run=RunConfig(output_dir=str(tmp_path / "run"), seed=5), init=init)

    other, processor = build(replace(began(""), run=RunConfig(output_dir=str(tmp_path), seed=1)))
    export(other, processor, tmp_path / "export")
    own = other.model.projector.state_dict()
    save_file({name: tensor.half() for name, tensor in own.items()}, tmp_path / "projector.safetensors")
    for name, close in ((str(tmp_path / "export"), 0.0), (str(tmp_path / "projector.safetensors"), 1e-3)):
        found = build(began(name))[0].model.projector.state_dict()
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert all(torch.allclose(found[key], own[key], atol=close, rtol=0) for key in own)
        assert origins(began(name))["projector"] == name
    assert origins(began(""))["projector"] == RANDOM
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    save_file({"a": torch.zeros(1)}, tmp_path / "strange.safetensors")
    for name, why in (
        ("broken.safetensors", "damaged; give a stage's export"), ("strange.safetensors", "a is missing or of another"),
        ("nowhere", "no such checkpoint"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            build(began(str(tmp_path / name)))


def test_what_is_split_begins_as_what_is_whole(folder: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    """Under ZeRO-3 a beginning that is no checkpoint is put together once, in a folder, and read from there."""
    from emova_train.stages import start

    monkeypatch.setattr(start, "partitioned", lambda run, world: nullcontext())
    init = InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer"))
    run = RunConfig(output_dir=str(tmp_path / "run"), parallel=ParallelConfig(strategy="zero3"))
    config = StageConfig(run=run, init=init)
    whole = build(config)[0].state_dict()
    split = build(config, World())[0].state_dict()
    assert whole.keys() == split.keys() and all(torch.equal(whole[name], split[name]) for name in whole)
    written = tmp_path / "run" / "start" / "model.safetensors"
    first = written.stat().st_mtime_ns
    build(config, World(1, 1))  # a process that is not the first reads it
    build(config, World())
    assert written.stat().st_mtime_ns == first
    changed = build(replace(config, run=replace(run, seed=3)), World())[0].state_dict()
    assert written.stat().st_mtime_ns != first and any(not torch.equal(whole[name], changed[name]) for name in whole)
