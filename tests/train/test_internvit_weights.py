"""Published InternViT weights fill a tower of their shape, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emova.core.errors import InputError
from emova.vision.internvit import InternViT, InternViTConfig
from emova_train.vision.internvit_weights import load_internvit, our_name

SHAPE = InternViTConfig(
    image_size=28, patch_size=7, width=16, depth=2, heads=2, ffn_width=32, qkv_bias=False, qk_norm=True, norm="rmsnorm"
)


def published(tower: InternViT) -> dict[str, torch.Tensor]:
    """The tower's weights under the published names."""
    pairs = (
        (r"cls_token", "embeddings.class_embedding"),
        (r"pos_embed", "embeddings.position_embedding"),
        (r"patch_embed\.proj\.(.*)", r"embeddings.patch_embedding.\1"),
        (r"blocks\.(\d+)\.(ls\d)\.gamma", r"encoder.layers.\1.\2"),
        (r"blocks\.(.*)", r"encoder.layers.\1"),
    )
    state = {}
    for name, parameter in tower.named_parameters():
        pattern, theirs = next(pair for pair in pairs if re.fullmatch(pair[0], name))
        state[re.sub(pattern, theirs, name)] = parameter.detach().clone()
    return state


def test_published_weights_fill_the_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = InternViT(SHAPE), InternViT(SHAPE)
    state = published(source)
    assert our_name("vision_model.encoder.layers.7.attn.q_norm.weight") == "blocks.7.attn.q_norm.weight"
    half = len(state) // 2
    items = list(state.items())
    save_file(dict(items[:half]), tmp_path / "model-00001-of-00002.safetensors")
    save_file({**dict(items[half:]), "language_model.head": torch.zeros(1)}, tmp_path / "model-00002.safetensors")
    load_internvit(target, str(tmp_path))
    pixels = torch.randn(1, 3, 28, 28)
    assert torch.equal(source.eval()(pixels), target.eval()(pixels))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    tower = InternViT(SHAPE)
    with pytest.raises(InputError, match="no safetensors"):
        load_internvit(tower, str(tmp_path))
    path = tmp_path / "model.safetensors"
    state = published(tower)
    save_file({name: tensor for name, tensor in state.items() if "fc1" not in name}, path)
    with pytest.raises(InputError, match="missing"):
        load_internvit(tower, str(tmp_path))
    save_file({**state, "encoder.layers.2.ls1": torch.zeros(16)}, path)
    with pytest.raises(InputError, match="depth"):
        load_internvit(tower, str(tmp_path))
    save_file({**state, "embeddings.class_embedding": torch.zeros(1, 1, 8)}, path)
    with pytest.raises(InputError, match="shape"):
        load_internvit(tower, str(tmp_path))
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        load_internvit(tower, str(tmp_path))
