"""vLLM behind the engine, in a process and an environment of its own: the scores, pictures and replies of torch.

Runs where ``EMOVA_VLLM_PYTHON`` names a Python that has vLLM; what is told without one is tested everywhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.backbone import write_backbone
from emova.checkpoint.loading import find_checkpoint, load_model, load_processor
from emova.cli.main import main
from emova.core.errors import InputError
from emova.decoding.sampling import GREEDY
from emova.engine.backend import resolve_backend
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.engine.vllm import MOST_STEPS, Vllm
from emova.engine.vllm_config import PYTHON, VllmConfig
from emova.events import Done
from emova.model import EmovaForConditionalGeneration
from emova.reply.format import ReplyLimits
from emova.session.scheduler import Scheduler
from tests.fixtures_speech import BABBLE

LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=40)
needs_vllm = pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no Python that has vLLM")


def config(backend: str, **options) -> AssistantConfig:
    engine = EngineConfig(backend=backend, speech_window=0, vllm=VllmConfig(dtype="float32"))  # type: ignore[arg-type]
    return AssistantConfig(reply_limits=LIMITS, reply_guard=BABBLE, engine=engine, **options)


# --- with a vLLM ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """A model of one's own size: on a CPU vLLM has no heads of 8 channels."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("vllm") / "tiny")
    config = load_model(folder).config
    config.text_config.head_dim = 32
    torch.manual_seed(0)
    model = EmovaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.dim() > 1:  # so that it has preferences
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(checkpoint) -> Iterator[Assistant]:
    assistant = Assistant.from_pretrained(checkpoint, config=config("vllm", sampling=GREEDY))
    yield assistant
    assert isinstance(assistant.decoder, EngineDecoder) and isinstance(assistant.decoder.engine.llama, Vllm)
    assistant.decoder.engine.llama.close()


@pytest.fixture(scope="module")
def plain(checkpoint) -> Assistant:
    return Assistant.from_pretrained(checkpoint, config=config("torch", sampling=GREEDY))


def engine_of(assistant: Assistant) -> Engine:
    assert isinstance(assistant.decoder, EngineDecoder)
    return assistant.decoder.engine


@torch.inference_mode()
def check_scores(served: Assistant, plain: Assistant) -> None:
    """However a sequence is read, alone or with others, and going back; what is no token's embedding too."""
    tokens = np.random.default_rng(0).integers(0, 300, 90).tolist()
    engines = engine_of(plain), engine_of(served)
    pairs = [tuple(engine.new_cache() for engine in engines) for _ in range(3)]

    def check(new: list[int], every: bool = False) -> None:
        rows = []
        for side, engine in enumerate(engines):
            given = [
                (both[side], engine.llama.embed(tokens[both[side].length : both[side].length + count]))
                for both, count in zip(pairs, new, strict=True)
                if count
            ]
            if side and len(given) > 1:
                hidden = engine.llama.forward(given, every)
            else:
                hidden = torch.cat([engine.llama.forward([each], every) for each in given])
            rows.append(engine.llama.scores(hidden))
        assert torch.allclose(rows[0], rows[1], atol=2e-4, rtol=1e-4)
        assert all(one.length == other.length for one, other in pairs)

    for new in ([5, 17, 40], [1, 1, 1], [1, 1, 1], [3, 1, 1], [1, 0, 0], [1, 1, MOST_STEPS + 2], [0, 1, 1]):
        check(new)
    for cache in (*pairs[0], *pairs[2]):
        cache.crop(-4)
    check([1, 1, 1])
    check([4, 0, 0], every=True)
    strange = torch.randn(6, engines[0].llama.embed([1]).shape[1], generator=torch.Generator().manual_seed(1))
    rows = [each.llama.scores(each.llama.forward([(pairs[1][side], strange)])) for side, each in enumerate(engines)]
    assert torch.allclose(rows[0], rows[1], atol=2e-4, rtol=1e-4)
    check([1, 1, 1])


def check_pictures(served: Assistant, plain: Assistant) -> None:
    content = [{"type": "image", "image": Image.new("RGB", (60, 40), "red")}, {"type": "text", "text": "What is it?"}]
    scores = []
    for assistant in (plain, served):
        prompt = assistant.prompt([{"role": "user", "content": content}])
        assert prompt.pixel_values is not None
        scores.append(assistant.decoder.feed(assistant.decoder.new_context(), prompt))
    assert torch.allclose(scores[0], scores[1], atol=2e-4, rtol=1e-4)


def check_replies(served: Assistant, plain: Assistant) -> None:
    """Under the grammar: two turns of a conversation, and sessions side by side."""
    for first, second in zip(*(_talk(each) for each in (plain, served)), strict=True):
        assert (first.text, first.units, first.emotion) == (second.text, second.units, second.emotion)
        assert len(first.units) > 10
    scheduler = Scheduler(served)
    sessions = [scheduler.open() for _ in range(3)]
    words = ["Hello.", "What is the ball?", "How are you?"]
    asked = [session.ask(text) for session, text in zip(sessions, words, strict=True)]
    last: dict[int, Done] = {}
    while len(last) < len(asked):
        for index, events in enumerate(asked):
            event = next(events, None)
            if isinstance(event, Done):
                last[index] = event
    for index, text in enumerate(words):
        assert last[index].reply.units == plain.chat(text=text).units


def _talk(assistant: Assistant) -> list:
    chat = assistant.conversation()
    return [chat.chat(text="Hello.", image=Image.new("RGB", (50, 50), "blue")), chat.chat(text="And now?")]


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", [check_scores, check_pictures, check_replies])
def test_is_as_torch(served, plain, what) -> None:
    what(served, plain)


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_that_has_ended_is_told(checkpoint) -> None:
    assistant = Assistant.from_pretrained(checkpoint, config=config("vllm"))
    llama = engine_of(assistant).llama
    assert isinstance(llama, Vllm)
    llama.close()
    with pytest.raises(InputError, match="the backend vllm has ended"):
        assistant.chat(text="Hello.")


# --- without one ------------------------------------------------------------------------------------------------------
def test_what_is_missing_is_told(tiny_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv(PYTHON, raising=False)

    def load(**options) -> None:
        Assistant.from_pretrained(tiny_checkpoint, config=AssistantConfig(engine=EngineConfig("vllm", **options)))

    with pytest.raises(InputError, match=f"name the Python of an environment that has vLLM in {PYTHON}"):
        load()
    with pytest.raises(InputError, match="is no Python"):
        load(vllm=VllmConfig(python=str(tmp_path)))
    with pytest.raises(InputError, match="for llama.cpp"):
        load(gguf="a.gguf")
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    assert main(["speak", "Hi.", "--model", str(tiny_checkpoint), "--backend", "vllm", "--quiet"]) != 0
    assert "is no Python" in capsys.readouterr().err


def test_a_python_without_vllm_is_told(tiny_checkpoint) -> None:
    """The worker really runs, in this Python, up to the import that fails."""
    engine = EngineConfig("vllm", vllm=VllmConfig(python=sys.executable))
    with pytest.raises(InputError, match="the backend vllm has ended: ModuleNotFoundError: No module named 'vllm'"):
        Assistant.from_pretrained(tiny_checkpoint, config=AssistantConfig(engine=engine))


def test_the_folder_goes_along(tiny_checkpoint) -> None:
    given = EngineConfig("vllm", vllm=VllmConfig(python=sys.executable))
    config = resolve_backend(given, find_checkpoint(tiny_checkpoint))
    assert config.checkpoint == str(tiny_checkpoint) and not config.holds_layers and EngineConfig("torch").holds_layers


@torch.inference_mode()
def test_the_backbone_is_transformers_own(tiny_checkpoint, tmp_path) -> None:
    """Written, and read by a class that knows nothing of ours, it gives the same scores."""
    from transformers import AutoModelForCausalLM

    write_backbone(tiny_checkpoint, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    ours = load_model(tiny_checkpoint)
    ids = torch.randint(0, len(load_processor(tiny_checkpoint).tokenizer), (1, 30))
    count = ours.config.token_count
    assert torch.allclose(theirs(ids).logits[..., :count], ours(input_ids=ids).logits[..., :count], atol=1e-5)
