"""Joint decoding of transcripts: CTC's prefix scores against a sum over all alignments, and the same frames however the
question is read."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from emova.decoding.ctc import CtcFrames, CtcPrefix, JointSampler
from emova.decoding.loop import Decoder
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.decoding.sampling import GREEDY, Sampler, Sampling
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.engine.request import GenerationRequest
from emova.reply.format import text_grammar
from emova.reply.grammar import FreeText, Grammar, TokenTable

UNITS = (100, 200)


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


@pytest.mark.parametrize("text", [(), (0,), (1, 0), (0, 0), (1, 1, 0)])
def test_prefix_scores_are_the_sum_over_alignments(text: tuple[int, ...]) -> None:
    frames, blank = 5, 2
    log_probs = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], frames))
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=frames):
        weight = float(np.exp(sum(log_probs[t, token] for t, token in enumerate(path))))
        found[collapsed(path, blank)] = found.get(collapsed(path, blank), 0.0) + weight
    begins = lambda start: sum(p for other, p in found.items() if other[: len(start)] == start)  # noqa: E731
    prefix = CtcPrefix(log_probs)
    for token in text:
        prefix.advance(token)
    wanted = [begins((*text, token)) / begins(text) for token in range(2)]
    assert np.allclose(np.exp(prefix.next([0, 1])), wanted)
    assert np.isclose(np.exp(prefix.end()), found.get(text, 0.0) / begins(text))
    assert np.isclose(np.exp(prefix.whole()), found.get(text, 0.0))
    for token in (0, 0, 0, 0):  # more than five frames can say
        prefix.advance(token)
    assert prefix.next([0, 1]).tolist() == [0, 0] and prefix.end() == 0


def rows_of(stretches: list[tuple[int, ...]]) -> CtcFrames:
    """Read pieces one after another; a position's row is its number."""
    frames, position = CtcFrames(UNITS), 0
    for ids in stretches:
        if frames.awaits(ids):
            numbers = np.arange(position, position + len(ids), dtype=np.float32)[:, None]
            frames.take(ids, position, numbers.__getitem__)
        position += len(ids)
    return frames


def test_a_stretch_is_the_same_however_it_is_cut() -> None:
    ids = (1, 101, 102, 3, 9, 150, 151, 152, 4, 5)
    for cuts in itertools.combinations(range(1, len(ids)), 3):
        bounds = [0, *cuts, len(ids)]
        frames = rows_of([ids[a:b] for a, b in itertools.pairwise(bounds)])
        assert frames.log_probs[:, 0].tolist() == [5, 6, 7, 8], cuts  # the last stretch and the mark that ends it


def test_written_units_are_not_heard_and_a_rewind_forgets() -> None:
    frames = rows_of([(1, 101, 102, 103)])
    frames.rewind(3)
    assert frames.log_probs[:, 0].tolist() == [1, 2]
    frames.take((104, 7), 3, lambda part: np.asarray([[30.0], [40.0]])[part])
    assert frames.log_probs[:, 0].tolist() == [1, 2, 30, 40]
    frames.rewind(0)
    assert len(frames) == 0
    assert not CtcFrames(UNITS).awaits((1, 2, -1))
    gap = rows_of([(1, 101), (-1, -1), (102, 103)])
    assert gap.log_probs[:, 0].tolist() == [4, 5]


class _Table:
    """A few tokens of text."""

    def __init__(self, size: int = 4) -> None:
        self.size = size

    def allowed_text(self, state, json_string, closer, only_bytes=False):
        return np.arange(self.size)

    def end_state(self, state, token, json_string):
        return state


def test_what_was_heard_outvotes_what_is_likely() -> None:
    """The language model would say 1 for ever; two frames say 0, then 2."""
    log_probs = np.full((4, 4), np.log(0.01), dtype=np.float32)
    log_probs[range(4), [0, 3, 2, 3]] = np.log(0.97)
    frames = CtcFrames(UNITS)
    frames.take((101, 102, 103, 9), 0, lambda part: log_probs[part])

    def written(weight: float, transcribes: bool = True) -> list[int]:
        table: TokenTable = _Table()  # type: ignore[assignment]
        text = FreeText(table, 3, json_string=False, max_tokens=4, transcribes=transcribes)
        sampler, grammar = JointSampler(Sampler(Sampling(ctc_weight=weight), 4), frames), Grammar([text])
        tokens: list[int] = []
        while not grammar.done and len(tokens) < 4:
            allowed = grammar.allowed()
            tokens.append(sampler.choose(np.asarray([0.0, 1.0, 0.0, -2.0], dtype=np.float32), allowed, grammar))
            grammar.advance(tokens[-1])
        return tokens

    assert written(0.5) == [0, 2, 3]
    assert written(0.0) == written(0.5, transcribes=False) == [1, 1, 1, 1]


def test_what_was_heard_takes_part_however_unlikely_the_language_model_finds_it() -> None:
    """The language model would end the text or say one of forty things; the two words that were said are none."""
    log_probs = np.full((4, 51), np.log(1e-5), dtype=np.float32)
    log_probs[range(4), [40, 50, 41, 50]] = np.log(0.95)
    frames = CtcFrames(UNITS)
    frames.take((101, 102, 103, 9), 0, lambda part: log_probs[part])
    table: TokenTable = _Table(50)  # type: ignore[assignment]
    grammar = Grammar([FreeText(table, 49, json_string=False, max_tokens=4, transcribes=True)])
    sampler, tokens = JointSampler(Sampler(Sampling(ctc_weight=0.5), 50), frames), []
    scores = np.linspace(0.0, -8.0, 50, dtype=np.float32)
    scores[49] = 1.0
    while not grammar.done:
        tokens.append(sampler.choose(scores, grammar.allowed(), grammar))
        grammar.advance(tokens[-1])
    assert tokens == [40, 41, 49]


def test_the_engine_hears_what_transformers_hears(tiny_model, tiny_tokenizer) -> None:
    """Streamed equals whole: the same log-probabilities, the same transcript, whatever the chunks."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    tiny_model.config.ctc_layer = 1
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    units = table.unit_ids[np.random.default_rng(0).integers(0, len(table.unit_ids), 40)].tolist()
    prompt = (5, table.speech_start, *units, table.speech_end, 7, 8)
    plain, engine = Decoder(tiny_model), Engine(tiny_model)
    whole = plain.new_context()
    plain.feed(whole, Prompt(prompt))
    assert whole.ctc is not None and len(whole.ctc) == 41
    for cuts in ([0, 45], [0, 1, 2, 3, 20, 21, 42, 43, 45], list(range(46))):
        context = engine.new_context()
        for a, b in itertools.pairwise(cuts):
            engine.feed(context, Prompt(prompt[a:b]))
        assert context.ctc is not None and whole.ctc is not None
        assert np.allclose(context.ctc.log_probs, whole.ctc.log_probs, atol=2e-4)
    grammar = lambda: text_grammar(table, 12, transcribes=True)  # noqa: E731
    decoders: tuple[DecodingBackend[Any], ...] = plain, EngineDecoder(engine)
    for sampling in (GREEDY, Sampling(ctc_weight=0.0)):
        one, other = (
            [t for ts in decoder.write(decoder.new_context(), Prompt(prompt), grammar(), sampling) for t in ts]
            for decoder in decoders
        )
        assert one == other and one
    tiny_model.config.ctc_layer = 0
    assert plain.new_context().ctc is None


def test_a_draft_goes_on_where_the_text_ends() -> None:
    path = [0, 0, 4, 1, 4, 1, 2, 2, 4, 3]  # blank 4: "0 1 1 2 3"
    log_probs = np.full((len(path), 5), np.log(0.02), dtype=np.float32)
    log_probs[range(len(path)), path] = np.log(0.92)
    prefix, text = CtcPrefix(log_probs), [0, 1, 1, 2, 3]
    for place, token in enumerate(text):
        assert prefix.draft(8) == text[place:]
        assert prefix.draft(2) == text[place : place + 2]
        prefix.advance(token)
    assert prefix.draft(8) == []
    for _ in range(12):  # more than can be said in the time
        prefix.advance(0)
    assert prefix.draft(8) == []


@pytest.mark.parametrize("native", [True, False])
def test_a_drafted_transcript_is_the_same(tiny_model, tiny_tokenizer, monkeypatch, native: bool) -> None:
    """Whatever was drafted: the tokens, what waits to be read, and the cache afterwards."""
    from emova.engine import request as module

    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    random = np.random.default_rng(0)
    units = table.unit_ids[random.integers(0, len(table.unit_ids), 60)].tolist()
    prompt = Prompt((5, table.speech_start, *units, table.speech_end, 7, 8))
    engine = Engine(tiny_model, EngineConfig(backend="auto" if native else "torch"))
    read: list[int] = []
    forward = engine.llama.forward

    def counted(rows, **options):
        read.append(options.get("every", False))
        return forward(rows, **options)

    monkeypatch.setattr(engine.llama, "forward", counted)
    found = []
    for longest in (0, 7):
        monkeypatch.setattr(module, "LONGEST_DRAFT", longest)
        for weight in (0.6, 0.98):
            context, grammar = engine.new_context(), text_grammar(table, 24, transcribes=True)
            sampling = Sampling(text_temperature=0.3, ctc_weight=weight)
            written = EngineDecoder(engine).write(context, prompt, grammar, sampling)
            tokens = [token for tokens in written for token in tokens]
            scores = EngineDecoder(engine).feed(context, Prompt((7, 8)))
            found.append((tokens, context.length, context.cache.length, scores))
    drafted = sum(read)
    assert 0 < drafted < len(found[2][0]) + len(found[3][0]) - 2  # something was drafted, and some of it was right
    for plain, same in zip(found[:2], found[2:], strict=True):
        assert plain[:3] == same[:3] and len(plain[0]) > 1
        assert torch.allclose(plain[3], same[3], atol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_questions_heard_side_by_side_are_written_as_each_alone(tiny_model, tiny_tokenizer, native: bool) -> None:
    """Also where one is drafted along while the other one is still being read."""
    tiny_model.config.ctc_layer = 1
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    random = np.random.default_rng(1)
    engine = Engine(tiny_model, EngineConfig(backend="auto" if native else "torch", prefill_chunk=16))
    spoken = [table.unit_ids[random.integers(0, len(table.unit_ids), count)].tolist() for count in (20, 70)]
    prompts = [Prompt((5, table.speech_start, *units, table.speech_end, 7, 8)) for units in spoken]

    def start(prompt: Prompt) -> GenerationRequest:
        sampling = Sampling(text_temperature=0.0, ctc_weight=0.9)
        return engine.start(engine.new_context(), prompt, text_grammar(table, 24, transcribes=True), sampling)

    def write(requests: list[GenerationRequest]) -> list[list[int]]:
        while going := [request for request in requests if not request.done]:
            engine.step(going)
        return [request.written for request in requests]

    together = write([start(prompt) for prompt in prompts])
    assert together == [write([start(prompt)])[0] for prompt in prompts] and all(map(len, together))
    tiny_model.config.ctc_layer = 0


def test_a_checkpoint_of_an_earlier_version_keeps_its_ctc_layer(tiny_model) -> None:
    """Renamed keys of config.json are read under their old names and written under the new ones."""
    config = tiny_model.config
    for old, new in type(config).RENAMED.items():
        values = config.to_dict()
        values[old] = values.pop(new)
        assert type(config)(**values).to_dict()[new] == getattr(config, new)
        assert old not in type(config)(**values).to_dict()
