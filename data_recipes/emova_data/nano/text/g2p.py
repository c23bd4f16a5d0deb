"""English text to phones, one misaki symbol a phone, with the dictionary and rules that hibari bundles."""

from __future__ import annotations

import functools
from collections.abc import Callable

from emova.speech.spelling import dictionary
from emova.speech.tokenizer.phones import is_mark


@functools.lru_cache(maxsize=1)
def _splitter() -> Callable[[str], list[str]]:
    from hibari import Hibari

    return Hibari.split_sentences


@functools.lru_cache(maxsize=65536)
def phonemes(text: str) -> str:
    """The phoneme string of ``text`` with stress marks, spaces and punctuation, ready for a synthesizer."""
    parts = (dictionary()(sentence) for sentence in _splitter()(text))
    return " ".join(part for part in parts if part)


def is_phone(symbol: str) -> bool:
    """Whether ``symbol`` is a sound: not stress, length, a space or punctuation."""
    return not is_mark(symbol)


def phones(text: str) -> list[str]:
    """The phones of ``text``: sounds only. None is left out: whoever learns from them counts what it does not know."""
    return [symbol for symbol in phonemes(text) if is_phone(symbol)]
