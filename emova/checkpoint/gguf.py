"""The language model as a GGUF file, the format of llama.cpp: weights, shapes and vocabulary.

Pictures and speech stay with emova: the file reads and writes token ids, units among them. In 16 and 32 bits its greedy
ids equal ours; quantised, they nearly do. ``emova.engine.llamacpp`` runs it.

Shape letters: D width, H heads, C head width, O outputs, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.core.llamacpp import llama_cpp
from emova.core.writing import staged_path

if TYPE_CHECKING:
    from gguf import GGUFWriter, TokenType
    from transformers import PreTrainedTokenizerBase

    from emova.model.configuration_emova import EmovaConfig
    from emova.model.modeling_emova import EmovaForConditionalGeneration

DType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]
DTYPES: tuple[DType, ...] = get_args(DType)
QUANTISED = ("q8_0", "q4_0", "q4_k_m")
"""Of them: made by llama.cpp itself."""
FILE_NAME = "language_model.gguf"
"""What the file is called in a checkpoint's folder, where the commands look for it."""
FINGERPRINT = "emova.fingerprint"
LLAMA3_SPLIT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


@dataclass(frozen=True)
class Architecture:
    """A kind of language model as llama.cpp has it.

    Attributes:
        name: llama.cpp's.
        pairs: whether rotary pairs stand side by side; else all first halves before all second ones.
    """

    name: str
    pairs: bool


ARCHITECTURES = {
    "llama": Architecture("llama", True),
    "mistral": Architecture("llama", True),
    "qwen2": Architecture("qwen2", False),
    "qwen3": Architecture("qwen3", False),
}
"""By transformers' ``model_type``."""


def export_gguf(
    model: EmovaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    dtype: DType = "f16",
    name: str = "emova",
) -> None:
    """Write ``path``, whole or not at all.

    Args:
        model: an EmovaForConditionalGeneration whose language model is one of ``ARCHITECTURES``.
        tokenizer: its byte-level BPE.
        dtype: of the matrices; vectors are always float32. ``QUANTISED`` ones are made by llama.cpp.

    Raises:
        InputError: a package is missing (gguf; for quantised files llama-cpp-python too), the model is of another kind,
            or the file cannot be written.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise InputError("export: the package gguf is missing; run `pip install 'emova[gguf]'`") from None
    architecture = _architecture(model)
    with staged_path(path) as staged:
        if dtype not in QUANTISED:
            _write(staged, model, tokenizer, architecture, dtype, name)
            return
        with tempfile.TemporaryDirectory(dir=staged.parent, prefix=".gguf-") as folder:
            whole = Path(folder) / "f16.gguf"
            _write(whole, model, tokenizer, architecture, "f16", name)
            _quantise(whole, staged, dtype)


def fingerprint(model: EmovaForConditionalGeneration) -> str:
    """Tells the language models of two checkpoints apart; the layers need not be there."""
    language_model, count = model.model.language_model, model.config.token_count
    digest = hashlib.sha256()
    for part in (language_model.norm.weight, language_model.embed_tokens.weight[:count:97]):
        digest.update(part.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _architecture(model: EmovaForConditionalGeneration) -> Architecture:
    config = model.config.text_config
    architecture = ARCHITECTURES.get(config.model_type)
    biased = getattr(config, "mlp_bias", False) or getattr(config, "attention_bias", False)
    if architecture is None or biased or config.hidden_act != "silu":
        raise InputError(
            f"export: a GGUF file is written of plain {', '.join(ARCHITECTURES)}, and this one is {config.model_type}"
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise InputError("export: a model whose attention has a sliding window is not written to GGUF")
    return architecture


def _write(
    path: Path, model: EmovaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, architecture: Architecture,
    dtype: DType, name: str,
) -> None:  # fmt: skip
    import gguf

    config = model.config.text_config
    writer = gguf.GGUFWriter(path, architecture.name)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_string(FINGERPRINT, fingerprint(model))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    assert model.config.token_count is not None, "set when the configuration is made"
    writer.add_vocab_size(model.config.token_count)
    types = gguf.LlamaFileType
    kinds = {"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "bf16": types.MOSTLY_BF16}
    writer.add_file_type(kinds[dtype])
    _add_vocabulary(writer, tokenizer, model.config, gguf.TokenType)
    for tensor_name, weight in tensors(model):
        array = weight.detach().float().cpu().contiguous().numpy()
        kind = gguf.GGMLQuantizationType[dtype.upper() if array.ndim == 2 else "F32"]
        writer.add_tensor(tensor_name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantise(source: Path, to: Path, dtype: DType) -> None:
    api = llama_cpp(f"export: {dtype}")
    options = api.llama_model_quantize_default_params()
    options.ftype = {
        "q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
        "q4_0": api.LLAMA_FTYPE_MOSTLY_Q4_0,
        "q4_k_m": api.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    }[dtype]
    if api.llama_model_quantize(str(source).encode(), str(to).encode(), options) != 0:
        raise InputError(f"export: llama.cpp cannot write {dtype} of this model; write f16")


def tensors(model: EmovaForConditionalGeneration) -> Iterator[tuple[str, Tensor]]:
    """llama.cpp's tensor names and ``[O, D]`` weights, in its layout."""
    config = model.config.text_config
    architecture = ARCHITECTURES[config.model_type]
    language_model, count = model.model.language_model, model.config.token_count
    yield "token_embd.weight", language_model.embed_tokens.weight[:count]  # rows of padding are left out
    for index, layer in enumerate(language_model.layers):
        attention, mlp, block = layer.self_attn, layer.mlp, f"blk.{index}"
        yield f"{block}.attn_norm.weight", layer.input_layernorm.weight
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": 0}
        for letter, count_of in heads.items():
            projection = getattr(attention, f"{letter}_proj")
            turned = architecture.pairs and letter != "v"
            yield (
                f"{block}.attn_{letter}.weight",
                rotary_pairs(projection.weight, count_of) if turned else projection.weight,
            )
            if projection.bias is not None:
                assert not turned, "no LLaMA with biases is written"
                yield f"{block}.attn_{letter}.bias", projection.bias
            if letter != "v" and hasattr(attention, f"{letter}_norm"):
                yield f"{block}.attn_{letter}_norm.weight", getattr(attention, f"{letter}_norm").weight
        yield f"{block}.attn_output.weight", attention.o_proj.weight
        yield f"{block}.ffn_norm.weight", layer.post_attention_layernorm.weight
        yield f"{block}.ffn_gate.weight", mlp.gate_proj.weight
        yield f"{block}.ffn_up.weight", mlp.up_proj.weight
        yield f"{block}.ffn_down.weight", mlp.down_proj.weight
    yield "output_norm.weight", language_model.norm.weight
    if not config.tie_word_embeddings:
        yield "output.weight", model.lm_head.weight[:count]
    # Scaled rotary frequencies (LLaMA-3.1) are handed over as factors.
    frequencies = language_model.rotary_emb.inv_freq.float().cpu()
    exponents = torch.arange(len(frequencies)) / len(frequencies)
    factors = config.rope_parameters["rope_theta"] ** -exponents / frequencies
    if not torch.allclose(factors, torch.ones_like(factors), atol=1e-4):
        yield "rope_freqs.weight", factors


def rotary_pairs(weight_OD: Tensor, heads: int) -> Tensor:
    """``[H * C, D]`` from transformers' order (first halves, then second halves) to pairs side by side."""
    return weight_OD.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add_vocabulary(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: EmovaConfig, types: type[TokenType]
) -> None:
    """The tokens by id, which of them are control tokens, and the merges."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise InputError("export: the tokenizer is no byte-level BPE")
    assert config.token_count is not None, "set when the configuration is made"
    names = tokenizer.convert_ids_to_tokens(list(range(config.token_count)))
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    writer.add_tokenizer_model("gpt2")
    qwen = config.text_config.model_type.startswith("qwen")
    llama3 = LLAMA3_SPLIT in json.dumps(backend["pre_tokenizer"])
    writer.add_tokenizer_pre("qwen2" if qwen else "llama-bpe" if llama3 else "gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([types.CONTROL if index in special else types.NORMAL for index in range(len(names))])
    merges = backend["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ends = np.atleast_1d(config.text_config.eos_token_id)
    writer.add_bos_token_id(int(config.text_config.bos_token_id))
    writer.add_eos_token_id(int(ends[0]))
    writer.add_pad_token_id(int(config.text_config.pad_token_id))
    writer.add_add_bos_token(False)  # emova's prompts have it already
