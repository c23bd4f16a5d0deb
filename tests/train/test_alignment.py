"""The forced alignment finds the path that was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from train.alignment import align


def drawn(path: list[int], classes: int = 200) -> np.ndarray:
    """Log-probabilities that favour ``path``, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.3, (len(path), classes))
    noise[np.arange(len(path)), path] += 5
    return noise - np.log(np.exp(noise).sum(1, keepdims=True))


def test_spans_are_found_with_and_without_silence_between() -> None:
    path = [0, 0, 7, 7, 7, 3, 0, 0, 7, 0]
    assert align(drawn(path), [7, 3, 7]) == [(7, 2, 5), (3, 5, 6), (7, 8, 9)]


def test_phones_that_nothing_favours_still_get_their_place_in_order() -> None:
    spans = align(drawn([0, 5, 5, 5, 0]), [5, 9])
    assert [phone for phone, _, _ in spans] == [5, 9]
    assert all(first < end for _, first, end in spans) and spans[0][2] <= spans[1][1]


def test_long_transcripts_fill_their_labels() -> None:
    phones = [1 + number % 150 for number in range(300)]
    path = [phone for phone in phones for _ in range(2)]
    assert align(drawn(path), phones) == [(phone, 2 * at, 2 * at + 2) for at, phone in enumerate(phones)]


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        align(drawn([1, 2]), [1, 2, 3])
