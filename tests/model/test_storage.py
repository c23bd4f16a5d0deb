"""The language model in int8 rows: what is read is what was written, by every door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from emova.model import EmovaForConditionalGeneration
from emova.model.storage import save_int8


@pytest.fixture()
def stored(tiny_model, tmp_path: Path) -> Path:
    save_int8(tiny_model, tmp_path / "int8")
    return tmp_path / "int8"


def test_the_format_is_told_and_read_by_every_door(stored: Path, tiny_model) -> None:
    assert json.loads((stored / "config.json").read_text())["weight_storage"] == "int8 rows"
    first, info = EmovaForConditionalGeneration.from_pretrained(stored, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    second = AutoModelForImageTextToText.from_pretrained(stored)
    for model in (first, second):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert model.config.weight_storage == "plain"
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
        assert model.generation_config.eos_token_id == tiny_model.generation_config.eos_token_id
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, first.state_dict()[name]), name


def test_written_again_it_is_the_same_and_plain_it_is_plain(stored: Path, tmp_path: Path) -> None:
    model = EmovaForConditionalGeneration.from_pretrained(stored)
    save_int8(model, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (stored / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "again/config.json").read_text())["weight_storage"] == "int8 rows"
    model.save_pretrained(tmp_path / "plain")
    plain = EmovaForConditionalGeneration.from_pretrained(tmp_path / "plain")
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_compiled_step_reads_what_is_stored(stored: Path) -> None:
    """One byte a weight, and the scores of the float32 weights."""
    from emova.engine.engine import Engine, EngineConfig
    from emova.engine.llama import Llama
    from emova.native.compiled import STEP
    from emova.native.panels import Kind

    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    model = EmovaForConditionalGeneration.from_pretrained(stored)
    scores = []
    for native in (False, True):
        engine = Engine(model, EngineConfig(backend="auto" if native else "torch", half_cache=False))
        assert isinstance(engine.llama, Llama) and engine.llama.kind is (Kind.INT8 if native else Kind.FLOAT32)
        cache = engine.llama.new_cache()
        hidden = [engine.llama.forward([(cache, engine.llama.embed([token]))]) for token in (5, 80, 17, 200)]
        scores.append(engine.llama.scores(torch.cat(hidden)))
    assert (scores[1] - scores[0]).abs().max() < 1e-3 * scores[0].abs().max()  # inputs of 16 bits
