"""Speaking while units come in: the pieces are the whole, and a chunk waits as long as the listener has sound."""

from __future__ import annotations

import numpy as np
import pytest

from emova.assistant import Assistant
from emova.speech.style import Style
from emova.speech.voice import ChunkPlan


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("pace", [1e9, 200.0, 30.0, 5.0])
def test_pieces_are_the_whole_at_any_pace(tiny_checkpoint, pace: float) -> None:
    voice, clock = Assistant.from_pretrained(tiny_checkpoint).voice, Clock()
    units = np.random.default_rng(0).integers(0, voice.detokenizer.codebook_size, 90).tolist()
    speaking, pieces, spoken = voice.start(Style(), ChunkPlan(), clock), [], []
    for number, unit in enumerate(units, 1):
        clock.now += 1 / pace
        piece = speaking.step([unit])
        if len(piece):
            pieces.append(piece)
            spoken.append(number)
    pieces.append(speaking.finish())
    whole = voice.synthesize(units, Style())
    assert np.allclose(np.concatenate(pieces), whole, atol=1e-4)
    if pace == 1e9:  # all units are there before the first piece is heard
        assert len(spoken) == 1
    sizes = np.diff([0, *spoken])
    assert all(size >= least for size, least in zip(sizes, (5, 10, 20, 40), strict=False))


def test_a_chunk_waits_for_the_listener_but_not_for_ever(tiny_checkpoint) -> None:
    voice, clock = Assistant.from_pretrained(tiny_checkpoint).voice, Clock()
    plan = ChunkPlan(first=5, growth=2.0, largest=40, reserve=0.1)
    speaking = voice.start(Style(), plan, clock)
    first = speaking.step([0] * 30)
    until = len(first) / voice.sample_rate
    assert until > plan.reserve
    clock.now = until - plan.reserve - 0.01
    assert not len(speaking.step([0] * 20))
    clock.now = until - plan.reserve
    assert len(speaking.step([0]))
    assert not len(speaking.step([0] * 39))  # what was just spoken lasts
    assert len(speaking.step([0]))
