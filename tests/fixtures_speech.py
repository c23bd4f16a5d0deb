"""Tiny parts for tests: a tokenizer trained on a few sentences. Nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache

from emova.grammar import unit_token

CONTROL_TOKENS = (
    *("<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|end_of_turn|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|image_row|>"),
    *("<|speech_start|>", "<|speech_end|>"),
)
SENTENCES = (
    "What is in the picture? A red apple lies on the table.",
    'He said "good morning", and left. \\"quoted\\" \\n {"user question text": "hm"}, "then".',
    "Reply as JSON. Write down what is said. Say this: I am so happy for you!",
    "你好，世界。 Ça va très bien, über naïve 😀😀 – 1,2 3.",
    "neutral happy sad angry normal low high",
)


@lru_cache(maxsize=2)
def make_tokenizer(units: int = 32):
    """A byte-level BPE of a few hundred tokens, the control tokens, then ``units`` unit tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", bos_token="<|begin_of_text|>", eos_token="<|end_of_turn|>"
    )
    special = [*CONTROL_TOKENS, *(unit_token(unit) for unit in range(units))]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer
