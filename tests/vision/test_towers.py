from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.models import VisionTransformer
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from emova.core.errors import InputError
from emova.vision.c_abstractor import CAbstractor, CAbstractorConfig
from emova.vision.internvit import InternViT, InternViTConfig
from emova.vision.open_clip import OpenClipConfig
from emova.vision.towers import OPEN_CLIP, VisionConfig, build_tower

MINIATURE = InternViTConfig(image_size=56, width=32, depth=2, heads=2, ffn_width=128)


def test_timm_weights_load_by_name_and_give_the_same_features():
    theirs = timm.create_model("vit_intern300m_patch14_448", img_size=56, embed_dim=32, depth=2, num_heads=2).eval()
    assert isinstance(theirs, VisionTransformer)
    ours = InternViT(MINIATURE).eval()
    assert {name: t.shape for name, t in ours.state_dict().items()} == {
        name: t.shape for name, t in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 56, 56)
    features = ours(pixels)
    assert features.shape == (2, 16, 32)
    torch.testing.assert_close(features, theirs.forward_features(pixels)[:, 1:])


def test_the_300m_shape_is_timms():
    with torch.device("meta"):
        theirs = timm.create_model("vit_intern300m_patch14_448")
        ours = InternViT(InternViTConfig())
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


def test_the_6b_block_equals_transformers_intern_vit():
    """RMSNorm, query and key norm over the whole width, no qkv bias: the same features on the same weights."""
    config = InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, norm_type="rms_norm",
        image_size=56, patch_size=14, use_qk_norm=True, attention_bias=False, layer_scale_init_value=0.1,
        use_mean_pooling=True, use_absolute_position_embeddings=True, hidden_act="gelu",
    )  # fmt: skip
    theirs = InternVLVisionModel(config).eval()
    ours = InternViT(
        InternViTConfig(56, width=32, depth=2, heads=2, ffn_width=128, qkv_bias=False, qk_norm=True, norm="rmsnorm")
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = theirs.state_dict()
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    }  # fmt: skip
    new = {ours_name: state[theirs_name] for ours_name, theirs_name in names.items()}
    table = {
        "norm1.weight": "layernorm_before.weight", "norm2.weight": "layernorm_after.weight",
        "ls1.gamma": "lambda_1", "ls2.gamma": "lambda_2", "attn.q_norm.weight": "attention.q_norm.weight",
        "attn.k_norm.weight": "attention.k_norm.weight", "attn.proj.weight": "attention.projection_layer.weight",
        "attn.proj.bias": "attention.projection_layer.bias", "mlp.fc1.weight": "mlp.fc1.weight",
        "mlp.fc1.bias": "mlp.fc1.bias", "mlp.fc2.weight": "mlp.fc2.weight", "mlp.fc2.bias": "mlp.fc2.bias",
    }  # fmt: skip
    for layer in range(2):
        there = f"encoder.layer.{layer}."
        for ours_name, theirs_name in table.items():
            new[f"blocks.{layer}.{ours_name}"] = state[there + theirs_name]
        parts = [state[f"{there}attention.{part}_proj.weight"] for part in "qkv"]
        new[f"blocks.{layer}.attn.qkv.weight"] = torch.cat(parts)
    ours.load_state_dict(new)
    pixels = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(ours(pixels), theirs(pixels).last_hidden_state[:, 1:], atol=1e-4, rtol=1e-4)


def test_an_open_clip_tower_gives_patch_features():
    shape = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 14, "image_size": 56}
    config = VisionConfig(OPEN_CLIP, open_clip=OpenClipConfig(vision=shape))
    assert VisionConfig.from_dict(config.to_dict()) == config and config.image_size == 56
    tower = build_tower(config).eval()
    pixels = torch.randn(2, 3, 56, 56)
    features = tower(pixels)
    assert features.shape == (2, tower.side**2, tower.width) == (2, 16, 64)
    assert len(tower.layers) == 2
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_nanos_choices_change_speed_and_stem_only():
    shape: dict[str, Any] = {
        "image_size": 56,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "ffn_width": 64,
        "class_token": False,
    }
    fused, plain = (InternViT(InternViTConfig(**shape, fused_attention=fused)).eval() for fused in (True, False))
    plain.load_state_dict(fused.state_dict())
    pixels = torch.randn(2, 3, 56, 56)
    assert fused(pixels).shape == (2, 16, 32) and "cls_token" not in fused.state_dict()
    torch.testing.assert_close(plain(pixels), fused(pixels))


def test_a_trunk_takes_the_place_of_the_patch_embedding_alone():
    shape: dict[str, Any] = {"image_size": 64, "patch_size": 16, "width": 32, "depth": 1, "heads": 2, "ffn_width": 64}
    plain, hybrid = (InternViT(InternViTConfig(**shape, trunk=trunk)) for trunk in ("", "tf_efficientnet_lite0"))
    pixels = torch.randn(3, 3, 64, 64)
    together = hybrid.train()(pixels)
    assert together.shape == (3, 16, 32)
    # Its norms are constants: a picture's features do not depend on the others, in training too.
    torch.testing.assert_close(torch.cat([hybrid(one[None]) for one in pixels]), together, atol=1e-5, rtol=1e-4)
    # Cast as DeepSpeed casts: the weights, not the constants.
    cast = copy.deepcopy(hybrid)
    for parameter in cast.parameters():
        parameter.data = parameter.data.bfloat16()
    made = cast(pixels.bfloat16())
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), together, atol=0.2, rtol=0.1)
    others = {name for name in hybrid.state_dict() if not name.startswith("patch_embed")}
    assert others == {name for name in plain.state_dict() if not name.startswith("patch_embed")}
    with pytest.raises(ValueError, match="EfficientNet"):
        InternViT(InternViTConfig(**shape, trunk="resnet18"))
    with pytest.raises(ValueError, match="reduces by patch_size"):
        InternViT(InternViTConfig(**{**shape, "patch_size": 64}, trunk="tf_efficientnet_lite0"))


def test_unknown_towers_and_shapes_are_refused():
    with pytest.raises(InputError, match="no such model"):
        build_tower(VisionConfig(OPEN_CLIP, open_clip=OpenClipConfig("ViT-unheard-of")))
    with pytest.raises(ValueError, match="vision kind"):
        VisionConfig("resnet")
    with pytest.raises(ValueError, match="multiple"):
        InternViTConfig(image_size=225)
    with pytest.raises(TypeError):
        VisionConfig.from_dict({"internvit": {"widht": 3}})


def test_c_abstractor_pools_four_patches_into_one_token():
    config = CAbstractorConfig(input_width=32, width=16, output_width=24, input_side=4, output_side=2)
    projector = CAbstractor(config).eval()
    patches = torch.randn(3, 16, 32)
    assert projector(patches).shape == (3, config.tokens, 24) == (3, 4, 24)
    assert projector.trunk(patches).shape == (3, 4, 16)
    assert [len(list(stage.children())) for stage in (projector.stage_in, projector.stage_out)] == [2, 2]
