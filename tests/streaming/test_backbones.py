"""Language models of other families behind the engine: it writes what transformers writes, and goes back too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from emova.core.errors import InputError
from emova.decoding.loop import Decoder
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.decoding.sampling import GREEDY
from emova.engine.causal_lm import CausalLM
from emova.engine.decoder import EngineDecoder, best_decoder
from emova.engine.engine import Engine, EngineConfig
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.grammar import TokenTable
from emova.reply.json import JsonReply

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 24, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 24},
    "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
    "granite": {"logits_scaling": 4.0},
}
LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=30)


@pytest.fixture(scope="module")
def table(tiny_tokenizer) -> TokenTable:
    return TokenTable.from_tokenizer(tiny_tokenizer)


@pytest.fixture(params=FAMILIES)
def model(request, tiny_tokenizer, tiny_parts):
    """Two layers, 32 wide, with weights large enough that scores differ clearly."""
    from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

    text = AutoConfig.for_model(
        request.param,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=512, head_dim=8, pad_token_id=0, **FAMILIES[request.param],
    )  # fmt: skip
    torch.manual_seed(0)
    size = len(tiny_tokenizer)
    vision, projector = tiny_parts
    config = EmovaConfig.from_parts(text, vision, projector, TokenIds.from_tokenizer(tiny_tokenizer), size)
    made = EmovaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return made


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, 300, count).tolist())


def test_the_engine_writes_what_transformers_writes(model, table) -> None:
    """Greedily, in two turns; a turn that is forgotten leaves no trace, however long it was; two beside each other."""
    lean, standard = best_decoder(model, EngineConfig()), Decoder(model)
    assert isinstance(lean, EngineDecoder)
    family = model.config.text_config.model_type
    assert isinstance(lean.engine.llama, CausalLM) == (family not in ("llama", "qwen2"))
    grammar = lambda: JsonReply().grammar(table, ReplyConstraints(limits=LIMITS))  # noqa: E731
    written = []
    decoders: tuple[DecodingBackend[Any], ...] = standard, lean
    for decoder in decoders:
        context = decoder.new_context()
        replies = [list(decoder.write(context, Prompt(ids(20)), grammar(), GREEDY))]
        if decoder is lean:
            mark = context.mark()
            list(decoder.write(context, Prompt(ids(60, 5)), grammar(), GREEDY))
            context.rewind(mark)
        replies.append(list(decoder.write(context, Prompt(ids(9, 1)), grammar(), GREEDY)))
        written.append([[token for tokens in reply for token in tokens] for reply in replies])
    assert written[0] == written[1] and len(written[0][0]) > 20
    engine = lean.engine
    beside = [engine.start(engine.new_context(), Prompt(ids(20 + n, n)), grammar(), GREEDY) for n in (0, 3)]
    while going := [each for each in beside if not each.done]:
        engine.step(going)
    assert beside[0].take_written() == written[0][0]


def test_scores_are_the_models_own(model) -> None:
    """Also capped and scaled ones, and after a part was taken back."""
    engine = Engine(model)
    cache = engine.new_cache()
    engine.read(cache, engine.embed(Prompt(ids(70, 2))))
    cache.crop(-50)
    tokens = (*ids(70, 2)[:20], *ids(30, 3))
    rows = engine.llama.forward([(cache, engine.llama.embed(tokens[20:]))], every=True)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([tokens])).logits[0, 20:, : engine.llama.token_count]
    assert torch.allclose(engine.llama.scores(rows), wanted, atol=2e-4, rtol=1e-4)
    few = np.asarray([290, 3, 170])
    assert torch.allclose(engine.llama.scores(rows, few), wanted[:, [290, 3, 170]], atol=2e-4, rtol=1e-4)


def test_only_a_llama_has_a_compiled_step(model) -> None:
    if model.config.text_config.model_type != "llama":
        with pytest.raises(InputError, match="no compiled step"):
            Engine(model, EngineConfig(backend="native"))
