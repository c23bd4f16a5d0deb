"""The forced alignment finds the path that was drawn; warping finds the frames that stand for each other."""

from __future__ import annotations

import numpy as np
import pytest

from emova_train.s2u.alignment import align, warp


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


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_warping_finds_each_frame_in_a_slower_recording_and_back(repeats: int) -> None:
    words = np.random.default_rng(0).permutation(40)
    slow = np.repeat(words, repeats)
    stands = warp((words[:, None] != slow[None]).astype(float))
    assert (slow[stands] == words).all() and (np.diff(stands) >= 0).all()
    back = warp((slow[:, None] != words[None]).astype(float))
    assert (words[back] == slow).all()


def test_warping_goes_from_the_beginnings_to_the_ends_whatever_the_costs() -> None:
    costs = np.random.default_rng(1).random((7, 19))
    stands = warp(costs)
    assert len(stands) == 7 and (np.diff(stands) >= 0).all() and stands[0] >= 0 and stands[-1] < 19
    assert warp(np.ones((1, 5))).tolist() == [2] and warp(np.ones((5, 1))).tolist() == [0] * 5


def test_warping_costs_least_of_all_paths() -> None:
    costs = np.random.default_rng(2).random((4, 5))

    def paths(u: int, v: int) -> list[list[tuple[int, int]]]:
        if u == v == 0:
            return [[(0, 0)]]
        before = [(u - a, v - b) for a, b in ((1, 1), (1, 0), (0, 1)) if u >= a and v >= b]
        return [[*path, (u, v)] for cell in before for path in paths(*cell)]

    def price(path: list[tuple[int, int]]) -> float:
        steps = zip(path, path[1:], strict=False)
        return 2 * costs[0, 0] + sum(costs[b] * (b[0] - a[0] + b[1] - a[1]) for a, b in steps)

    best = min(paths(3, 4), key=price)
    ranges = [[v for u, v in best if u == row] for row in range(4)]
    assert warp(costs).tolist() == [(each[0] + each[-1]) // 2 for each in ranges]
