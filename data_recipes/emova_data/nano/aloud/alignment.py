"""Which characters of a text are spoken when: the synthesizer's phones, word by word, laid over the text as written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from emova.speech.spelling import dictionary
from emova_data.nano.text.g2p import is_phone

_WORD = re.compile(r"\S+")


class Span(NamedTuple):
    """A stretch of text and of speech: characters [first, last), seconds from start to end."""

    first: int
    last: int
    start: float
    end: float


def word_phones(text: str) -> list[tuple[int, int, list[str]]]:
    """(first character, last, phones) of each stretch of ``text`` that is spoken as one piece, in order.

    Figures are spelled out before they are spoken; such a stretch covers all that was written otherwise.
    """
    from hibari.g2p.normalize import normalize

    spelled = normalize(text)
    where = _laid_over(text, spelled)
    tokens = dictionary().phonemize_tokens(dictionary().tokenize(spelled))
    found: list[tuple[int, int, list[str]]] = []
    place = 0
    for token in tokens:
        at = spelled.find(token.text, place)
        at = place if at < 0 else at
        place = at + len(token.text)
        sounds = [symbol for symbol in token.phonemes or "" if is_phone(symbol)]
        if not sounds:
            continue
        first, last = where[at][0], where[max(at, place - 1)][1]
        if found and found[-1][:2] == (first, last):
            found[-1][2].extend(sounds)
        else:
            found.append((first, last, sounds))
    return found


def _laid_over(text: str, spelled: str) -> list[tuple[int, int]]:
    """For each character of ``spelled`` the stretch of ``text`` that it stands for."""
    own = [(match.start(), match.end(), match[0]) for match in _WORD.finditer(text)]
    theirs = [(match.start(), match.end(), match[0]) for match in _WORD.finditer(spelled)]
    where = [(0, len(text))] * len(spelled)
    matcher = SequenceMatcher(None, [word[2] for word in own], [word[2] for word in theirs], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            for (first, _, _), (start, end, _) in zip(own[a:b], theirs[c:d], strict=True):
                for offset in range(end - start):
                    where[start + offset] = (first + offset, first + offset + 1)
        elif d > c and (b > a or own):
            reach = own[a:b] or own[max(a - 1, 0) : a + 1]
            stretch = (reach[0][0], reach[-1][1])
            for start, end, _ in theirs[c:d]:
                where[start:end] = [stretch] * (end - start)
    return where


def spans(text: str, alignment: Sequence[tuple[str, float, float]]) -> list[Span] | None:
    """The text's stretches with their times; None where the phones are not those of ``text``.

    Args:
        alignment: (phone, start s, end s) of the speech, in order.
    """
    words = word_phones(text)
    if [sound for _, _, sounds in words for sound in sounds] != [phone for phone, _, _ in alignment]:
        return None
    found, place = [], 0
    for first, last, sounds in words:
        own = alignment[place : place + len(sounds)]
        place += len(sounds)
        found.append(Span(first, last, own[0][1], own[-1][2]))
    return found
