"""llama.cpp behind the engine: the scores, caches, pictures and replies of torch, from a GGUF file."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Generator

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.gguf import FILE_NAME, export_gguf
from emova.checkpoint.loading import load_model, load_processor
from emova.cli.main import main
from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.decoding.sampling import GREEDY, Sampling
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.engine.llamacpp import CHUNK, LlamaCpp
from emova.engine.llamacpp_context import LlamaCppCache
from emova.events import Done
from emova.reply.format import ReplyLimits, text_grammar
from emova.reply.grammar import TokenTable
from emova.session.scheduler import Scheduler
from tests.fixtures_speech import BABBLE

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install 'emova[llamacpp]')")
LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=60)


@pytest.fixture(scope="module")
def table(tiny_tokenizer) -> TokenTable:
    return TokenTable.from_tokenizer(tiny_tokenizer)


@pytest.fixture()
def exported(lively_model, tiny_tokenizer, tmp_path):
    path = tmp_path / "tiny.gguf"
    export_gguf(lively_model, tiny_tokenizer, path, "f32")
    return path


def ids(count: int, seed: int = 0, below: int = 300) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, below, count).tolist())


def engines(model, path, **options) -> tuple[Engine, Engine]:
    return (
        Engine(model, EngineConfig(backend="torch", **options)),
        Engine(model, EngineConfig(backend="llama.cpp", gguf=str(path), **options)),
    )


def test_scores_equal_torchs_however_they_are_read(lively_model, exported) -> None:
    ours, theirs = engines(lively_model, exported)
    tokens = ids(CHUNK + 40)
    wanted = ours.llama.scores(ours.llama.forward([(ours.new_cache(), ours.llama.embed(tokens))], every=True))
    for cuts in ((len(tokens),), (1, 2, 100, len(tokens) - 103)):
        cache, found, start = theirs.new_cache(), [], 0
        for count in cuts:
            rows = theirs.llama.forward([(cache, theirs.llama.embed(tokens[start : start + count]))], every=True)
            found.append(theirs.llama.scores(rows))
            start += count
        assert cache.length == len(tokens) and torch.allclose(torch.cat(found), wanted, atol=2e-4, rtol=1e-4)
    chosen = np.asarray([300, 7, 250])
    assert torch.equal(theirs.llama.scores(rows, chosen), rows[:, [300, 7, 250]])


def test_forgetting_is_as_if_it_had_never_been_read(lively_model, exported) -> None:
    _, engine = engines(lively_model, exported)
    cache, again = engine.new_cache(), engine.new_cache()
    engine.read(cache, engine.llama.embed(ids(30)))
    engine.read(cache, engine.llama.embed(ids(20, 1)))
    cache.crop(-20)
    engine.read(again, engine.llama.embed(ids(30)))
    rows = [engine.read(each, engine.llama.embed(ids(9, 2))) for each in (cache, again)]
    assert torch.allclose(rows[0], rows[1], atol=1e-5) and cache.length == again.length == 39
    cache.crop(-39)
    assert torch.allclose(
        engine.read(cache, engine.llama.embed(ids(5))),
        engine.read(engine.new_cache(), engine.llama.embed(ids(5))),
        atol=1e-5,
    )


@torch.inference_mode()
def test_speech_sees_what_came_before_it_and_its_own_last_positions(lively_model, exported) -> None:
    """As in torch's engine; afterwards, and where it is taken back, all of it is seen again."""
    ours, theirs = engines(lively_model, exported, speech_window=9)
    tokens, scores = ids(90), []
    for engine in (ours, theirs):
        cache = engine.new_cache()
        found: list[torch.Tensor] = []
        engine.read(cache, engine.llama.embed(tokens[:11]))
        cache.speech = 11

        def read(count: int, engine=engine, cache=cache, found=found) -> None:
            new = engine.llama.embed(tokens[cache.length : cache.length + count])
            found.append(engine.llama.scores(engine.llama.forward([(cache, new)], every=True)))

        for count in (1, 3, 8, 16, 1, 1):
            read(count)
        cache.crop(-15)
        read(20)
        cache.speech = None
        read(10)
        cache.speech = cache.length
        read(18)
        scores.append(torch.cat(found))
    assert torch.allclose(scores[0], scores[1], atol=2e-4, rtol=1e-4)
    whole = [Engine(lively_model, EngineConfig(backend="torch", speech_window=0))]
    cache = whole[0].new_cache()
    plain = whole[0].llama.scores(whole[0].llama.forward([(cache, whole[0].llama.embed(tokens[:41]))], every=True))
    assert not torch.allclose(scores[1][29], plain[40], atol=1e-2)  # the window was in force


@torch.inference_mode()
def test_sequences_that_are_read_together_are_as_if_alone(lively_model, exported) -> None:
    """Of any lengths, in and out of speech, going back, and in the place of one that has left."""
    _, alone = engines(lively_model, exported, speech_window=9)
    _, beside = engines(lively_model, exported, speech_window=9, parallel=4)
    tokens, lengths = ids(90), (5, 17, 40, 3, 11)

    def cache_of(engine: Engine) -> LlamaCppCache:
        cache = engine.new_cache()
        assert isinstance(cache, LlamaCppCache)
        return cache

    pairs = [(cache_of(alone), cache_of(beside)) for _ in lengths]
    contexts = {id(both[1].context) for both in pairs}
    assert len(contexts) == 2  # four places each
    for (one, other), length in zip(pairs, lengths, strict=True):
        for engine, cache in ((alone, one), (beside, other)):
            engine.read(cache, engine.llama.embed(tokens[:length]))
    for cache in (*pairs[1], *pairs[4]):
        cache.speech = cache.length

    def check(new: list[int]) -> None:
        rows = []
        for side, engine in enumerate((alone, beside)):
            given = [
                (both[side], engine.llama.embed(tokens[both[side].length : both[side].length + count]))
                for both, count in zip(pairs, new, strict=True)
            ]
            rows.append(
                torch.cat([engine.llama.forward([each]) for each in given])
                if engine is alone
                else engine.llama.forward(given)
            )
        assert torch.allclose(rows[0], rows[1], atol=2e-4, rtol=1e-4)
        assert [one.length for one, _ in pairs] == [other.length for _, other in pairs]

    for new in ([1] * 5, [1, 3, 1, 8, 2], [1, 20, 12, 1, 1], *[[1] * 5] * 9):
        check(new)
    for cache in (*pairs[0], *pairs[1]):
        cache.crop(-7)
    check([2, 1, 1, 1, 1])
    del pairs[2]
    gc.collect()
    pairs.append((cache_of(alone), cache_of(beside)))
    others = [cache_of(beside) for _ in range(3)]
    # Eight places of two contexts: the one that was left is taken too.
    assert len({id(cache.context) for cache in (*others, *(both[1] for both in pairs))}) == 2
    check([1, 1, 1, 1, 6])
    check([1] * 5)


def test_ctc_reads_the_same_at_a_questions_speech(lively_model, exported, table) -> None:
    units = table.unit_ids[np.random.default_rng(1).integers(0, 4096, 40)].tolist()
    prompt = Prompt((5, table.speech_start, *units, table.speech_end, 7, 8))
    read, written = [], []
    for engine in engines(lively_model, exported, prefill_chunk=16):
        decoder = EngineDecoder(engine)
        context = decoder.new_context()
        grammar = text_grammar(table, 24, transcribes=True)
        sampling = Sampling(text_temperature=0.0, ctc_weight=0.9)
        written.append([token for tokens in decoder.write(context, prompt, grammar, sampling) for token in tokens])
        assert context.ctc is not None
        read.append(context.ctc.log_probs)
    assert np.abs(read[0] - read[1]).max() < 1e-3 and len(read[0]) == 41 and written[0] == written[1]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_other_backbones_are_the_same_there(tiny_tokenizer, tiny_parts, tmp_path, kind: str) -> None:
    """Their biases, norms and order of rotary pairs; a head of their own."""

    from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds

    fields = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=256, tie_word_embeddings=False, head_dim=8,
    )  # fmt: skip
    text = AutoConfig.for_model(kind, **fields, **({"sliding_window": None} if kind == "mistral" else {}))
    torch.manual_seed(2)
    size = len(tiny_tokenizer)
    vision, projector = tiny_parts
    config = EmovaConfig.from_parts(text, vision, projector, TokenIds.from_tokenizer(tiny_tokenizer), size)
    model = EmovaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.mul_(4)
    export_gguf(model, tiny_tokenizer, tmp_path / "other.gguf", "f32")
    tokens = ids(50)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([tokens])).logits[0, :, :size]
    llama = LlamaCpp(model, tmp_path / "other.gguf")
    rows = llama.forward([(llama.new_cache(), llama.embed(tokens))], every=True)
    assert torch.allclose(llama.scores(rows), wanted, atol=5e-4, rtol=1e-3)


# --- whole checkpoints ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nano() -> Assistant:
    return Assistant.from_pretrained("emova-nano", config=AssistantConfig(sampling=GREEDY))


@pytest.fixture(scope="module")
def files(nano, tmp_path_factory):
    """emova-nano's file in each number format."""
    folder = tmp_path_factory.mktemp("gguf")
    for dtype in ("f32", "f16", "q8_0", "q4_k_m"):
        export_gguf(nano.parts.model, nano.parts.processor.tokenizer, folder / f"{dtype}.gguf", dtype)
    return folder


def with_file(path, sampling: Sampling = GREEDY, parallel: int = 1) -> Assistant:
    config = AssistantConfig(sampling=sampling, engine=EngineConfig(gguf=str(path), parallel=parallel))
    return Assistant.from_pretrained("emova-nano", config=config)


QUESTION, PHOTO = "emova/checkpoints/examples/question.wav", "emova/checkpoints/examples/photo.png"


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_nano_answers_with_the_same_tokens(nano, files, dtype: str) -> None:
    """A spoken question about a picture and a written one after it, greedily: text, style and units."""
    theirs = with_file(files / f"{dtype}.gguf")
    assert isinstance(theirs.decoder, EngineDecoder) and isinstance(theirs.decoder.engine.llama, LlamaCpp)
    assert not theirs.parts.model.model.language_model.layers  # torch holds none of the layers
    for first, second in zip(*(_talk(each) for each in (nano, theirs)), strict=True):
        assert (first.transcript, first.text, first.emotion, first.pitch) == (
            second.transcript, second.text, second.emotion, second.pitch,
        )  # fmt: skip
        assert first.units == second.units and len(first.units) > 10
        assert np.abs(first.audio - second.audio).max() < 1e-4


def _talk(assistant) -> list:
    chat = assistant.conversation()
    return [chat.chat(audio=QUESTION, image=PHOTO), chat.chat(text="What is in the picture?")]


def test_quantised_files_are_smaller_and_nearly_say_the_same(nano, files) -> None:
    sizes = [(files / f"{dtype}.gguf").stat().st_size for dtype in ("f16", "q8_0", "q4_k_m")]
    assert sizes[0] > 1.7 * sizes[1] > 1.7 * sizes[2]
    prompt = nano.prompt([{"role": "user", "content": "What is in the picture?"}])
    exact = nano.decoder.feed(nano.decoder.new_context(), prompt).log_softmax(-1)
    for dtype, most in (("q8_0", 0.02), ("q4_k_m", 0.3)):
        decoder = EngineDecoder(Engine(nano.parts.model, EngineConfig("llama.cpp", str(files / f"{dtype}.gguf"))))
        rough = decoder.feed(decoder.new_context(), prompt).log_softmax(-1)
        assert float((exact.exp() * (exact - rough)).sum()) < most and int(exact.argmax()) == int(rough.argmax())


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_session_equals_a_conversation(files, parallel: int) -> None:
    """Heard in chunks, spoken as it is written, three sessions side by side and an interruption: the same replies."""
    assistant = with_file(files / "q8_0.gguf", Sampling(), parallel)
    from emova.speech.audio import load_audio

    samples = load_audio(QUESTION, 16_000)
    whole = assistant.chat(audio=samples, image=PHOTO)
    scheduler = Scheduler(assistant)
    sessions = [scheduler.open() for _ in range(3)]
    for session in sessions:
        session.show(PHOTO)
        for chunk in np.array_split(samples, 9):
            session.hear(chunk)
    cut = sessions[2].ask()
    asked = [session.ask() for session in sessions[:2]]
    next(cut)
    assert isinstance(cut, Generator)
    cut.close()
    for events in zip(*asked, strict=True):
        last = events
    assert all(isinstance(event, Done) and event.reply.units == whole.units for event in last)
    assert last[0].reply.text == whole.text
    sessions[2].hear(samples)
    assert isinstance(list(sessions[2].ask())[-1], Done)


def test_memory_comes_back_with_the_session(files) -> None:
    import gc
    import weakref

    assistant = with_file(files / "q8_0.gguf")
    scheduler = Scheduler(assistant)
    session = scheduler.open()
    held = weakref.ref(session.history.context.cache.context)
    session.close()
    gc.collect()
    assert held() is None


# --- what is told -----------------------------------------------------------------------------------------------------
@pytest.fixture()
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "tiny")


def test_a_checkpoint_with_a_file_is_run_by_it(checkpoint) -> None:
    """By the commands too; another backend can be asked for."""
    with pytest.raises(InputError, match="language_model.gguf: no such file; write one: emova export gguf"):
        Assistant.from_pretrained(checkpoint, config=AssistantConfig(engine=EngineConfig("llama.cpp")))
    out = checkpoint / FILE_NAME
    assert main(["export", "gguf", "--model", str(checkpoint), "--dtype", "f32", "--out", str(out), "--quiet"]) == 0
    taken = Assistant.from_pretrained(checkpoint)
    assert isinstance(taken.decoder, EngineDecoder) and isinstance(taken.decoder.engine.llama, LlamaCpp)
    model = taken.parts.model
    assert model.model.language_model.embed_tokens.weight.dtype == torch.float16  # as the checkpoint has it
    config = AssistantConfig(reply_limits=LIMITS, reply_guard=BABBLE, sampling=GREEDY)
    plain = AssistantConfig(
        reply_limits=LIMITS, reply_guard=BABBLE, sampling=GREEDY, engine=EngineConfig(backend="torch")
    )
    replies = [Assistant.from_pretrained(checkpoint, config=each).chat(text="Hello.") for each in (config, plain)]
    assert replies[0].units == replies[1].units and replies[0].text == replies[1].text
    wav = str(checkpoint.parent / "a.wav")
    for backend in (["--backend", "llama.cpp"], ["--backend", "torch"], ["--gguf", str(out)]):
        assert main(["speak", "Hi.", "--model", str(checkpoint), "--out", wav, "--quiet", *backend]) == 0


def test_bad_input_is_one_line(checkpoint, nano, tmp_path, tiny_tokenizer) -> None:
    def load(**options) -> None:
        Assistant.from_pretrained(checkpoint, config=AssistantConfig(engine=EngineConfig(**options)))

    with pytest.raises(InputError, match="no such file"):
        load(gguf=str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match="cannot read it"):
        load(gguf=str(tmp_path / "bad.gguf"))
    export_gguf(nano.parts.model, nano.parts.processor.tokenizer, tmp_path / "nano.gguf", "f16")
    whole = (tmp_path / "nano.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read it"):
        load(gguf=str(tmp_path / "cut.gguf"))
    with pytest.raises(InputError, match="not made of this checkpoint"):
        load(gguf=str(tmp_path / "nano.gguf"))
    with pytest.raises(InputError, match="for llama.cpp"):
        load(backend="torch", gguf=str(tmp_path / "nano.gguf"))
    with pytest.raises(InputError, match="unknown"):
        load(backend="gpu")
    model = load_model(checkpoint)
    model.config.text_config.model_type = "gemma"
    with pytest.raises(InputError, match="gemma"):
        export_gguf(model, load_processor(checkpoint).tokenizer, tmp_path / "gemma.gguf")


def test_a_reply_is_bounded_by_the_context(lively_model, exported, table) -> None:
    _, engine = engines(lively_model, exported)
    decoder = EngineDecoder(engine)
    prompt = Prompt(ids(480))
    grammar = text_grammar(table, 60)
    with pytest.raises(InputError, match="context is full"):
        list(decoder.write(decoder.new_context(), prompt, grammar, GREEDY))


def test_pictures_are_read_as_in_torch(tiny_checkpoint, tmp_path) -> None:
    model, processor = load_model(tiny_checkpoint), load_processor(tiny_checkpoint)
    export_gguf(model, processor.tokenizer, tmp_path / "tiny.gguf", "f32")
    message = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (60, 40), "red")},
                                     {"type": "text", "text": "What is it?"}]}
    ]  # fmt: skip
    rendered = processor.render_prompt(message)
    prompt = Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)
    scores = []
    for engine in engines(model, tmp_path / "tiny.gguf"):
        decoder = EngineDecoder(engine)
        scores.append(decoder.feed(decoder.new_context(), prompt))
    assert torch.allclose(scores[0], scores[1], atol=1e-4)
