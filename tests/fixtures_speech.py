"""Tiny parts for tests: a tokenizer trained on a few sentences. Nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache

from emova.core.tokens import CONTROL_TOKENS, unit_token
from emova.reply.guard import ReplyGuard

BABBLE = ReplyGuard(least_units=0)  # random weights say what they say
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


def make_speech_tokenizer():
    """An S2U of random weights that hears 16 kHz as the real one does."""
    import torch

    from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
    from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
    from emova.speech.tokenizer.spiral import SpiralConvConfig, SpiralStageConfig

    stages = [
        SpiralStageConfig([SpiralConvConfig(16, 3, 2)], layers=1, heads=2, ffn=16, positions=True),
        SpiralStageConfig([SpiralConvConfig(16, 2, 2)], layers=1, heads=2, ffn=16),
    ]
    torch.manual_seed(0)
    decoder = PhoneDecoderConfig(width=8, layers=1, heads=1, ffn=8)
    return S2UTokenizer(S2UConfig(stages=stages, block_units=4, left_blocks=2, decoder=decoder)).eval()


def make_speech_detokenizer():
    """A U2S of random weights that speaks at 24 kHz as the real one does."""
    import torch

    from emova.speech.detokenizer.flow import FlowConfig
    from emova.speech.detokenizer.style_encoder import StyleEncoderConfig
    from emova.speech.detokenizer.u2s import U2SConfig, U2SDetokenizer
    from emova.speech.detokenizer.unit_encoder import UnitEncoderConfig
    from emova.speech.detokenizer.vits import PitchConfig, VITSConfig

    vits = VITSConfig(
        latent_channels=8,
        units=UnitEncoderConfig(digit_channels=4, channels=8, widening=1.0),
        flow=FlowConfig(layers=1, channels=8, depth=1),
        pitch=PitchConfig(hidden=8),
    )
    torch.manual_seed(0)
    return U2SDetokenizer(U2SConfig(vits=vits, style=StyleEncoderConfig(style_size=8, channels=8))).eval()


def save_checkpoint(folder, tokenizer, vision, projector, *, ears=None, voice=None) -> None:
    """A whole checkpoint of tiny random parts, as it is shipped; S2U and U2S where no other codec is given."""
    import torch
    from transformers import LlamaConfig

    from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaImageProcessor, EmovaProcessor, TokenIds
    from emova.speech.style import DEFAULT_STYLES, StylePrototypes

    text = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=768,
        tie_word_embeddings=True,
    )
    ids = TokenIds.from_tokenizer(tokenizer)
    torch.manual_seed(0)
    model = EmovaForConditionalGeneration(
        EmovaConfig.from_parts(text, vision, projector, ids, token_count=len(tokenizer))
    )
    model.config.ctc_layer = 1
    model.half().save_pretrained(folder)
    EmovaProcessor(EmovaImageProcessor(tile_size=28, max_tiles=1, tile_side=2), tokenizer).save_pretrained(folder)
    (ears or make_speech_tokenizer()).save_pretrained(folder / "speech_tokenizer")
    (voice or make_speech_detokenizer()).save_pretrained(folder / "speech_detokenizer")
    generator = torch.Generator().manual_seed(0)
    StylePrototypes({style.key: torch.randn(8, generator=generator) for style in DEFAULT_STYLES}).save(folder)
