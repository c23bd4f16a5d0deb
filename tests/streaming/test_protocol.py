"""The law of every stream: however its input is cut, the joined results equal those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import emova
from emova.checkpoint.loading import load_speech_tokenizer, load_voice
from emova.checkpoint.registry import build_reply_format
from emova.core.streams import Stream, run
from emova.engine.engine import Engine
from emova.engine.scores import ScoreStream
from emova.reply.grammar import TokenTable
from emova.reply.parser import SpokenReply, merge_deltas
from emova.reply.stream import EventStream
from emova.speech.audio import AudioLimits, load_audio
from emova.speech.style import DEFAULT_STYLES, Style, StylePrototypes
from emova.speech.tokenizer.streaming import StreamingTokenizer
from emova.speech.voice import Voice

EXAMPLES = Path(emova.__file__).parent / "checkpoints" / "examples"


@dataclass
class Case:
    """A part: fresh streams, its input, and how input is cut and results are compared."""

    open: Callable[[], Any]
    whole: Any
    offline: Any
    cut: Callable[[Any, int, int], Any]
    join: Callable[[list[Any]], Any]
    tolerance: float = 0.0


def samples(seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, int(16_000 * seconds), generator=generator) * 0.1


@pytest.fixture(params=["tokenizer", "recording", "voice", "speaking", "json parser", "interleaved parser", "model"])
def case(request, tiny_model, tiny_tokenizer) -> Case:
    from tests.fixtures_speech import make_speech_detokenizer, make_speech_tokenizer

    def columns(whole: torch.Tensor, start: int, end: int) -> torch.Tensor:
        return whole[:, start:end]

    def beside(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts, dim=1)

    if request.param == "tokenizer":
        tokenizer, audio = make_speech_tokenizer(), samples(1.3)[:, :-77]
        from emova.speech.tokenizer.s2u import S2UStream

        return Case(lambda: S2UStream(tokenizer, 1), audio, tokenizer.encode(audio)[0][None], columns, beside)
    if request.param == "recording":
        tokenizer, audio = make_speech_tokenizer(), samples(1.3)[0, :-77]
        return Case(
            lambda: StreamingTokenizer(tokenizer, AudioLimits()),
            audio.numpy(),
            tokenizer.encode(audio[None])[0].tolist(),
            lambda w, s, e: w[s:e],
            lambda parts: [unit for part in parts for unit in part],
        )
    if request.param == "speaking":
        generator, style = torch.Generator().manual_seed(1), DEFAULT_STYLES.all[5]
        vectors = {each.key: torch.randn(8, generator=generator) for each in DEFAULT_STYLES}
        own = Voice(make_speech_detokenizer(), StylePrototypes(vectors))
        units = torch.randint(0, 4096, (140,), generator=generator).tolist()
        whole = torch.from_numpy(own.synthesize(units, style))[None]
        spoken = lambda parts: torch.from_numpy(np.concatenate(parts))[None]  # noqa: E731
        return Case(lambda: own.start(style), units, whole, lambda w, s, e: w[s:e], spoken, 1e-4)
    if request.param == "voice":
        voice = make_speech_detokenizer()
        vector = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
        row = torch.randint(0, voice.codebook_size, (1, 40), generator=torch.Generator().manual_seed(2))
        return Case(lambda: voice.streaming(vector), row, voice.decode(row, vector), columns, beside, 1e-4)
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    if request.param.endswith("parser"):
        reply_format = build_reply_format(request.param.split()[0], {}, DEFAULT_STYLES)
        reply = SpokenReply('Is it "red"? 😀', "Yes.\n你好, and more words to say.", "happy", "low", (1, 4095, 7) * 15)
        ids = reply_format.encode(reply, table)
        opened = lambda: EventStream(table, reply_format.parser("male"))  # noqa: E731
        events = merge_deltas([event for part in run(opened(), [ids]) for event in part])
        return Case(
            opened, ids, events, lambda w, s, e: w[s:e], lambda parts: merge_deltas(event for p in parts for event in p)
        )
    engine = Engine(tiny_model)
    ids = np.random.default_rng(0).integers(0, 300, 60).tolist()
    with torch.inference_mode():
        logits = tiny_model(input_ids=torch.tensor([ids])).logits[0, :, : engine.llama.token_count]
    return Case(lambda: ScoreStream(engine), ids, logits, lambda w, s, e: w[s:e], torch.cat, 1e-4)


def length(whole: Any) -> int:
    return whole.shape[1] if isinstance(whole, torch.Tensor) else len(whole)


def test_streamed_equals_offline(case) -> None:
    count = length(case.whole)
    rng = np.random.default_rng(0)
    somewhere = sorted(rng.integers(0, count, 6).tolist())
    for cuts in ([], somewhere, sorted([0, *somewhere, *somewhere, count]), list(range(0, count, max(1, count // 30)))):
        edges = [0, *cuts, count]
        stream = case.open()
        assert isinstance(stream, Stream)
        chunks = (case.cut(case.whole, start, end) for start, end in zip(edges, edges[1:], strict=False))
        joined = case.join(run(stream, chunks))
        if isinstance(joined, torch.Tensor):
            assert joined.shape == case.offline.shape
            assert (joined - case.offline).abs().max() <= case.tolerance
        else:
            assert joined == case.offline


def level_steps(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The steps between neighbouring samples: at the joints of the parts, and inside of them."""
    joined = torch.cat(parts, dim=1)[0]
    joints = np.cumsum([part.shape[1] for part in parts])
    joints = np.unique(joints[(joints > 0) & (joints < len(joined))])
    steps = joined.diff().abs()
    inside = torch.ones(len(steps), dtype=torch.bool)
    inside[joints - 1] = False
    return steps[joints - 1], steps[inside]


def test_no_click_at_a_chunk_boundary() -> None:
    """The level steps at the joints are on average of the size of those inside."""
    from tests.fixtures_speech import make_speech_detokenizer

    voice = make_speech_detokenizer()
    style = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    units = torch.randint(0, voice.codebook_size, (1, 60), generator=torch.Generator().manual_seed(3))
    joints, inside = level_steps(run(voice.streaming(style), units.split(6, dim=1)))
    assert len(joints) >= 3 and joints.mean() <= 3 * inside.mean() + 1e-6


def test_the_shipped_ears_and_voice_stream_without_a_click() -> None:
    """The same laws on the trained parts, and real speech: no joint stands out of the steps inside."""
    tokenizer, voice = load_speech_tokenizer("emova-nano"), load_voice("emova-nano")
    samples = torch.from_numpy(load_audio(EXAMPLES / "question.wav", tokenizer.sample_rate))[None]
    whole = tokenizer.encode(samples)[0][None]
    with tokenizer.streaming(1) as stream:
        assert torch.equal(torch.cat(run(stream, samples.split(640, dim=1)), dim=1), whole)
    style = voice.vector(Style("female", "happy", "high"))
    with torch.inference_mode():
        parts = run(voice.detokenizer.streaming(style), whole.split(5, dim=1))
        offline = voice.detokenizer.decode(whole, style)
    assert (torch.cat(parts, dim=1) - offline).abs().max() < 1e-4
    joints, inside = level_steps(parts)
    assert len(joints) >= 5
    assert joints.mean() <= 2 * inside.mean() and joints.max() <= inside.max()
