"""The law of every stream: however its input is cut, the joined results equal those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from emova.grammar import TokenTable
from emova.reply import JsonReply, SpokenReply, merge_deltas
from emova.streaming.engine import Engine
from emova.streaming.protocol import EventStream, ScoreStream, Stream, run


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


@pytest.fixture(params=["tokenizer", "voice", "parser", "model"])
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
    if request.param == "voice":
        voice = make_speech_detokenizer()
        style = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
        units = torch.randint(0, voice.codebook_size, (1, 40), generator=torch.Generator().manual_seed(2))
        return Case(lambda: voice.streaming(style), units, voice.decode(units, style), columns, beside, 1e-4)
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    if request.param == "parser":
        reply = SpokenReply('Is it "red"? 😀', "Yes.\n你好", "happy", "low", (1, 4095, 7))
        ids = JsonReply().encode(reply, table)
        opened = lambda: EventStream(table, JsonReply().parser("male"))  # noqa: E731
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


def test_no_click_at_a_chunk_boundary() -> None:
    """The level steps at the joints are on average of the size of those inside."""
    from tests.fixtures_speech import make_speech_detokenizer

    voice = make_speech_detokenizer()
    style = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    units = torch.randint(0, voice.codebook_size, (1, 60), generator=torch.Generator().manual_seed(3))
    parts = run(voice.streaming(style), units.split(6, dim=1))
    joined = torch.cat(parts, dim=1)[0]
    joints = np.cumsum([part.shape[1] for part in parts])
    joints = np.unique(joints[(joints > 0) & (joints < len(joined))])
    steps = joined.diff().abs()
    assert len(joints) >= 3
    assert steps[joints - 1].mean() <= 3 * steps.mean() + 1e-6
