"""Transcripts as a model writes them that did not hear every word: the answer has to be right all the same.

A model that is trained on true transcripts alone trusts what it has written, and answers another question when it has
misheard one. Here a few words are lost, doubled, or replaced by others that begin or end alike, and the transcript
teaches nothing itself; the heard units still say what was really asked (scheduled sampling's purpose, Bengio et al.
2015, arXiv 1506.03099, without letting the model write).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LOST, DOUBLED = 0.25, 0.1
"""Shares of the misheard words; the others are replaced."""
WORDS = 0.25
"""The share of a transcript's words that is misheard."""


class TranscriptNoise:
    """Mishears words for others of a vocabulary.

    Args:
        texts: what the vocabulary is taken from.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        words = sorted({word for text in texts for word in text.split()})
        self._alike: dict[str, list[str]] = {}
        for word in words:
            for key in _keys(word):
                self._alike.setdefault(key, []).append(word)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """``text`` with some words misheard; at least one word stays."""
        made: list[str] = []
        for word in text.split():
            if rng.random() >= WORDS:
                made.append(word)
                continue
            how = rng.random()
            if how < LOST:
                continue
            if how < LOST + DOUBLED:
                made += [word, word]
                continue
            keys = _keys(word)
            options = self._alike.get(keys[int(rng.integers(len(keys)))]) or [word]
            made.append(options[int(rng.integers(len(options)))])
        return " ".join(made) or text


def _keys(word: str) -> tuple[str, str]:
    """What words that sound alike share: how they begin, and how they end."""
    plain = "".join(letter for letter in word.lower() if letter.isalnum()) or word
    return f"{plain[:2]}_", f"_{plain[-2:]}"
