"""Sampling: it follows the probabilities, tells damage, and leaves loops."""

from __future__ import annotations

import numpy as np
import pytest

from emova.core.errors import InputError
from emova.decoding.sampling import GREEDY, Loops, Sampler, Sampling


def test_sampling() -> None:
    scores, allowed = np.asarray([1.0, 4.0, 3.9], dtype=np.float32), np.asarray([11, 12, 13])
    assert Sampler(GREEDY, 100).choose(scores, allowed, "units") == 12
    sampler = Sampler(Sampling(unit_temperature=1.0, top_p=0.9, seed=1), 100)
    assert {sampler.choose(scores, allowed, "units") for _ in range(100)} == {12, 13}
    for wrong in (np.nan, np.inf):
        with pytest.raises(InputError, match="damaged"):
            sampler.choose(np.asarray([0.0, wrong, 1.0], dtype=np.float32), allowed, "units")


def test_sampling_follows_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=600).astype(np.float32) * 2
    weights = np.exp(scores.astype(np.float64))
    order = np.argsort(-weights)
    reached = weights[order].cumsum() / weights.sum()
    for top_p in (0.5, 0.999):
        kept = order[: int(np.searchsorted(reached, top_p)) + 1]
        sampler = Sampler(Sampling(unit_temperature=1.0, top_p=top_p), 600)
        drawn = np.bincount([sampler.choose(scores, np.arange(600), "units") for _ in range(4000)], minlength=600)
        assert set(np.flatnonzero(drawn)) <= set(kept.tolist())
        share = weights[kept[0]] / weights[kept].sum()
        assert abs(drawn[kept[0]] / 4000 - share) < 0.03


def written(text: str, most: int = 60, sampling: Sampling = GREEDY, kind: str = "text") -> list[int]:
    """What a model writes that always wants to go on with ``text``, over again."""
    sampler, allowed, tokens = Sampler(sampling, 256), np.arange(256), []
    for place in range(most):
        scores = np.zeros(256, dtype=np.float32)
        scores[ord(text[place % len(text)])] = 9.0
        scores[ord(".")] = 1.0
        tokens.append(sampler.choose(scores, allowed, kind))
    return tokens


@pytest.mark.parametrize(("loop", "kept"), [("s,", 6), ("a", 6), ("abc", 9), ("abcdefghij", 30)])
def test_text_leaves_a_loop(loop, kept) -> None:
    tokens = "".join(map(chr, written(loop)))
    assert tokens[: kept + 1] == (loop * 60)[:kept] + "."
    assert "".join(map(chr, written(loop, sampling=Sampling(text_repeats=0)))) == (loop * 60)[:60]


def test_numbers_and_short_repeats_are_no_loops() -> None:
    for text in ("1,000,000,000", "1000000", "no, no, no", "ha ha ha", "a very, very good day and a very, very good"):
        loops = Loops(3, 6, 24)
        for token in text.encode():
            assert token not in loops.barred(), text
            loops.take(token)


def test_every_loop_is_barred() -> None:
    """Against the definition: a token is barred if it makes a stretch stand too often at the end of the row."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        loops = Loops(2, 4, 5)
        row: list[int] = []
        for token in rng.integers(0, 2, 40).tolist():
            wanted = set()
            for after in (0, 1):
                for period in range(1, 6):
                    end = [*row, after][-max(2 * period, 4) - 1 :]
                    if len(end) == max(2 * period, 4) + 1 and end[period:] == end[:-period]:
                        wanted.add(after)
            assert set(loops.barred()) == wanted
            loops.take(token)
            row.append(token)


def test_units_are_left_alone_but_for_a_long_run() -> None:
    sampling = Sampling(unit_temperature=0.0, unit_run=20)
    assert written("ab", 60, sampling, "units") == [ord("a"), ord("b")] * 30
    assert written("a", 60, sampling, "units") == ([ord("a")] * 20 + [ord(".")]) * 2 + [ord("a")] * 18


def test_the_grammar_comes_before_the_rule() -> None:
    sampler = Sampler(GREEDY, 10)
    assert [sampler.choose(np.zeros(1, dtype=np.float32), np.asarray([7]), "text") for _ in range(30)] == [7] * 30
