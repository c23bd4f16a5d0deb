"""Tiny language models of the families that are grown, each with a tokenizer and a template of its family's form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEXT = ["What colour is the ball? It is red.", "You are a helpful assistant.", "user system model assistant"]
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful."
    "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
PLAIN_CHATML = CHATML.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}", ""
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n' + told + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + (told if loop.first else '') + m['content'] "
    "+ '[/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) "
    "+ '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A backbone's kind, what stands in its tokenizer and how it writes conversations.

    Attributes:
        special, plain: added tokens that are special, and that are not.
        spaces: whether text is SentencePiece's, with bytes for what it does not know.
        first_space: whether a text gets a space in front.
        instructs: whether its template has system messages.
    """

    kind: str
    template: str
    special: tuple[str, ...]
    end: str
    begin: str | None = None
    plain: tuple[str, ...] = ()
    spaces: bool = False
    first_space: bool = False
    instructs: bool = True
    more: dict[str, Any] = field(default_factory=dict)


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GLM = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
FAMILIES = {
    "qwen2": Family("qwen2", PLAIN_CHATML, _CHATML, "<|im_end|>"),
    "qwen3": Family("qwen3", CHATML, _CHATML, "<|im_end|>", plain=("<think>", "</think>", "<tool_call>")),
    "smollm": Family("llama", PLAIN_CHATML, _CHATML, "<|im_end|>", begin="<|im_start|>"),
    "llama3": Family("llama", LLAMA3, _HEADERS, "<|eot_id|>", begin="<|begin_of_text|>"),
    "mistral": Family(
        "mistral", MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", begin="<s>", spaces=True, first_space=True
    ),
    "gemma": Family(
        "gemma", GEMMA, ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", begin="<bos>",
        plain=("\n\n", "\u2581\u2581"), spaces=True, instructs=False,
    ),
    "gemma2": Family(
        "gemma2", GEMMA, ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", begin="<bos>",
        spaces=True, instructs=False, more={"final_logit_softcapping": 3.0},
    ),
    "glm": Family("glm", GLM, _GLM, "<|endoftext|>", more={"partial_rotary_factor": 0.5}),
    "glm4": Family("glm4", GLM, _GLM, "<|endoftext|>", more={"partial_rotary_factor": 0.5}),
}  # fmt: skip


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """The family's tokenizer in memory."""
    bpe = Tokenizer(models.BPE())
    if family.spaces:
        bpe.normalizer = normalizers.Replace(" ", "\u2581")
        alphabet = [chr(code) for code in range(0x20, 0x7F)] + ["\n", "\u2581"]
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    if family.spaces:
        made = json.loads(bpe.to_str())
        first = len(made["model"]["vocab"])
        made["model"]["vocab"] |= {f"<0x{byte:02X}>": first + byte for byte in range(256)}
        made["model"]["byte_fallback"] = True
        cut = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        made["pre_tokenizer"], made["normalizer"] = (cut, None) if family.first_space else (None, spaces)
        made["decoder"] = {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        }
        bpe = Tokenizer.from_str(json.dumps(made))
    words: dict[str, Any] = {"eos_token": family.end, "bos_token": family.begin}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **{key: word for key, word in words.items() if word})
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in family.special], special_tokens=True
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    tokenizer.chat_template = family.template
    return tokenizer


def write_family(folder: Path, family: Family, tied: bool = False, shards: str = "20KB") -> Path:
    """A whole tiny language model as it lies on a hub: two layers, 32 wide, more rows than tokens."""
    tokenizer = make_tokenizer(family)
    config = AutoConfig.for_model(
        family.kind,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=1024, head_dim=8, pad_token_id=0, vocab_size=len(tokenizer) + 30,
        tie_word_embeddings=tied, **family.more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size=shards)
    tokenizer.save_pretrained(folder)
    return folder
