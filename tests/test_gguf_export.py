"""The GGUF file holds what llama.cpp needs: every tensor, the shapes, the vocabulary; read back, it is our LLaMA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType, quants

from emova.checkpoint.gguf import export_gguf
from emova.cli import export
from emova.cli.main import Parser
from emova.core.errors import InputError


def read(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    reader = GGUFReader(path)
    tensors = {tensor.name: quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def llama(tensors: dict[str, np.ndarray], fields: dict[str, Any], ids: list[int]) -> np.ndarray:
    """A LLaMA as llama.cpp computes it, from the file alone: the scores ``[T, V]``."""
    weight = {name: torch.from_numpy(np.array(array)).float() for name, array in tensors.items()}
    heads, kv_heads = int(fields["llama.attention.head_count"]), int(fields["llama.attention.head_count_kv"])
    width, eps = int(fields["llama.rope.dimension_count"]), float(fields["llama.attention.layer_norm_rms_epsilon"])
    rates = float(fields["llama.rope.freq_base"]) ** -(torch.arange(0, width, 2) / width)
    rates = rates / weight.get("rope_freqs.weight", torch.ones(width // 2))
    angles = torch.arange(len(ids))[:, None, None] * rates
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(x: torch.Tensor) -> torch.Tensor:  # neighbours are a pair
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight[name], eps)

    x = weight["token_embd.weight"][ids]
    for block in range(int(fields["llama.block_count"])):
        get = lambda name, block=block: weight[f"blk.{block}.{name}.weight"]  # noqa: E731
        y = norm(x, f"blk.{block}.attn_norm.weight")
        q = rotate((y @ get("attn_q").T).unflatten(-1, (heads, width))).transpose(0, 1)
        k = rotate((y @ get("attn_k").T).unflatten(-1, (kv_heads, width))).transpose(0, 1)
        v = (y @ get("attn_v").T).unflatten(-1, (kv_heads, width)).transpose(0, 1)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )
        x = x + mixed[0].transpose(0, 1).flatten(1) @ get("attn_output").T
        y = norm(x, f"blk.{block}.ffn_norm.weight")
        x = x + (torch.nn.functional.silu(y @ get("ffn_gate").T) * (y @ get("ffn_up").T)) @ get("ffn_down").T
    head = weight.get("output.weight", weight["token_embd.weight"])
    return (norm(x, "output_norm.weight") @ head.T).numpy()


def test_the_file_is_the_same_llama(tiny_model, tiny_tokenizer, tmp_path) -> None:
    path, count = tmp_path / "tiny.gguf", tiny_model.config.token_count
    export_gguf(tiny_model, tiny_tokenizer, path, "f32", "tiny")
    tensors, fields = read(path)
    assert fields["general.architecture"] == "llama" and fields["general.name"] == "tiny"
    assert fields["llama.vocab_size"] == count and fields["llama.context_length"] == 512
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert tokens == tiny_tokenizer.convert_ids_to_tokens(list(range(count)))
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    assert len(control) >= 4096 + 10 and "<|speech_7|>" in control and "<|end_of_turn|>" in control
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<|end_of_turn|>"
    assert not fields["tokenizer.ggml.add_bos_token"]

    language_model = tiny_model.model.language_model
    assert np.array_equal(tensors["token_embd.weight"], language_model.embed_tokens.weight[:count].detach().numpy())
    assert np.array_equal(
        tensors["blk.1.ffn_down.weight"], language_model.layers[1].mlp.down_proj.weight.detach().numpy()
    )
    ids = np.random.default_rng(0).integers(0, 300, 40).tolist()
    with torch.no_grad():
        wanted = tiny_model(input_ids=torch.tensor([ids])).logits[0, :, :count].numpy()
    assert np.abs(llama(tensors, fields, ids) - wanted).max() < 1e-4


def test_scaled_rotary_frequencies_and_an_own_head(tiny_tokenizer, tiny_parts, tmp_path) -> None:
    from transformers import LlamaConfig

    from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    text = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=24,
        intermediate_size=48, max_position_embeddings=256, rope_parameters=scaling, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(1)
    size = len(tiny_tokenizer)
    vision, projector = tiny_parts
    config = EmovaConfig.from_parts(text, vision, projector, TokenIds.from_tokenizer(tiny_tokenizer), size)
    model = EmovaForConditionalGeneration(config).eval()
    export_gguf(model, tiny_tokenizer, tmp_path / "scaled.gguf", "f32")
    tensors, fields = read(tmp_path / "scaled.gguf")
    assert {"rope_freqs.weight", "output.weight"} <= tensors.keys()
    ids = np.random.default_rng(0).integers(0, 300, 100).tolist()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0, :, :size].numpy()
    assert np.abs(llama(tensors, fields, ids) - wanted).max() < 1e-4


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision(tiny_model, tiny_tokenizer, tmp_path, dtype) -> None:
    export_gguf(tiny_model, tiny_tokenizer, tmp_path / "half.gguf", dtype)
    reader = GGUFReader(tmp_path / "half.gguf")
    for tensor in reader.tensors:
        assert tensor.tensor_type == GGMLQuantizationType[dtype.upper() if len(tensor.shape) == 2 else "F32"]
    tensors, _ = read(tmp_path / "half.gguf")
    up = tiny_model.model.language_model.layers[0].mlp.up_proj.weight.detach()
    half = up.half() if dtype == "f16" else up.bfloat16()
    assert np.array_equal(tensors["blk.0.ffn_up.weight"], half.float().numpy())


def test_the_command(tiny_checkpoint, tiny_model, tiny_tokenizer, tmp_path, capsys) -> None:
    parser = Parser()
    export.register(parser)
    out = tmp_path / "tiny.gguf"
    arguments = parser.parse_args(["gguf", "--model", str(tiny_checkpoint), "--out", str(out), "--quiet"])
    assert arguments.run(arguments) == 0 and "f16" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"] and GGUFReader(out).tensors
    with pytest.raises(InputError, match="gguf"):
        arguments.run(parser.parse_args(["gguf", "--out", "model.bin"]))
    with pytest.raises(InputError, match="folder"):
        export_gguf(tiny_model, tiny_tokenizer, tmp_path / "none" / "model.gguf")
