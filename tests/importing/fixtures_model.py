"""A tiny release in the shape of EMOVA's: Qwen2, the vision tower, the projector, a tokenizer whose units are in no
order."""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import AutoConfig

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from emova.reply.released import CHAT, SPEAK, SYSTEM, TRANSCRIBE
from tests.importing.official import fill, keys, write_release

CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>",
)  # fmt: skip
ROWS = 5 * 1024


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, Qwen's control tokens, and 4096 units as ordinary tokens in a shuffled order."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([CHAT, SYSTEM, SPEAK, TRANSCRIBE, "system user assistant", '"}', '", "'] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=CONTROL[0], eos_token=CONTROL[2])
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    units = [f"<|speech_{unit}|>" for unit in range(4096)]
    random.Random(0).shuffle(units)
    tokenizer.add_tokens([AddedToken(unit, single_word=True, lstrip=False, rstrip=False) for unit in units])
    return tokenizer


def make_state(tied: bool = False, kind: str = "qwen2") -> tuple[dict[str, Tensor], PreTrainedConfig]:
    """The tensors by the release's names, and the backbone's configuration."""
    config = AutoConfig.for_model(
        kind,
        hidden_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=ROWS,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        head_dim=10,
    )
    with torch.device("meta"):
        backbone = AutoModelForCausalLM.from_config(config)
        shapes = {name: list(tensor.shape) for name, tensor in backbone.state_dict().items()}
    shapes |= keys()["golden_vit"]
    if tied:
        del shapes["lm_head.weight"]
    return {name: fill(name, shape) for name, shape in shapes.items()}, config


def write_model_release(
    folder: Path, tied: bool = False, shards: int = 3, kind: str = "qwen2", **changes: Tensor | None
) -> Path:
    """The folder; ``changes`` replace tensors, or leave them out where None."""
    state, config = make_state(tied, kind)
    state = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    said = {
        **config.to_dict(),
        "model_type": f"emova_{kind}",
        "mm_vision_tower": "qwen2vit600m",
        "mm_hidden_size": 48,
        "vision_config": {"num_heads": 4},
        "tokenizer_model_max_length": 4096,
    }
    write_release(folder, state, json.loads(json.dumps(said, default=str)), shards)
    make_tokenizer().save_pretrained(folder)
    return folder
