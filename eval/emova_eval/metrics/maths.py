"""Mathematics: reading a free answer's result (MathVista, MathVerse), and MM-Vet's grades.

MathVista (Lu et al. 2024) and MathVerse (Zhang et al. 2024) let GPT extract the result; where no such judge is there,
these rules do it, and the report names them, since the figures differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emova.core.levenshtein import edit_distance
from emova_eval.metrics.choices import LETTERS, extract_choice

_NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?"


def extract_result(prediction: str) -> str:
    """The result that ``prediction`` states: what is boxed, what follows "answer is" or "Answer:", else all of it."""
    text = prediction.strip()
    if boxed := re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text):
        return boxed[-1].strip()
    stated = re.findall(r"(?:answer|result)\s*(?:is|:|=)\s*[:*\s]*([^\n]+)", text, re.IGNORECASE)
    if stated:
        text = re.split(r"\.(?=\s|$)", stated[-1])[0]
    return text.strip().strip("*\"'` ")


def last_number(text: str) -> float | None:
    """The last number in ``text`` (fractions divided, thousands joined), or None."""
    found = re.findall(_NUMBER, text)
    if not found:
        return None
    top, _, bottom = found[-1].replace(",", "").partition("/")
    if not bottom:
        return float(top)
    return float(top) / float(bottom) if float(bottom) else None


def mathvista_match(
    prediction: str, answer: str, answer_type: str = "text", choices: Sequence[str] = (), precision: int | None = None
) -> float:
    """1 where the normalised result equals the answer.

    Args:
        answer_type: ``integer``, ``float`` (rounded to ``precision`` decimals), ``list``, or ``text``.
        choices: for multiple choice; the result may be a letter or a text, of which the nearest choice is taken.
    """
    result = extract_result(prediction)
    if not result:
        return 0.0
    if choices:
        letter = extract_choice(result, choices)
        if letter is None:  # the nearest by edit distance, as MathVista does
            distances = [edit_distance(choice.lower(), result.lower()) for choice in choices]
            letter = LETTERS[distances.index(min(distances))]
        return float(choices[LETTERS.index(letter)] == answer)
    if answer_type in ("integer", "float"):
        given, wanted = last_number(result), last_number(answer)
        if given is None or wanted is None:
            return 0.0
        if answer_type == "integer":
            return float(int(given) == int(wanted))
        digits = precision if precision is not None else 2
        return float(round(given, digits) == round(wanted, digits))
    return float(re.sub(r"\s+", "", result.lower()) == re.sub(r"\s+", "", answer.lower()))


def mathverse_match(prediction: str, answer: str, choices: Sequence[str] = ()) -> float:
    """1 where the result is the answer: its letter, its number, or its text without spaces and signs of degree."""
    result = extract_result(prediction)
    if not result:
        return 0.0
    if choices or re.fullmatch(r"[A-E]", answer.strip()):
        return float(extract_choice(result, choices or ["?"] * 5) == answer.strip())
    plain = [re.sub(r"[\s°$]|\\circ|\^|cm|°", "", text.lower()) for text in (result, answer)]
    if plain[0] == plain[1]:
        return 1.0
    given, wanted = last_number(result), last_number(answer)
    only_number = re.fullmatch(_NUMBER, plain[1]) is not None
    return float(only_number and given is not None and wanted is not None and abs(given - wanted) < 1e-6)


def mmvet_grade(judgement: str) -> float | None:
    """MM-Vet's grade 0.0 to 1.0 from a judge's words (Yu et al. 2024); None for nonsense, which counts as 0."""
    found = re.findall(r"(?<![\d.])([01](?:\.\d+)?)(?![\d.]*\d)", judgement)
    grades = [float(number) for number in found if 0 <= float(number) <= 1]
    return grades[-1] if grades else None
