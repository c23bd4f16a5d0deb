"""GLM-4-Voice's language model: the tensors of its authors' ChatGLM class as transformers' Glm, and back.

The names are those of transformers' own converter for GLM-4 and of a third party's loader of this very release; that
the rotation turns neighbouring channels of half of each head, and that queries, keys and values are one matrix, is in
both.

Shape letters: V rows of the vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor

from emova.checkpoint.importing.glm_words import read_words, write_words
from emova.checkpoint.importing.mapping import PARTIAL, Report
from emova.checkpoint.importing.shards import moved, write_shards
from emova.checkpoint.importing.source import AGAIN, Tensors
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.tokens import TokenIds
from emova.core.writing import write_text
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaImageProcessor, EmovaProcessor
from emova.model.configuration_emova import padded_size
from emova.reply.glm_voice import KIND, RATIO, GLMVoiceReply
from emova.speech.style import StyleSet
from emova.vision.none import KIND as NO_EYES
from emova.vision.none import NoProjectorConfig
from emova.vision.towers import VisionConfig

if TYPE_CHECKING:
    from transformers import GlmConfig

PART = "language model"
_EXPECTED = {
    "model_type": "chatglm",
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
    "multi_query_attention": True,
}
"""What the release's ``config.json`` says where its class can do otherwise; where it says nothing, it is the same."""
_NAMES = (
    (r"^lm_head\.", "transformer.output_layer."),
    (r"^model\.language_model\.embed_tokens\.", "transformer.embedding.word_embeddings."),
    (r"^model\.language_model\.norm\.", "transformer.encoder.final_layernorm."),
    (r"^model\.language_model\.layers\.", "transformer.encoder.layers."),
    (r"\.self_attn\.[qkv]_proj\.", ".self_attention.query_key_value."),
    (r"\.self_attn\.o_proj\.", ".self_attention.dense."),
    (r"\.mlp\.gate_up_proj\.", ".mlp.dense_h_to_4h."),
    (r"\.mlp\.down_proj\.", ".mlp.dense_4h_to_h."),
)
_UNUSED = ((r"(?:.*\.)?rotary_pos_emb\.inv_freq", "constants of the positions"),)
_TABLES = ("lm_head.weight", "model.language_model.embed_tokens.weight")


def official(own: str) -> str:
    """The release's tensor that holds a tensor of ours: itself, or its rows."""
    for pattern, replacement in _NAMES:
        own = re.sub(pattern, replacement, own)
    return own


def text_config(said: Mapping[str, object], name: str) -> GlmConfig:
    """transformers' configuration out of the release's. Raises: InputError: it lacks a field or is of another kind."""
    from transformers import GlmConfig

    for key, expected in _EXPECTED.items():
        if said.get(key, expected) != expected:
            raise InputError(
                f"{name}: {key} is {str(said.get(key))[:40]}, {expected} can be read; it is another release"
            )

    def number(key: str, whole: bool = True) -> float:
        value = said.get(key)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < 1 << 32:
            raise InputError(f"{name}: config.json does not give {key} as a number; the release is another one")
        return value

    ratio = number("rope_ratio", whole=False) if "rope_ratio" in said else 1.0
    layers = "num_layers" if "num_layers" in said else "num_hidden_layers"
    return GlmConfig(
        hidden_size=int(number("hidden_size")),
        intermediate_size=int(number("ffn_hidden_size")),
        num_hidden_layers=int(number(layers)),
        num_attention_heads=int(number("num_attention_heads")),
        num_key_value_heads=int(number("multi_query_group_num")),
        head_dim=int(number("kv_channels")),
        max_position_embeddings=int(number("seq_length")),
        rms_norm_eps=number("layernorm_epsilon", whole=False),
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0 * ratio, "partial_rotary_factor": 0.5},
        attention_bias=True,
        tie_word_embeddings=False,
    )


def rows_of(own: str, config: GlmConfig) -> tuple[int, int] | None:
    """Which rows of the release's matrix of queries, keys and values are ours; None where all are."""
    match = re.search(r"\.self_attn\.([qkv])_proj\.", own)
    if match is None:
        return None
    size, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    assert size is not None and heads is not None and groups is not None, "set by text_config"
    queries, keys = size * heads, size * groups
    start = {"q": 0, "k": queries, "v": queries + keys}[match[1]]
    return start, start + (queries if match[1] == "q" else keys)


def write_language(
    source: Path, tensors: Tensors, said: Mapping[str, object], units: int, unit_set: str, styles: StyleSet,
    folder: Path, report: Report,
) -> None:  # fmt: skip
    """The model's and the processor's files into ``folder``, in the numbers of the release, one shard at a time.

    Args:
        units, unit_set: how many the speech tokenizer has, and what they are called.

    Raises:
        InputError: something is missing, unknown, of another shape, or no number.
    """
    text = text_config(said, tensors.name)
    words = read_words(source, units)
    config = EmovaConfig.from_parts(
        text, VisionConfig(kind=NO_EYES), NoProjectorConfig(), TokenIds.from_tokenizer(words), len(words), styles=styles
    )
    config.reply_config = {"kind": KIND, KIND: {"text_tokens": RATIO.text_tokens, "units": RATIO.units}}
    config.unit_tokenizer = unit_set
    with torch.device("meta"):
        wanted = {
            name: tuple(tensor.shape) for name, tensor in EmovaForConditionalGeneration(config).state_dict().items()
        }
    rows = torch.full((padded_size(len(words)),), -1)
    rows[: len(words)] = torch.arange(len(words))
    _check(tensors, wanted, config.text_config, len(words), report)
    config.architectures = ["EmovaForConditionalGeneration"]
    config.save_pretrained(folder)
    write_shards(_read(tensors, list(wanted), config.text_config, rows), folder)
    image = EmovaImageProcessor(tile_size=0, tile_side=1)
    EmovaProcessor(image, words, reply_format=GLMVoiceReply(styles=styles)).save_pretrained(folder)


def _check(
    tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], text: GlmConfig, words: int, report: Report
) -> None:
    """See that every tensor of ours is there and has the right shape, before any is read. Raises: InputError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for own, shape in wanted.items():
        cut = rows_of(own, text)
        before = shapes.get(official(own), (0,))[0] if cut else 0
        shapes[official(own)] = (before + shape[0], *shape[1:])
    tables = {official(own) for own in _TABLES}
    for name, shape in shapes.items():
        there = tensors.shapes.get(name)
        if there is None:
            raise InputError(f"{tensors.name}: lacks tensor {name} of the {PART}; {PARTIAL}")
        if name in tables:
            if there[0] < words:
                raise InputError(f"{tensors.name}: {words} tokens, and {there[0]} rows of {name}; {AGAIN}")
            there = (shape[0], *there[1:])
        if there != shape:
            raise InputError(
                f"{tensors.name}: tensor {name} has shape {list(there)}, not {list(shape)}; it is of another release"
            )
    for name in tensors:
        why = next((why for pattern, why in _UNUSED if re.fullmatch(pattern, name)), None)
        if why is not None:
            report.unused[name] = why
        elif name not in shapes:
            raise InputError(
                f"{tensors.name}: tensor {shown(name)} is none that the {PART} is known to have; it is of another or "
                "a later release"
            )
    report.mapped[PART] = len(shapes)


def _read(tensors: Tensors, names: list[str], text: GlmConfig, rows_V: Tensor) -> Iterator[tuple[str, Tensor]]:
    for own in names:
        value = tensors[official(own)]
        if own in _TABLES:
            value = moved(value, rows_V)
        cut = rows_of(own, text)
        value = value if cut is None else value[cut[0] : cut[1]].clone()
        if not torch.isfinite(value).all():
            raise InputError(f"{tensors.name}: tensor {official(own)} holds what is no number; {AGAIN}")
        yield own, value.contiguous()


# --- and back ---------------------------------------------------------------------------------------------------------
def write_release(tensors: Tensors, config: EmovaConfig, processor: EmovaProcessor, folder: Path) -> None:
    """A language model of ours by the release's names, and its tokenizer, into ``folder``."""
    text = config.text_config
    said = {
        **_EXPECTED,
        "hidden_size": text.hidden_size,
        "ffn_hidden_size": text.intermediate_size,
        "num_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "multi_query_group_num": text.num_key_value_heads,
        "kv_channels": text.head_dim,
        "seq_length": text.max_position_embeddings,
        "layernorm_epsilon": text.rms_norm_eps,
        "rope_ratio": text.rope_parameters["rope_theta"] / 10_000.0,
        "padded_vocab_size": text.vocab_size,
    }
    write_text(folder / "config.json", json.dumps(said, indent=2) + "\n")
    parts: dict[str, list[str]] = {}
    for own in sorted(tensors, key=lambda name: (official(name), (rows_of(name, text) or (0, 0))[0])):
        parts.setdefault(official(own), []).append(own)
    write_shards(
        ((name, torch.cat([tensors[own] for own in owns]) if len(owns) > 1 else tensors[owns[0]])
         for name, owns in parts.items()),
        folder,
    )  # fmt: skip
    write_words(processor.tokenizer, folder)
