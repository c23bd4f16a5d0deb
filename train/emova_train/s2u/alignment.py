"""Times of the phones of a transcript: the likeliest path of a phone recogniser that says just these phones. And of one
recording laid along another of the same words: dynamic time warping.

Shapes: N labels (50 a second), P phone classes (0 = silence), L phones of the transcript, S = 2L + 1 states; U and V
frames of two recordings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emova.speech.tokenizer.phones import BLANK


def align(log_probabilities_NP: np.ndarray, phones: Sequence[int]) -> list[tuple[int, int, int]]:
    """Viterbi over silence, phone, silence, phone ... where silences may be left out.

    Args:
        log_probabilities_NP: ``[N, P]``, of each label.
        phones: the transcript's classes.

    Returns:
        (phone, first label, end) of each phone.

    Raises:
        ValueError: there are fewer labels than phones.
    """
    count, states = len(log_probabilities_NP), 2 * len(phones) + 1
    if count < len(phones):
        raise ValueError(f"{count} labels cannot hold {len(phones)} phones")
    classes = np.full(states, BLANK)
    classes[1::2] = phones
    own = log_probabilities_NP[:, classes]
    may_skip = classes != BLANK
    best = np.full(states, -np.inf)
    best[:2] = own[0, :2]
    came = np.zeros((count, states), dtype=np.intp)
    for at in range(1, count):
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        choices = np.stack([best, one, two])
        came[at] = choices.argmax(axis=0)
        best = choices.max(axis=0) + own[at]
    state = states - 1 if best[-1] >= best[-2] else states - 2
    path = np.empty(count, dtype=int)
    for at in range(count - 1, -1, -1):
        path[at] = state
        state -= came[at, state]
    return [
        (phone, int(where[0]), int(where[-1]) + 1)
        for index, phone in enumerate(phones)
        if len(where := np.flatnonzero(path == 2 * index + 1))
    ]


def warp(costs_UV: np.ndarray) -> np.ndarray:
    """For each frame of one recording the frame of another that stands for it, by dynamic time warping from the
    beginnings to the ends (Sakoe & Chiba 1978; one step along either or both, a diagonal one costs its frame twice).

    Args:
        costs_UV: ``[U, V]``, of frame u standing for frame v; at least one of each.

    Returns:
        ``[U]``, rising; where several frames stand for one, the middle one of them.
    """
    rows, columns = costs_UV.shape
    assert rows and columns
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):  # all its cells at once
        u = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        v = diagonal - u
        cost = costs_UV[u, v]
        total[u + 1, v + 1] = np.minimum(np.minimum(total[u, v + 1], total[u + 1, v]) + cost, total[u, v] + 2 * cost)
    first, last = np.full(rows, columns), np.zeros(rows, dtype=int)
    u, v = rows - 1, columns - 1
    while True:
        first[u], last[u] = min(first[u], v), max(last[u], v)
        if u == v == 0:
            return (first + last) // 2
        cost = costs_UV[u, v]
        steps = (total[u, v] + 2 * cost, total[u, v + 1] + cost, total[u + 1, v] + cost)
        step = int(np.argmin(steps))
        u, v = u - (step != 2), v - (step != 1)
