"""Choosing the next token: the best, or drawn by temperature and top-p, with a rule against loops.

All scratch memory is allocated once. A sampler's numbers depend on its seed alone, not on who decodes beside it.

Shape letters: A allowed ids.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from emova.core.errors import InputError

DAMAGED = "the model's scores are not numbers; its weights are damaged, copy the checkpoint again"
_LIKELIEST = 128  # enough for top_p in nearly every step; if not, everything is sorted
_LONGEST_STRETCH = 24  # tokens; about a sentence
_SHORTEST_LOOP = 6  # tokens; 1,000,000 and "ha ha ha" are none


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen among those that the grammar allows; temperature 0 takes the likeliest.

    Attributes:
        text_repeats: the same stretch of text stands at most so many times (2 or more) in a row; 0 sets no limit. A
            small model that takes the likeliest token would else go on with "six, six, six" until its reply is full.
        unit_run: the same unit stands at most so many times in a row (75 are 3 s of a held sound); 0 sets no limit.
            Speech repeats itself in other ways too, and is left alone.
        ctc_weight: CTC's share in the choice of a transcript's tokens, where the model was trained with CTC
            (``emova.decoding.ctc``); 0 leaves it to the language model.
    """

    text_temperature: float = 0.0
    style_temperature: float = 0.0
    unit_temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 0
    text_repeats: int = 3
    unit_run: int = 75
    ctc_weight: float = 0.6

    def temperature(self, kind: str) -> float:
        """The temperature for a token of ``kind`` (text, style, units)."""
        return {"text": self.text_temperature, "style": self.style_temperature, "units": self.unit_temperature}[kind]


GREEDY = Sampling(unit_temperature=0.0)


class Loops:
    """Watches a row of tokens, and tells which next tokens would carry a loop on.

    Args:
        times: a stretch may stand so often in a row.
        shortest: a row of repeats of no more tokens than this is no loop yet.
        longest: of the stretches that are looked for, in tokens.
    """

    def __init__(self, times: int, shortest: int, longest: int) -> None:
        assert times >= 2 or longest == 1, "a token that stood somewhere before makes no loop"
        self._most = [max(times * period, shortest) for period in range(1, longest + 1)]
        self._recent: deque[int] = deque(maxlen=longest)
        # For each period, how many of the last tokens equal the token that stands one period before them.
        self._equal = [0] * longest

    def take(self, token: int) -> None:
        """The next token of the row."""
        equal = self._equal
        for index, earlier in enumerate(reversed(self._recent)):
            equal[index] = equal[index] + 1 if earlier == token else 0
        self._recent.append(token)

    def barred(self) -> list[int]:
        """The tokens that may not come next."""
        # A run of one period is as long as its equal tokens and the first stretch.
        return [
            self._recent[-period]
            for period, (equal, most) in enumerate(zip(self._equal, self._most, strict=True), 1)
            if period <= len(self._recent) and equal + period >= most
        ]


class Sampler:
    """Chooses for one reply.

    Args:
        vocabulary: the most ids that are ever allowed at once.
    """

    def __init__(self, sampling: Sampling, vocabulary: int) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._weights = np.empty(vocabulary, dtype=np.float32)
        self._loops: dict[str, Loops] = {}
        if sampling.text_repeats:
            self._loops["text"] = Loops(sampling.text_repeats, _SHORTEST_LOOP, _LONGEST_STRETCH)
        if sampling.unit_run:
            self._loops["units"] = Loops(sampling.unit_run, 1, 1)

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
        loops = self._loops.get(kind)
        if loops is not None and (barred := loops.barred()):
            free = ~np.isin(allowed, barred)
            if free.any():  # what the grammar asks for comes first
                weights[~free] = -np.inf
                best = int(weights.argmax())
        temperature = self.sampling.temperature(kind)
        place = best if temperature <= 0 else self._draw(weights, float(weights[best]), temperature)
        token = int(allowed[place])
        if loops is not None:
            loops.take(token)
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
