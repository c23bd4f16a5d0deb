"""Tiny parts that many tests share: a tokenizer trained in memory, a model and a processor around it."""

from __future__ import annotations

import os

import pytest
import torch

import emova.core.compat  # noqa: F401  (before any test imports transformers' image parts)
from emova.native.compiled import CONVOLUTION, STEP
from emova.native.kernel import SWITCH

torch.set_num_threads(1)


def pytest_sessionstart() -> None:
    """Compiled code is there before the first test, as after loading a checkpoint; on CI nothing is tested without."""
    if os.environ.get("CI"):
        os.environ.setdefault(SWITCH, "require")
    STEP.prepare()
    CONVOLUTION.prepare()


TINY_TEXT = [
    "What colour is the ball? It is red.",
    "Hello, how are you today? I am fine, thank you!",
    "Reply as JSON. The quick brown fox jumps over the lazy dog.",
]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Byte-level BPE of 300 tokens, the control tokens and 4096 units."""
    from emova_train.stages.text_tokenizer import REPLY_FRAME, train_tokenizer

    return train_tokenizer([*TINY_TEXT, REPLY_FRAME] * 4, text_tokens=300, codebook_size=4096)


@pytest.fixture(scope="session")
def tiny_parts():
    """Shapes of a tiny vision tower (28 px tiles, 4 x 4 patches of 7 px) and its projector (2 x 2 tokens)."""
    from emova.vision.c_abstractor import CAbstractorConfig
    from emova.vision.internvit import InternViTConfig
    from emova.vision.towers import VisionConfig

    vision = InternViTConfig(image_size=28, patch_size=7, width=16, depth=2, heads=2, ffn_width=32)
    projector = CAbstractorConfig(input_width=16, width=16, output_width=32, input_side=4, output_side=2)
    return VisionConfig(internvit=vision), projector


@pytest.fixture()
def tiny_model(tiny_tokenizer, tiny_parts):
    """A fresh model of two layers, 32 wide, in evaluation mode; the same weights every time."""
    from transformers import LlamaConfig

    from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

    text = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    vision, projector = tiny_parts
    ids = TokenIds.from_tokenizer(tiny_tokenizer)
    config = EmovaConfig.from_parts(text, vision, projector, ids, token_count=len(tiny_tokenizer))
    config.ctc_layer = 1
    torch.manual_seed(0)
    return EmovaForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer):
    """28 px tiles of 2 x 2 tokens, one tile a picture."""
    from emova.model import EmovaImageProcessor, EmovaProcessor
    from emova.reply.json import JsonReply

    return EmovaProcessor(
        EmovaImageProcessor(tile_size=28, max_tiles=1, tile_side=2), tiny_tokenizer, reply_format=JsonReply()
    )


@pytest.fixture(scope="session")
def sliced_processor(tiny_tokenizer):
    """As tiny_processor, but pictures are cut into up to nine tiles and a thumbnail."""
    from emova.model import EmovaImageProcessor, EmovaProcessor
    from emova.reply.json import JsonReply

    return EmovaProcessor(
        EmovaImageProcessor(tile_size=28, max_tiles=9, tile_side=2), tiny_tokenizer, reply_format=JsonReply()
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_tokenizer, tiny_parts):
    """The folder of a whole checkpoint of tiny random parts; tests copy it before they change it."""
    from tests.fixtures_speech import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(folder, tiny_tokenizer, *tiny_parts)
    return folder


@pytest.fixture(scope="session")
def tiny_vq_checkpoint(tmp_path_factory, tiny_tokenizer, tiny_parts):
    """As ``tiny_checkpoint``, with the codec of GLM-4-Voice: 12.5 units a second."""
    from tests.fixtures_codecs import make_vq_and_flow
    from tests.fixtures_speech import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-vq"
    ears, voice = make_vq_and_flow(4096)
    save_checkpoint(folder, tiny_tokenizer, *tiny_parts, ears=ears, voice=voice)
    return folder
