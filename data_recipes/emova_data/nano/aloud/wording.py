"""Prose to sentences that can be read aloud as they are written, digits and all.

``emova_data.nano.text.spoken_text`` writes numbers as words; here they stay, since who types a text to be read aloud
types digits. The synthesizer's own rules say how they are spoken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_CHARACTERS = 140
LEAST_LETTERS = 2

_MARKS = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"', "—": ", ", "–": "-", "…": ".",
                        "\u00a0": " ", "\t": " ", "\n": " "})  # fmt: skip
_READABLE = re.compile(r"[A-Za-z0-9 ',.?!:;$%&-]+")
_END = re.compile(r"(?<=[.?!])['\")]*\s+(?=['\"(]*[A-Z0-9])")
_SHORT_FORMS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Capt|Gen|Col|Lt|Sgt|Rev|Hon|Jr|Sr|vs|etc|No|[A-Z])\.$")
_CLAUSE = re.compile(r"(?<=[,;:])\s+")
_WORDLIKE = re.compile(r"[A-Za-z]+")
_ROMAN = re.compile(r"\b[IVXLC]{2,}\b")


def sentences(prose: str) -> Iterator[str]:
    """The sentences of ``prose``, none joined over an abbreviation's full stop."""
    held = ""
    plain = re.sub(r"\s+(?=,)", "", re.sub(r"\s+", " ", prose.translate(_MARKS)))
    for part in _END.split(plain):
        held = f"{held} {part}".strip() if held else part.strip()
        if _SHORT_FORMS.search(held):
            continue
        if held:
            yield held
        held = ""
    if held:
        yield held


def clauses(sentence: str, most: int = MOST_CHARACTERS) -> Iterator[str]:
    """``sentence``, cut behind commas, semicolons and colons where it has more than ``most`` characters; what is longer
    still is left out."""
    held = ""
    for part in _CLAUSE.split(sentence):
        if held and len(held) + 1 + len(part) > most:
            yield from _whole(held, most)
            held = ""
        held = f"{held} {part}" if held else part
    yield from _whole(held, most)


def _whole(text: str, most: int) -> Iterator[str]:
    if text and len(text) <= most:
        yield text


def readable(text: str) -> str | None:
    """``text`` as one line to be read aloud, or None: foreign letters, code, addresses, shouting, nothing to say."""
    text = text.translate(_MARKS)
    text = re.sub(r"\s*--+\s*", ", ", text)
    text = re.sub(r"[\"*_()\[\]]", "", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.?!;:])", r"\1", text)
    text = re.sub(r"([.?!,;:])\1+", r"\1", text)
    text = re.sub(r"(?<!\w)'|'(?![\w])", "", text)
    text = re.sub(r",([.?!])", r"\1", text).strip(" ,;:-")
    if not _READABLE.fullmatch(text) or sum(map(str.isalpha, text)) < LEAST_LETTERS or len(text) > MOST_CHARACTERS:
        return None
    if re.search(r"[a-z][A-Z]|\w[.?!,;:]+[A-Za-z]|(\w)\1{3,}|\w{22,}|\d{7,}|[A-Za-z]\d|\d[A-Za-z]{3,}", text):
        return None
    if _ROMAN.search(text) or re.search(r"\b(?!AM|PM|TV|OK|US|UK|AI|ID)[A-Z]{2,}\b", text):
        return None
    letters = _WORDLIKE.findall(text)
    if not letters or sum(len(word) == 1 and word not in ("I", "a", "A") for word in letters) > 1:
        return None
    text = text[0].upper() + text[1:]
    text = re.sub(r"\bi\b(?!\.)", "I", text)
    return text if text[-1] in ".?!" else text.rstrip(" ,;:-'") + "."


def key(text: str) -> str:
    """The form in which two texts are the same."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))
