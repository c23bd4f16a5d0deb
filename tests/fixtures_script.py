"""A model that writes what a test tells it to, as far as its grammar lets it."""

from __future__ import annotations

import numpy as np
import pytest

from emova.assistant import Assistant
from emova.decoding.sampling import Sampler
from emova.reply.grammar import Grammar


class Script:
    """Makes a model write ``text``, as far as its grammar lets it; behind it, it writes what it wants."""

    def __init__(self, assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes, self.text, self._written = assistant.table.token_bytes, "", b""
        monkeypatch.setattr(type(assistant), "doubt", None)  # it would not trust words that are not its own
        choose, advance = Sampler.choose, Grammar.advance

        def chosen(sampler: Sampler, scores: np.ndarray, allowed: np.ndarray, kind: str) -> int:
            rest = self.text.encode()[len(self._written) :]
            fitting = [
                token for token in allowed.tolist() if self._bytes[token] and rest.startswith(self._bytes[token])
            ]
            best = max(fitting, key=lambda token: len(self._bytes[token] or b""), default=None)
            return choose(sampler, scores, allowed, kind) if best is None else best

        def advanced(grammar: Grammar, token: int) -> None:
            self._written += self._bytes[token] or b""
            advance(grammar, token)

        monkeypatch.setattr(Sampler, "choose", chosen)
        monkeypatch.setattr(Grammar, "advance", advanced)

    def next(self, text: str) -> None:
        """The beginning of the next reply."""
        self.text, self._written = text, b""
