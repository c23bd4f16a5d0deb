"""The engine's laws on a tiny model: it writes what transformers writes, alone and among others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from emova.core.errors import InputError
from emova.decoding.loop import Decoder
from emova.decoding.protocol import Prompt
from emova.decoding.sampling import GREEDY, Sampling
from emova.engine.cuda_graph import ReplayedStep
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.engine.kv_cache import KVCache
from emova.engine.llama import Llama
from emova.engine.request import GenerationRequest
from emova.native.compiled import STEP
from emova.native.panels import Kind
from emova.reply.format import ReplyConstraints, ReplyLimits, speech_grammar, text_grammar
from emova.reply.grammar import TokenTable
from emova.reply.json import JsonReply

LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=30)


@pytest.fixture(scope="module")
def table(tiny_tokenizer) -> TokenTable:
    return TokenTable.from_tokenizer(tiny_tokenizer)


def ids(count: int, seed: int = 0, below: int = 300) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, below, count).tolist())


def test_scores_equal_transformers(lively_model) -> None:
    engine = Engine(lively_model)
    tokens = ids(70)
    with torch.inference_mode():
        wanted = lively_model(input_ids=torch.tensor([tokens])).logits[0, :, : engine.llama.token_count]
        cache = engine.new_cache()
        cuts = [0, 1, 2, 30, 31, 70]
        hidden = [
            engine.llama.forward([(cache, engine.llama.embed(tokens[start:end]))], every=True)
            for start, end in zip(cuts, cuts[1:], strict=False)
        ]
    scores = engine.llama.scores(torch.cat(hidden))
    assert torch.allclose(scores, wanted, atol=2e-4, rtol=1e-4)


def llama_of(engine: Engine) -> Llama:
    assert isinstance(engine.llama, Llama)
    return engine.llama


def cache_of(engine: Engine) -> KVCache:
    cache = engine.new_cache()
    assert isinstance(cache, KVCache)
    return cache


def test_the_compiled_step_equals_torch(lively_model, table) -> None:
    """Float32, float16 where that loses nothing, int8 and 4 bits; one sequence and several; all scores and a slice."""
    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    for kind in (Kind.FLOAT32, Kind.FLOAT16, Kind.INT8, Kind.INT4):
        int8, int4 = kind is Kind.INT8, kind is Kind.INT4
        if kind is Kind.FLOAT16:
            lively_model.half().float()  # every weight is a float16 number now
        configs = [
            EngineConfig(int8=int8, int4=int4, backend="auto" if native else "torch", half_cache=False)
            for native in (False, True)
        ]
        engines = [Engine(lively_model, config) for config in configs]
        native = [llama_of(engine).native for engine in engines]
        assert native[0] is None and native[1] is not None
        assert native[1].kind is kind
        # torch's int8 product takes bfloat16 inputs, the compiled one whole numbers of 16 bits.
        close = {Kind.FLOAT32: 1e-5, Kind.FLOAT16: 1e-5, Kind.INT8: 0.05, Kind.INT4: 0.03}
        found = []
        for engine in engines:
            caches = [engine.new_cache() for _ in range(3)]
            for index, cache in enumerate(caches):
                engine.read(cache, engine.embed(Prompt(ids(3 + 5 * index, index))))
            for step in range(6):
                new = [(cache, engine.llama.embed([17 + 31 * step + index])) for index, cache in enumerate(caches)]
                hidden = engine.llama.forward(new)
            found.append([engine.llama.scores(hidden), engine.llama.scores(hidden, table.allowed_units(True))])
            assert [cache.length for cache in caches] == [9, 14, 19]
        for exact, compiled in zip(*found, strict=True):
            assert (exact - compiled).abs().max() < close[kind] * exact.abs().max()
        # Alone and among others, on one thread and on several: the same to the last bit.
        llama, alone = engines[1].llama, []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            cache = llama.new_cache()
            alone.append(torch.cat([llama.forward([(cache, llama.embed([5 + step]))]) for step in range(4)]))
        torch.set_num_threads(1)
        caches = [llama.new_cache() for _ in range(19)]  # more than the compiled step takes at once
        for step in range(4):
            among = llama.forward([(cache, llama.embed([5 + step])) for cache in caches])
        assert torch.equal(alone[0], alone[1]) and torch.equal(among, alone[0][-1:].expand(19, -1))
        assert torch.equal(llama.scores(among), llama.scores(among[:1]).expand(19, -1))


@torch.inference_mode()
def greedy(engine: Engine, prompt: Prompt, count: int) -> tuple[list[int], torch.Tensor]:
    """The tokens, and the scores that they were chosen by."""
    cache, tokens, scores = engine.new_cache(), [], []
    hidden = engine.read(cache, engine.embed(prompt))
    for _ in range(count):
        scores.append(engine.llama.scores(hidden)[0])
        tokens.append(int(scores[-1].argmax()))
        hidden = engine.read(cache, engine.llama.embed(tokens[-1:]))
    return tokens, torch.stack(scores)


def test_a_float16_cache_costs_no_token(lively_model) -> None:
    """Where the weights are float16 numbers, so are the keys and values of the compiled step."""
    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    assert cache_of(Engine(lively_model)).keys.dtype == torch.float32
    lively_model.half().float()
    exact, half = Engine(lively_model, EngineConfig(backend="torch")), Engine(lively_model)
    assert cache_of(exact).keys.dtype == torch.float32 and cache_of(half).keys.dtype == torch.float16
    assert 2 * cache_of(half).nbytes == cache_of(exact).nbytes
    (wanted, exactly), (found, roughly) = (greedy(engine, Prompt(ids(40)), 60) for engine in (exact, half))
    assert found == wanted and (exactly - roughly).abs().max() < 5e-3 * exactly.abs().max()


@torch.inference_mode()
def test_a_compiled_step_allocates_no_tensor(lively_model, tiny_tokenizer) -> None:
    """Neither the model nor the head, for one sequence; and what they write in place is what they write elsewhere."""
    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    llama, units = Engine(lively_model).llama, TokenTable.from_tokenizer(tiny_tokenizer).allowed_units(may_end=False)
    caches = [llama.new_cache(), llama.new_cache()]

    def step(cache, token: int, lasting: bool) -> torch.Tensor:
        hidden_1D = llama.forward([(cache, llama.embed([token]))], lasting=lasting)
        return llama.scores(hidden_1D, units, lasting=lasting)

    wanted = [step(caches[0], token, True) for token in ids(12)]
    for token, scores in zip(ids(12), wanted, strict=True):
        assert torch.equal(step(caches[1], token, False), scores)
    with torch.profiler.profile(profile_memory=True) as profile:
        for token in ids(5):
            step(caches[1], token, False)
    assert not [event.key for event in profile.key_averages() if event.self_cpu_memory_usage > 0]
    with torch.profiler.profile(profile_memory=True) as profile:
        step(caches[0], 7, True)
    assert any(event.self_cpu_memory_usage > 0 for event in profile.key_averages())  # it would be seen


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (10, 2)])
@torch.inference_mode()
def test_the_compiled_attention_equals_torch(heads: int, kv_heads: int) -> None:
    """However many heads share keys, and at every number of positions; keys and values in float32 and in float16."""
    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    text = LlamaConfig(
        vocab_size=64, hidden_size=8 * heads, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=16, intermediate_size=40, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(heads)
    lm = LlamaForCausalLM(text).eval()
    for parameter in lm.parameters():
        parameter.copy_((parameter * (4 if parameter.dim() > 1 else 1)).half())
    language = SimpleNamespace(language_model=lm.model)
    model: Any = SimpleNamespace(  # what is read of a model
        config=SimpleNamespace(text_config=text, token_count=64, ctc_layer=0, pad_token_id=0),
        model=language,
        lm_head=lm.lm_head,
    )
    hidden = []
    for llama in (Llama(model, native=False), Llama(model, half_cache=False), Llama(model)):
        cache = llama.new_cache()
        hidden.append(torch.cat([llama.forward([(cache, llama.embed([token]))]) for token in ids(18, below=64)]))
    level = hidden[0].abs().max()
    assert (hidden[1] - hidden[0]).abs().max() < 1e-5 * level
    assert 0 < (hidden[2] - hidden[0]).abs().max() < 1e-2 * level


@torch.inference_mode()
def test_the_step_of_fixed_shapes_equals_the_others(lively_model) -> None:
    """What a GPU records and replays, here operator by operator; also after the cache went back."""
    llama = llama_of(Engine(lively_model, EngineConfig(backend="torch")))
    caches = [llama.new_cache() for _ in range(2)]
    for cache in caches:
        llama.forward([(cache, llama.embed(ids(11)))])
    step = ReplayedStep(llama, caches[1], capture=True)
    for token in range(40, 52):
        wanted = llama.forward([(caches[0], llama.embed([token]))])
        found = step(llama.embed([token]), caches[1].length)
        caches[1].length += 1
        assert torch.allclose(found, wanted, atol=1e-5)
        if token == 45:
            caches[1].replay = step
            caches[1].keys[:, :, caches[1].length - 2] = float("nan")  # a fault, and all since before it is forgotten
            for cache in caches:
                cache.crop(-4)
                llama.forward([(cache, llama.embed(ids(3, 1)))])


@torch.inference_mode()
def test_speech_sees_what_came_before_it_and_its_own_last_positions(lively_model) -> None:
    """By every way through the model as by transformers behind the same mask; and no second costs more than another."""
    tokens, begin, window = ids(70), 11, 9
    mask = torch.ones(70, 70, dtype=torch.bool).tril()
    for position in range(begin, 70):
        first, last = 12, max(12, 12 + (position + 1 - window - 12) // 4 * 4)
        mask[position, first:last] = False
        assert mask[position, :begin].all() and mask[position, max(begin, position - window + 1) : position + 1].all()
        assert mask[position].sum() <= 12 + window + 3
    assert not mask[40, 20] and mask[40, :12].all()
    wanted = lively_model(input_ids=torch.tensor([tokens]), attention_mask=mask[None, None]).logits[0]
    for native, steps in ((True, (1,) * 59), (False, (1,) * 59), (True, (3, 5, 8, 16, 20, 7)), (False, (3, 40, 16))):
        llama = Engine(lively_model, EngineConfig(backend="auto" if native else "torch", speech_window=window)).llama
        cache = llama.new_cache()
        llama.forward([(cache, llama.embed(tokens[:begin]))])
        cache.speech = begin
        hidden = [
            llama.forward([(cache, llama.embed(tokens[cache.length : cache.length + count]))], every=True)
            for count in steps
        ]
        scores = llama.scores(torch.cat(hidden))
        assert torch.allclose(scores, wanted[begin:, : llama.token_count], atol=2e-4, rtol=1e-4)
    llama = llama_of(Engine(lively_model, EngineConfig(backend="torch", speech_window=window)))
    cache = llama.new_cache()
    llama.forward([(cache, llama.embed(tokens[:begin]))])
    cache.speech = begin
    step = ReplayedStep(llama, cache, capture=True)
    for position in range(begin, 70):
        found = llama.scores(step(llama.embed(tokens[position : position + 1]), position, cache.hole(position)))
        assert torch.allclose(found[0], wanted[position, : llama.token_count], atol=2e-4, rtol=1e-4)


def test_a_writer_knows_where_its_speech_begins(lively_model, table) -> None:
    engine = Engine(lively_model, EngineConfig(speech_window=8))
    context = engine.new_context()
    for turn in range(2):
        prompt, start, written = Prompt(ids(9, turn)), context.length, list(context.waiting)
        written += prompt.ids
        request = engine.start(context, prompt, JsonReply().grammar(table, ReplyConstraints(limits=LIMITS)), GREEDY)
        seen = set()
        while not request.done:
            engine.step([request])
            seen.add(context.cache.speech)
            written += request.take_written()
            if request.done or request.grammar.kind != "units":
                assert request.done or context.cache.speech is None
            else:
                assert context.cache.speech == start + written.index(table.speech_start) + 1
        assert len(seen - {None}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_writes_what_the_cpu_writes(lively_model, table) -> None:
    written = []
    for device in ("cpu", "cuda"):
        decoder = EngineDecoder(Engine(lively_model.to(device)))
        context = decoder.new_context()
        tokens = decoder.write(
            context, Prompt(ids(30)), JsonReply().grammar(table, ReplyConstraints(limits=LIMITS)), GREEDY
        )
        written.append([token for certain in tokens for token in certain])
        if device == "cuda":
            assert isinstance(context.cache, KVCache) and isinstance(context.cache.replay, ReplayedStep)
            assert context.cache.replay._graph is not None
    assert written[0] == written[1]


def test_readers_and_writers_go_together(lively_model) -> None:
    """Sequences of one new position beside one of many: in their order, as each alone."""
    llama = Engine(lively_model).llama
    lengths = (1, 9, 1, 4, 1)
    alone, caches = [], [llama.new_cache() for _ in lengths]
    for index, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
        own = llama.new_cache()
        for each in (own, cache):
            llama.forward([(each, llama.embed(ids(6, index)))])
        alone.append(llama.forward([(own, llama.embed(ids(length, 9 + index)))]))
    new = [llama.embed(ids(length, 9 + index)) for index, length in enumerate(lengths)]
    among = llama.forward(list(zip(caches, new, strict=True)))
    assert torch.allclose(among, torch.cat(alone), atol=1e-5)


def test_cached_equals_uncached(lively_model) -> None:
    """Greedy tokens from a cache, and by reading everything anew for each token: bit-equal."""
    for native in (False, True):
        engine, prompt = Engine(lively_model, EngineConfig(backend="auto" if native else "torch")), ids(20)
        cache, tokens, again = engine.new_cache(), [], list(prompt)
        hidden = engine.read(cache, engine.embed(Prompt(prompt)))
        for _ in range(25):
            tokens.append(int(engine.llama.scores(hidden)[0].argmax()))
            hidden = engine.read(cache, engine.llama.embed(tokens[-1:]))
            state = engine.read(engine.new_cache(), engine.llama.embed(again))
            again.append(int(engine.llama.scores(state)[0].argmax()))
        assert tokens == again[len(prompt) :]


def test_rope_scaling_and_head_width_equal_transformers(tiny_tokenizer, tiny_parts) -> None:
    from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    text = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        intermediate_size=48,
        max_position_embeddings=256,
        rope_parameters=scaling,
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    size = len(tiny_tokenizer)
    vision, projector = tiny_parts
    config = EmovaConfig.from_parts(text, vision, projector, TokenIds.from_tokenizer(tiny_tokenizer), size)
    model = EmovaForConditionalGeneration(config).eval()
    engine, tokens = Engine(model), ids(100)
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([tokens])).logits[0, -1, :size]
        hidden = engine.read(engine.new_cache(), engine.embed(Prompt(tokens)))
    assert torch.allclose(engine.llama.scores(hidden)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("half", [True, False])
def test_positions_that_are_read_together_are_read_as_one_by_one(lively_model, half: bool) -> None:
    """In the compiled step bit for bit: two sequences, 3 and 5 new positions; and as torch reads them."""
    if STEP.prepare() is None:
        pytest.skip("no C compiler here")
    if half:
        lively_model.half().float()
    engine = Engine(lively_model, EngineConfig(half_cache=False))
    llama, plain = engine.llama, Engine(lively_model, EngineConfig(backend="torch")).llama
    news = [llama.embed(ids(count, count)) for count in (3, 5)]
    singly, together, torchs = ([each.new_cache() for _ in news] for each in (llama, llama, plain))
    for caches in (singly, together, torchs):
        for cache in caches:
            cache.length = 0
            (plain if caches is torchs else llama).forward([(cache, llama.embed(ids(20, 9)))])
    one_by_one = torch.cat(
        [llama.forward([(cache, row[None])]) for cache, new in zip(singly, news, strict=True) for row in new]
    )
    at_once = llama.forward(list(zip(together, news, strict=True)), every=True)
    assert torch.equal(at_once, one_by_one)
    assert all(torch.equal(a.keys[:, :, :23], b.keys[:, :, :23]) for a, b in zip(singly, together, strict=True))
    theirs = plain.forward(list(zip(torchs, news, strict=True)), every=True)
    assert torch.allclose(at_once, theirs, atol=1e-4)


def test_greedy_tokens_equal_generate(lively_model) -> None:
    engine = Engine(lively_model)
    prompt, count = ids(20), 40
    theirs = lively_model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None
    )[0, len(prompt) :].tolist()
    ours: list[int] = []
    cache = engine.new_cache()
    hidden = engine.read(cache, engine.embed(Prompt(prompt)))
    for _ in range(count):
        ours.append(int(engine.llama.scores(hidden)[0].argmax()))
        hidden = engine.read(cache, engine.llama.embed(ours[-1:]))
    assert ours == theirs


def grammars(table: TokenTable) -> list:
    return [
        text_grammar(table, 20),
        speech_grammar(table, "hello", 25),
        JsonReply().grammar(table, ReplyConstraints(limits=LIMITS)),
        JsonReply().grammar(table, ReplyConstraints("Hi!", "sad", "low", LIMITS)),
        JsonReply().grammar(table, ReplyConstraints(emotion="happy", limits=LIMITS)),
    ]


def test_the_engine_writes_what_the_standard_decoder_writes(lively_model, table) -> None:
    standard, lean = Decoder(lively_model), EngineDecoder(Engine(lively_model, EngineConfig(prefill_chunk=16)))
    for index, (first, second) in enumerate(zip(grammars(table), grammars(table), strict=True)):
        prompt = Prompt(ids(30, index))
        theirs, ours = standard.new_context(), lean.new_context()
        wanted = [t for tokens in standard.write(theirs, prompt, first, GREEDY) for t in tokens]
        assert [t for tokens in lean.write(ours, prompt, second, GREEDY) for t in tokens] == wanted
        assert (ours.length, ours.waiting) == (theirs.length, theirs.waiting)
        scores = standard.feed(theirs, Prompt(ids(5)))[: lean.engine.llama.token_count]
        assert torch.allclose(lean.feed(ours, Prompt(ids(5))), scores, atol=2e-4, rtol=1e-3)


def test_pictures_are_read(lively_model, tiny_processor) -> None:
    content = [{"type": "image", "image": Image.new("RGB", (40, 30), "red")}, {"type": "text", "text": "What?"}]
    rendered = tiny_processor.render_prompt([{"role": "user", "content": content}])
    prompt = Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)
    standard, lean = Decoder(lively_model), EngineDecoder(Engine(lively_model))
    wanted = standard.feed(standard.new_context(), prompt)[: lean.engine.llama.token_count]
    assert torch.allclose(lean.feed(lean.new_context(), prompt), wanted, atol=2e-4, rtol=1e-3)


def test_sessions_together_write_what_each_writes_alone(lively_model, table) -> None:
    engine = Engine(lively_model, EngineConfig(prefill_chunk=16))
    decoder = EngineDecoder(engine)
    for sampling in (GREEDY, Sampling(text_temperature=0.7, unit_temperature=0.9, seed=3)):
        alone = []
        for index, grammar in enumerate(grammars(table)):
            written = decoder.write(decoder.new_context(), Prompt(ids(10 + 17 * index, index)), grammar, sampling)
            alone.append([t for tokens in written for t in tokens])
        requests = [
            engine.start(decoder.new_context(), Prompt(ids(10 + 17 * index, index)), grammar, sampling)
            for index, grammar in enumerate(grammars(table))
        ]
        waiting, step = list(requests), 0
        active: list[GenerationRequest] = []
        while waiting or active:  # they join one after another and leave as they end
            if waiting and step % 3 == 0:
                active.append(waiting.pop(0))
            engine.step(active)
            active = [request for request in active if not request.done]
            step += 1
        assert [request.written for request in requests] == alone


def test_threads_decode_side_by_side(lively_model, table) -> None:
    decoder = EngineDecoder(Engine(lively_model))

    def write(seed: int) -> list[int]:
        grammar = JsonReply().grammar(table, ReplyConstraints(limits=LIMITS))
        return [t for ts in decoder.write(decoder.new_context(), Prompt(ids(20, seed)), grammar, GREEDY) for t in ts]

    wanted = [write(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == wanted


def test_one_damaged_session_leaves_the_others(lively_model, table) -> None:
    engine = Engine(lively_model)
    decoder = EngineDecoder(engine)
    good, bad = (
        engine.start(decoder.new_context(), Prompt(ids(12)), text_grammar(table, 12), GREEDY) for _ in range(2)
    )
    wanted = [
        t for ts in decoder.write(decoder.new_context(), Prompt(ids(12)), text_grammar(table, 12), GREEDY) for t in ts
    ]
    engine.step([good, bad])
    bad.reading.left = torch.full_like(bad.reading.left, float("nan"))
    while not good.done:
        engine.step([request for request in (good, bad) if not request.done])
    assert isinstance(bad.error, InputError) and "damaged" in str(bad.error)
    assert good.written == wanted and good.error is None


def test_a_slice_of_the_head_equals_the_whole(lively_model, table) -> None:
    for int8 in (False, True):
        llama = Engine(lively_model, EngineConfig(int8=int8)).llama
        hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        whole = llama.scores(hidden)
        sets = [table.allowed_units(True), table.allowed_text(0, True, table.quote), np.asarray([3, 4000, 17])]
        for allowed in [*sets, np.asarray([7])]:
            few = llama.scores(hidden, allowed)
            error = (few - whole[:, torch.from_numpy(allowed)]).abs().max()
            # int8 rows are multiplied in bfloat16 where they are many, in float32 where they are few
            assert error < (0.02 if int8 else 1e-5) * whole.abs().max()


def test_int8_costs_little(lively_model, table) -> None:
    exact, rough = Engine(lively_model), Engine(lively_model, EngineConfig(int8=True))
    assert llama_of(rough).layers[0].qkv.weight.dtype == torch.int8
    tokens = ids(60)
    with torch.inference_mode():
        scores = []
        for engine in (exact, rough):
            cache = engine.new_cache()
            hidden = [engine.llama.forward([(cache, engine.llama.embed([token]))]) for token in tokens]
            scores.append(engine.llama.scores(torch.cat(hidden)))
    relative = ((scores[0] - scores[1]).norm() / scores[0].norm()).item()
    assert relative < 0.05, f"relative error of the scores {relative:.4f}"


def test_a_cache_goes_back(lively_model) -> None:
    decoder = EngineDecoder(Engine(lively_model))
    context = decoder.new_context()
    decoder.feed(context, Prompt(ids(20)))
    mark = context.mark()
    wanted = decoder.feed(context, Prompt(ids(5, 1)))
    context.rewind(mark)
    decoder.feed(context, Prompt(ids(9, 2)))
    context.rewind(mark)
    assert torch.equal(decoder.feed(context, Prompt(ids(5, 1))), wanted)
    assert isinstance(context.cache, KVCache) and context.cache.nbytes == 2 * 2 * 2 * 512 * 8 * 4
