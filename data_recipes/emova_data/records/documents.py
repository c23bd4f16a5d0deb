"""Long texts in pieces that a model can read at once. Words are words, or characters of Chinese."""

from __future__ import annotations

import re

WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")
_SENTENCE_END = re.compile(r"[.!?。！？]['\"”’)]*$")


def places_of(words: str) -> list[tuple[int, int]]:
    """Where each word begins and ends."""
    return [match.span() for match in WORD.finditer(words)]


def cut(words: str, most: int) -> list[str]:
    """``words`` in pieces of at most ``most`` words (0: any number), which joined are ``words``; cut after a sentence
    where one ends in the second half of a piece."""
    places = places_of(words)
    if not most or len(places) <= most:
        return [words]
    found, begun, first = [], 0, 0
    while len(places) - first > most:
        last = first + most
        ends = (at for at in range(last, first + most // 2, -1) if _SENTENCE_END.search(words[slice(*places[at - 1])]))
        last = next(ends, last)
        found.append(words[begun : places[last][0]])
        begun, first = places[last][0], last
    return [*found, words[begun:]]
