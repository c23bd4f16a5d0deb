"""Which backend decodes a checkpoint: by option, by what lies in its folder, and by what the machine has."""

from __future__ import annotations

import logging
import shutil
import sys
from importlib.machinery import ModuleSpec

import pytest
from transformers import AutoConfig

from emova.assistant import Assistant, AssistantConfig
from emova.checkpoint.gguf import FILE_NAME
from emova.checkpoint.loading import find_checkpoint
from emova.core.errors import InputError
from emova.engine import backend
from emova.engine.backend import BACKENDS, resolve_backend
from emova.engine.causal_lm import CausalLM
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.engine.llama import Llama
from emova.engine.vllm_config import VllmConfig
from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

VLLM = VllmConfig(python=sys.executable)


@pytest.fixture()
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "tiny")


def installed(monkeypatch, there: bool) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: ModuleSpec(name, None) if there else None)


def test_auto_takes_a_file_where_it_can_be_read(folder, monkeypatch, caplog) -> None:
    installed(monkeypatch, True)
    assert resolve_backend(EngineConfig(), folder) == EngineConfig()  # no file: the engine chooses
    (folder / FILE_NAME).write_bytes(b"")
    taken = resolve_backend(EngineConfig(), folder)
    assert (taken.backend, taken.gguf, taken.holds_layers) == ("llama.cpp", str(folder / FILE_NAME), False)
    for asked in ("native", "torch"):
        assert resolve_backend(EngineConfig(asked), folder) == EngineConfig(asked)  # type: ignore[arg-type]
    assert resolve_backend(EngineConfig("vllm", vllm=VLLM), folder).backend == "vllm"
    installed(monkeypatch, False)
    with caplog.at_level(logging.WARNING):
        left = resolve_backend(EngineConfig(), folder)
    assert left == EngineConfig() and "pip install 'emova[llamacpp]'" in caplog.text


def test_the_engine_takes_what_fits_the_model(tiny_model, tiny_tokenizer, tiny_parts) -> None:
    """A LLaMA by our own layers, any other causal model by transformers' classes; torch where it is asked for."""
    assert isinstance(Engine(tiny_model).llama, Llama)
    asked = Engine(tiny_model, EngineConfig("torch")).llama
    assert isinstance(asked, Llama) and asked.native is None
    other = AutoConfig.for_model(
        "gemma", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=256,
    )  # fmt: skip
    tokens = TokenIds.from_tokenizer(tiny_tokenizer)
    vision, projector = tiny_parts
    made = EmovaConfig.from_parts(other, vision, projector, tokens, len(tiny_tokenizer))
    model = EmovaForConditionalGeneration(made).eval()
    for config in (EngineConfig(), EngineConfig("torch")):
        assert isinstance(Engine(model, config).llama, CausalLM)
    with pytest.raises(InputError, match="the backend native"):
        Engine(model, EngineConfig("native"))


def test_an_unknown_backend_names_the_known_ones(folder) -> None:
    with pytest.raises(InputError, match=f"unknown; give one of {', '.join(BACKENDS)}"):
        resolve_backend(EngineConfig("gpu"), folder)  # type: ignore[arg-type]
    for asked in ("native", "torch", "vllm"):
        with pytest.raises(InputError, match="a GGUF file is for llama.cpp"):
            resolve_backend(EngineConfig(asked, gguf="a.gguf", vllm=VLLM), folder)  # type: ignore[arg-type]


def test_the_shipped_checkpoint_is_decoded_by_the_engine(folder) -> None:
    assert not (find_checkpoint("emova-nano") / FILE_NAME).exists()
    assistant = Assistant.from_pretrained(folder, config=AssistantConfig(engine=EngineConfig("torch")))
    assert isinstance(assistant.decoder, EngineDecoder) and assistant.decoder.engine.config.backend == "torch"
