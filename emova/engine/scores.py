"""The language model as a stream: the scores that follow each token.

Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emova.core.streams import Stream
from emova.engine.engine import Engine


class ScoreStream(Stream[Sequence[int], Tensor]):
    """Token ids to the scores of what follows each of them, from a cache: ``[T, V]`` for ``T`` new ids."""

    def __init__(self, engine: Engine) -> None:
        self._llama = engine.llama
        self._cache = engine.new_cache()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], /) -> Tensor:
        """``[T, V]`` scores (float32) after each of ``tokens``."""
        if not tokens:
            return torch.zeros(0, self._llama.token_count)
        hidden_TD = self._llama.forward([(self._cache, self._llama.embed(tokens))], every=True)
        return self._llama.scores(hidden_TD)

    def finish(self) -> Tensor:
        """Nothing is held back."""
        return torch.zeros(0, self._llama.token_count)
