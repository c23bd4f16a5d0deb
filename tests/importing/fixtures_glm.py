"""A tiny release in the shape of GLM-4-Voice's three: language model, speech tokenizer, flow decoder."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from emova.reply.glm_voice import REQUEST
from tests.importing.official import fill_all, keys, of, write_release

TOKENIZER = {
    "pooling_type": "avg",
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
    "num_mel_bins": 128,
    "d_model": 48,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "quantize_position": 2,
    "pooling_position": 2,
    "max_source_positions": 160,
    "quantize_causal_block_size": 40,
    "pooling_kernel_size": 4,
    "quantize_vocab_size": 64,
}
YAML = """
set_seed: !apply:os.system ["touch executed"]
flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    encoder: !new:cosyvoice.transformer.encoder.BlockConformerEncoder
        block_size: 4
        size: !ref <width>
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            attention_head_dim: 8
"""
ADDED = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
    "<|begin_of_audio|>", "<|end_of_audio|>",
)  # fmt: skip
GAP, UNITS = 5, 64
LANGUAGE = {
    "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True, "original_rope": True, "rmsnorm": True,
    "apply_residual_connection_post_layernorm": False, "post_layer_norm": True, "multi_query_attention": True,
    "hidden_size": 32, "ffn_hidden_size": 48, "num_layers": 2, "num_attention_heads": 4, "multi_query_group_num": 2,
    "kv_channels": 8, "seq_length": 1024, "layernorm_epsilon": 3.90625e-08, "rope_ratio": 1, "padded_vocab_size": 768,
}  # fmt: skip


def write_speech_releases(folder: Path) -> Path:
    """``tokenizer`` and ``decoder``, reduced, as they lie on a hub."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "config.json").write_text(json.dumps(TOKENIZER))
    ears = fill_all(keys()["golden_whispervq"]) | {"ema_count": torch.ones(64), "ema_weight": torch.ones(64, 48)}
    save_file(ears, folder / "tokenizer" / "model.safetensors")
    (folder / "decoder").mkdir()
    (folder / "decoder" / "config.yaml").write_text(YAML)
    torch.save(fill_all(keys()["golden_flow"]), folder / "decoder" / "flow.pt")
    overrides = {
        name.removeprefix("override."): tensor for name, tensor in of("hift").items() if name.startswith("override.")
    }
    torch.save(fill_all(keys()["golden_hift"]) | overrides, folder / "decoder" / "hift.pt")
    return folder


def ranks() -> list[bytes]:
    """Byte strings in the order of their ids: all bytes, then what a BPE of some text merged."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from emova.reply.grammar import byte_of_character

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([REQUEST, "system user assistant streaming_transcription", "你好，今天天气"] * 4, trainer)
    byte_of = byte_of_character()
    words = sorted(bpe.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[character] for character in word) for word, _ in words]


def write_words(folder: Path, units: int = UNITS) -> None:
    """``tokenizer.model`` and ``tokenizer_config.json``; ids between the controls and the units are of nothing."""
    table = ranks()
    lines = (f"{base64.b64encode(word).decode()} {rank}\n" for rank, word in enumerate(table))
    (folder / "tokenizer.model").write_text("".join(lines))
    first = len(table)
    added = {str(first + index): {"content": name, "special": True} for index, name in enumerate(ADDED)}
    start = first + len(ADDED) + GAP
    added |= {str(start + unit): {"content": f"<|audio_{unit}|>", "special": False} for unit in range(units)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))


def language_state() -> dict[str, Tensor]:
    """The language model's tensors by the release's names, filled by the rule."""
    width, inner, rows = 32, 48, 768
    shapes = {"transformer.embedding.word_embeddings.weight": [rows, width]}
    for layer in range(2):
        at = f"transformer.encoder.layers.{layer}."
        shapes |= {
            f"{at}input_layernorm.weight": [width],
            f"{at}self_attention.query_key_value.weight": [width + 2 * 16, width],
            f"{at}self_attention.query_key_value.bias": [width + 2 * 16],
            f"{at}self_attention.dense.weight": [width, width],
            f"{at}post_attention_layernorm.weight": [width],
            f"{at}mlp.dense_h_to_4h.weight": [2 * inner, width],
            f"{at}mlp.dense_4h_to_h.weight": [width, inner],
        }
    shapes |= {
        "transformer.encoder.final_layernorm.weight": [width],
        "transformer.output_layer.weight": [rows, width],
    }
    state = fill_all(shapes)
    return state | {"transformer.rotary_pos_emb.inv_freq": 1.0 / 10_000 ** (torch.arange(0, 4, 2) / 4)}


def write_language_release(folder: Path, shards: int = 2, units: int = UNITS, **changes: Tensor | None) -> Path:
    """The language model's folder; ``changes`` replace tensors, or leave them out where None."""
    state = {name: tensor for name, tensor in (language_state() | changes).items() if tensor is not None}
    write_release(folder, state, LANGUAGE, shards)
    write_words(folder, units)
    return folder


def chatglm(ids: list[int], state: dict[str, Tensor]) -> Tensor:
    """Logits ``[T, V]`` as the release's ChatGLM class computes them, written down from its code and nothing else."""
    heads, groups, size, eps = 4, 2, 8, 3.90625e-08

    def norm(x: Tensor, name: str) -> Tensor:
        return state[name] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def turned(x_THC: Tensor) -> Tensor:
        """Neighbouring channels of the first half of a head are turned, the second half stays."""
        half = size // 2
        angles_TF = torch.outer(torch.arange(len(x_THC)).float(), 1.0 / 10_000 ** (torch.arange(0, half, 2) / half))
        cos, sin = angles_TF.cos()[:, None], angles_TF.sin()[:, None]
        even, odd = x_THC[..., :half:2], x_THC[..., 1:half:2]
        mixed = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
        return torch.cat([mixed, x_THC[..., half:]], dim=-1)

    x = state["transformer.embedding.word_embeddings.weight"][ids]
    for layer in range(2):
        at = f"transformer.encoder.layers.{layer}."
        mixed = functional.linear(
            norm(x, f"{at}input_layernorm.weight"),
            state[f"{at}self_attention.query_key_value.weight"],
            state[f"{at}self_attention.query_key_value.bias"],
        )
        query, key, value = (
            part.unflatten(-1, (-1, size)) for part in mixed.split([heads * size] + [groups * size] * 2, -1)
        )
        query, key = turned(query), turned(key).repeat_interleave(heads // groups, 1)
        value = value.repeat_interleave(heads // groups, 1)
        scores = torch.einsum("thc,shc->hts", query, key) / size**0.5
        scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf)
        seen = torch.einsum("hts,shc->thc", scores.softmax(-1), value).flatten(1)
        x = x + seen @ state[f"{at}self_attention.dense.weight"].T
        gate, up = (norm(x, f"{at}post_attention_layernorm.weight") @ state[f"{at}mlp.dense_h_to_4h.weight"].T).chunk(
            2, -1
        )
        x = x + (functional.silu(gate) * up) @ state[f"{at}mlp.dense_4h_to_h.weight"].T
    return norm(x, "transformer.encoder.final_layernorm.weight") @ state["transformer.output_layer.weight"].T
