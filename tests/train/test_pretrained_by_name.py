"""Published names go through timm's and open_clip's own loading, out of the hub's local cache, without a network.

No package carries real weights of either, so the files here are random: names, files, hub folders, shapes and
preprocessing are the published ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import emova.core.compat  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUILD = """
import json, sys
import torch
from emova.core.config import load_config
from emova.model.building import ModelConfig
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.core.config import RunConfig
from emova_train.stages.start import build
from emova_train.stages.origins import origins

config = StageConfig(
    run=RunConfig(output_dir="none"), init=InitConfig(model=sys.argv[1], tokenizer=sys.argv[2]),
    rates=RatesConfig(projector=1e-3, llm=1e-3),
)
model, processor = build(config)
state = model.model.vision_tower.state_dict()
image = processor.image_processor
print(json.dumps({
    "sums": {name: float(tensor.double().sum()) for name, tensor in state.items()},
    "dtypes": sorted({str(tensor.dtype) for tensor in state.values()}),
    "mean": list(image.image_mean), "std": list(image.image_std), "size": image.tile_size,
    "origin": origins(config)["vision"],
}))
"""
MODEL = """
text: {hidden_size: 32, layers: 2, heads: 4, kv_heads: 2, ffn_width: 48, context: 256, tie_embeddings: true}
projector: {width: 32, depth: 1, pooling: POOLING}
image: {max_tiles: 1}
"""


def put_into_cache(home: Path, repository: str, file: str, state: dict[str, torch.Tensor]) -> None:
    """``state`` in float16 as the hub's cache keeps a file of a repository."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, snapshot / file)


def built(folder: Path, tokenizer: Path, model: str) -> dict:
    """What a stage starts from, as another process reads it without a network."""
    (folder / "model.yaml").write_text(model)
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder / "model.yaml"), str(tokenizer)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from emova.cli.main import main

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "words.jsonl").write_text('{"text": "one two three one two three"}\n')
    told = ["--text", str(folder / "words.jsonl"), "--out", str(folder / "made"), "--text-tokens", "300"]
    assert main(["train", "tokenizer", *told]) == 0
    return folder / "made"


def test_internvit_300m_by_timms_name(tmp_path: Path, tokenizer: Path) -> None:
    import timm

    name = "vit_intern300m_patch14_448.ogvl_dist"
    torch.manual_seed(0)
    source = timm.create_model(name.split(".")[0], pretrained=False, num_classes=0).state_dict()
    facts = timm.get_pretrained_cfg(name)
    assert facts is not None and facts.hf_hub_id
    put_into_cache(tmp_path / "home", facts.hf_hub_id, "model.safetensors", source)
    model = MODEL.replace("POOLING", "2") + f"vision_pretrained: {name}\nvision: {{kind: internvit, internvit: {{}}}}\n"
    found = built(tmp_path, tokenizer, model)
    assert found["sums"].keys() == source.keys() and found["dtypes"] == ["torch.float32"]
    for key, tensor in source.items():
        assert found["sums"][key] == pytest.approx(float(tensor.half().double().sum()), abs=1e-6), key
    assert (found["mean"], found["std"]) == (list(facts.mean), list(facts.std)) and found["size"] == 448
    assert facts.input_size == (3, 448, 448) and found["origin"] == name


def test_a_clip_by_open_clips_tag(tmp_path: Path, tokenizer: Path) -> None:
    import open_clip

    name, tag = "ViT-B-32", "laion2b_s34b_b79k"
    facts = open_clip.get_pretrained_cfg(name, tag)
    torch.manual_seed(0)
    source = open_clip.create_model(name).state_dict()
    put_into_cache(tmp_path / "home", facts["hf_hub"].strip("/"), "open_clip_model.safetensors", source)
    vision = f"vision_pretrained: {tag}\nvision: {{kind: open_clip, open_clip: {{model: {name}}}}}\n"
    found = built(tmp_path, tokenizer, MODEL.replace("POOLING", "1") + vision)
    own = {key.removeprefix("visual."): tensor for key, tensor in source.items() if key.startswith("visual.")}
    assert found["sums"].keys() == {f"visual.{key}" for key in own if key != "proj"}
    for key, value in found["sums"].items():
        assert value == pytest.approx(float(own[key.removeprefix("visual.")].half().double().sum()), abs=1e-6), key
    assert found["mean"] == list(open_clip.OPENAI_DATASET_MEAN) and found["std"] == list(open_clip.OPENAI_DATASET_STD)
    assert found["size"] == 224 and found["origin"] == tag and found["dtypes"] == ["torch.float32"]
