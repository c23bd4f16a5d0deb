"""Times of the phones of a transcript: the likeliest path of a phone recogniser that says just these phones.

Shapes: N labels (50 a second), P phone classes (0 = silence), L phones of the transcript, S = 2L + 1 states.
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
