"""Choosing the next token: the best, or drawn by temperature and top-p, with a control against repetition.

All scratch memory is allocated once. A sampler's numbers depend on its seed alone, not on who decodes beside it.

Shape letters: A allowed ids.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from emova.decoding import Sampling
from emova.errors import InputError

DAMAGED = "the model's scores are not numbers; its weights are damaged, copy the checkpoint again"
_LIKELIEST = 128  # enough for top_p in nearly every step; if not, everything is sorted


class Sampler:
    """Chooses for one reply."""

    def __init__(self, sampling: Sampling, vocabulary: int) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._weights = np.empty(vocabulary, dtype=np.float32)
        self._recent: deque[int] = deque(maxlen=max(1, sampling.repetition_window))

    def choose(self, scores: np.ndarray, allowed: np.ndarray, kind: str) -> int:
        """One of ``allowed`` ``[A]``, whose scores are ``scores`` ``[A]`` float32.

        Raises:
            InputError: the scores are not numbers (damaged weights).
        """
        weights = self._weights[: len(allowed)]
        np.copyto(weights, scores)
        best = int(weights.argmax())  # the first NaN, if there is one
        if not np.isfinite(weights[best]):
            raise InputError(DAMAGED)
        penalised = kind == "units" and self.sampling.repetition_penalty > 0
        if penalised and self._recent:
            for token in set(self._recent):
                weights[allowed == token] -= self.sampling.repetition_penalty * self._recent.count(token)
            best = int(weights.argmax())
        temperature = self.sampling.temperature(kind)
        place = best if temperature <= 0 else self._draw(weights, float(weights[best]), temperature)
        token = int(allowed[place])
        if penalised:
            self._recent.append(token)
        return token

    def _draw(self, weights: np.ndarray, highest: float, temperature: float) -> int:
        np.subtract(weights, highest, out=weights)
        np.multiply(weights, 1 / temperature, out=weights)
        np.exp(weights, out=weights)
        wanted = self.sampling.top_p * float(weights.sum())
        order: np.ndarray
        if len(weights) > 2 * _LIKELIEST:
            order = np.argpartition(weights, -_LIKELIEST)[-_LIKELIEST:]
            if float(weights[order].sum()) < wanted:
                order = np.arange(len(weights))
        else:
            order = np.arange(len(weights))
        order = order[np.argsort(-weights[order], kind="stable")]
        reached = weights[order].cumsum(dtype=np.float64)
        kept = int(np.searchsorted(reached, wanted)) + 1
        kept = min(kept, len(order))
        drawn = int(np.searchsorted(reached[:kept], self._random.random() * reached[kept - 1], side="right"))
        return int(order[min(drawn, kept - 1)])
