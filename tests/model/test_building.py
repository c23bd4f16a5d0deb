from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.tokens import CONTROL_TOKENS
from emova.core.weights import save_folder
from emova.model.building import (
    VISUAL_OVER_WORD,
    ModelConfig,
    VisionExport,
    VisionParts,
    build_model,
    build_processor,
    emova_config,
    load_vision,
    projector_config,
)
from emova.model.modeling_emova import EmovaForConditionalGeneration

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


class LlamaSizedTokenizer:
    """Stands for LLaMA-3.1's tokenizer with our tokens added: two of them it has already."""

    tokens = 128_256 + len(CONTROL_TOKENS) - 2 + 4096

    def __len__(self) -> int:
        return self.tokens

    def get_vocab(self) -> dict[str, int]:
        new = [token for token in CONTROL_TOKENS if token not in ("<|begin_of_text|>", "<|end_of_text|>")]
        ids = {"<|begin_of_text|>": 128_000, "<|end_of_text|>": 128_001}
        ids |= {token: 128_256 + place for place, token in enumerate(new)}
        return ids | {f"<|speech_{unit}|>": 128_256 + len(new) + unit for unit in range(4096)}


def test_the_papers_size_has_the_papers_parameters():
    config = load_config(ModelConfig, CONFIGS / "8b.yaml")
    with torch.device("meta"):
        tokenizer: Any = LlamaSizedTokenizer()  # only its vocabulary is read
        model = EmovaForConditionalGeneration(emova_config(config, tokenizer))

    # InternViT-6B: 3200 wide, 48 layers, feed-forward 12800, 32 x 32 patches of 14 px and a class token.
    width, ffn, layers = 3200, 12800, 48
    attention = linear(width, 3 * width, bias=False) + linear(width, width) + 2 * width  # qkv, out, q and k norms
    block = attention + linear(width, ffn) + linear(ffn, width) + 2 * width + 2 * width  # + RMSNorms, LayerScales
    embedding = linear(3 * 14 * 14, width) + (32 * 32 + 1) * width + width  # patches, positions, class token
    tower = layers * block + embedding
    assert tower == 5_905_251_200
    assert count(model.model.vision_tower) == tower

    # C-Abstractor: two RegNet blocks, pooling, two blocks, a two-layer MLP; every convolution has a norm behind it.
    wide = 4096

    def regnet_block(inputs: int, outputs: int) -> int:
        squeeze = inputs // 4
        convolutions = inputs * outputs + 9 * outputs + outputs * outputs  # 1x1, depthwise 3x3, 1x1
        excitation = linear(outputs, squeeze) + linear(squeeze, outputs)
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return convolutions + 3 * 2 * outputs + excitation + shortcut

    projector = regnet_block(width, wide) + 3 * regnet_block(wide, wide) + linear(wide, 4096) + linear(4096, 4096)
    assert count(model.model.projector) == projector

    # LLaMA-3.1-8B: 32 layers, 8 key/value heads of 32, feed-forward 14336; the vocabulary grows to a multiple of 128.
    hidden, inner, rows = 4096, 14336, 132_480
    assert rows % 128 == 0 and rows - 128 < LlamaSizedTokenizer.tokens <= rows
    layer = 2 * hidden * hidden + 2 * hidden * (hidden // 4) + 3 * hidden * inner + 2 * hidden
    decoder = 32 * layer + hidden
    assert decoder + 2 * 128_256 * hidden == 8_030_261_248  # the published size, with its own vocabulary
    assert count(model.model.language_model) == decoder + rows * hidden
    assert count(model) == tower + projector + decoder + 2 * rows * hidden

    processor = config.image
    assert processor.max_tiles == 9 and model.config.projector.output_side == 16


@pytest.fixture(scope="module")
def paper_miniature() -> ModelConfig:
    """The paper's configuration with every size divided down; the choices stay."""
    return load_config(
        ModelConfig,
        CONFIGS / "8b.yaml",
        [
            "text.pretrained=''", "text.hidden_size=32", "text.layers=2", "text.heads=4", "text.kv_heads=2",
            "text.ffn_width=48", "text.context=1024", "text.rope_scaling.original_max_position_embeddings=256",
            "vision.internvit.image_size=56", "vision.internvit.width=40", "vision.internvit.depth=2",
            "vision.internvit.heads=5", "vision.internvit.ffn_width=160", "projector.width=32",
        ],
    )  # fmt: skip


def test_a_miniature_of_the_papers_model_trains_and_answers(paper_miniature, tiny_tokenizer: PreTrainedTokenizerFast):
    torch.manual_seed(0)
    model = build_model(paper_miniature, tiny_tokenizer)
    processor = build_processor(paper_miniature, tiny_tokenizer)
    picture = Image.new("RGB", (168, 112), "red")
    ask = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]}
    rendered = processor.render_training([ask, {"role": "assistant", "content": "It is red."}])
    batch = processor.collate([rendered])
    assert batch["image_grids"].tolist() == [[2, 3]] and batch["pixel_values"].shape == (7, 3, 56, 56)
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 7 * 4

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch, labels=torch.tensor([rendered.labels])).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2

    prompt = processor.apply_chat_template([ask], tokenize=True, return_dict=True, add_generation_prompt=True)
    answer = model.eval().generate(**prompt, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_nano_has_its_size(tiny_tokenizer: PreTrainedTokenizerFast):
    config = load_config(ModelConfig, CONFIGS / "nano.yaml")
    model = build_model(config, tiny_tokenizer)
    assert model.config.projector.output_side == 7
    assert 2_500_000 < count(model.model.vision_tower) < 5_000_000
    assert 400_000 < count(model.model.projector) < 1_500_000
    processor = build_processor(config, tiny_tokenizer)
    rendered = processor.render_prompt(
        [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (900, 600))}]}]
    )
    assert rendered.input_ids.count(model.config.image_token_id) == 49
    assert processor.token_ids.image_row not in rendered.input_ids


def test_mini_builds_on_the_meta_device(tiny_tokenizer: PreTrainedTokenizerFast):
    config = load_config(ModelConfig, CONFIGS / "mini.yaml")
    with torch.device("meta"):
        model = EmovaForConditionalGeneration(emova_config(config, tiny_tokenizer))
    assert 18_000_000 < count(model.model.vision_tower) < 25_000_000


def test_vision_weights_start_a_model(tiny_model, tmp_path):
    config = tiny_model.config
    export = VisionExport(config.vision, config.projector)
    torch.manual_seed(5)
    parts = VisionParts(export)
    save_folder(tmp_path, export, parts.state_dict())
    load_vision(tiny_model, tmp_path)
    pixels = torch.randn(1, 3, 28, 28)
    expected = parts.eval().projector(parts.vision_tower(pixels))[0]
    assert torch.equal(tiny_model.get_image_features(pixels), expected)


def test_visual_tokens_of_a_known_size_are_scaled_to_that_of_the_words(tiny_model, tmp_path):
    torch.manual_seed(5)
    pixels = torch.randn(1, 3, 28, 28)
    export = VisionExport(tiny_model.config.vision, tiny_model.config.projector)
    parts = VisionParts(export).eval()
    expected = parts.projector(parts.vision_tower(pixels))[0].detach()
    rms = expected.square().mean().sqrt().item()
    save_folder(tmp_path, replace(export, token_rms=rms), parts.state_dict())
    load_vision(tiny_model, tmp_path)
    loudness = VISUAL_OVER_WORD * tiny_model.get_input_embeddings().weight.detach().square().mean().sqrt()
    torch.testing.assert_close(tiny_model.get_image_features(pixels), expected * loudness / rms)


def test_another_shape_is_refused(tiny_model, tmp_path, paper_miniature):
    projector = projector_config(paper_miniature.vision, paper_miniature.projector, 32)
    export = VisionExport(paper_miniature.vision, projector)
    save_folder(tmp_path, export, VisionParts(export).state_dict())
    with pytest.raises(InputError, match="another shape"):
        load_vision(tiny_model, tmp_path)
