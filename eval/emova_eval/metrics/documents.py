"""Answers about documents, charts and text in pictures: ANLS, relaxed accuracy, VQA accuracy, OCRBench.

Sources: DocVQA and InfoVQA (Mathew et al. 2021, 2022; ANLS of Biten et al. 2019 with threshold 0.5), ChartQA (Masry et
al. 2022), VQA (Antol et al. 2015; the processing of answers is that of its evaluation), OCRBench (Liu et al. 2023).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emova.core.levenshtein import edit_distance

ANLS_THRESHOLD = 0.5
CHART_TOLERANCE = 0.05


def anls(prediction: str, answers: Sequence[str]) -> float:
    """The best 1 - edit distance / longer length over ``answers``, and 0 where that distance is half or more."""
    best = 0.0
    said = " ".join(prediction.lower().split())
    for answer in answers:
        wanted = " ".join(answer.lower().split())
        longer = max(len(said), len(wanted))
        distance = edit_distance(wanted, said) / longer if longer else 0.0
        best = max(best, 1 - distance if distance < ANLS_THRESHOLD else 0.0)
    return best


def to_number(text: str) -> float | None:
    """A number as ChartQA reads it: thousands separators and a leading currency sign go, ``12 %`` is 0.12."""
    text = text.strip().replace(",", "").lstrip("$€£")
    percent = text.endswith("%")
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        return None
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return value / 100 if percent else value


def relaxed_match(prediction: str, answers: Sequence[str], tolerance: float = CHART_TOLERANCE) -> float:
    """1 where a number lies within 5 % of the answer's, or the texts are equal without regard to case; else 0."""
    said = prediction.strip().rstrip(".")
    for answer in answers:
        wanted, given = to_number(answer), to_number(said)
        if wanted is not None and given is not None:
            # A tolerance relative to zero allows nothing but zero.
            if abs(given - wanted) <= tolerance * abs(wanted):
                return 1.0
        elif said.lower() == answer.strip().rstrip(".").lower():
            return 1.0
    return 0.0


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_WHOLE = """
aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shouldn't wasn't weren't
won't wouldn't could've should've would've might've must've i've they've we've you've he'd i'd they'd we'd who'd you'd
he's how's she's somebody's someone's something's that's there's what's when's where's who's why's let's i'm they're
we're you're who're they'll you'll y'all ma'am o'clock 'twas
"""
# Words that are words without an apostrophe too are left alone.
_CONTRACTIONS = {word.replace("'", ""): word for word in _WHOLE.split()} | {"im": "i'm"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalize_vqa(text: str) -> str:
    """An answer as the VQA evaluation compares it: no punctuation, no articles, number words as digits."""
    text = " ".join(text.split())
    comma_in_number = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        stuck = comma_in_number or f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if stuck else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement with people: mean over leaving each one out of min(matches among the others / 3, 1).

    With a single reference it is plain equality, since no crowd can be left out.
    """
    said = normalize_vqa(prediction)
    matches = [normalize_vqa(answer) == said for answer in answers]
    if len(matches) <= 1:
        return float(sum(matches))
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def ocrbench_match(prediction: str, answers: Sequence[str], formula: bool = False) -> float:
    """1 where an answer stands in the prediction; formulas are compared without spaces and with case."""
    if formula:
        said = prediction.replace("\n", " ").replace(" ", "")
        return float(any(answer.strip().replace("\n", " ").replace(" ", "") in said for answer in answers if answer))
    said = prediction.lower().strip().replace("\n", " ")
    return float(any(answer.lower().strip().replace("\n", " ") in said for answer in answers if answer.strip()))
