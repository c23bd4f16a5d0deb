"""Multiple choice and yes/no: finding what a free answer chose, exact match, MMBench's circular rule, MME's sum.

Sources: MMBench (Liu et al. 2023, circular evaluation), SEED-Bench (Li et al. 2023), ScienceQA (Lu et al. 2022), AI2D
(Kembhavi et al. 2016), RealWorldQA (xAI 2024), MME (Fu et al. 2023). Nothing is guessed: an answer that names no choice
or two of them is wrong, where some toolkits draw a choice at random.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from emova_eval.metrics.text import normalize_english

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CIRCULAR_STEP = 1_000_000

_REFUSALS = ("sorry", "cannot", "can't", "unable", "no correct option")


def extract_choice(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter that ``prediction`` chooses, or None when it chooses none, several, or refuses.

    In this order: the whole answer is a letter; "answer is B" or "(B)"; one letter alone among the words; the text of
    exactly one choice stands in the answer.
    """
    letters = LETTERS[: len(choices)]
    text = prediction.strip()
    if not text or not choices:
        return None
    if match := re.fullmatch(rf"\W*([{letters}{letters.lower()}])\W*", text):
        return match[1].upper()
    if match := re.match(rf"\(?([{letters}])\s*[).:,]", text):
        return match[1]
    named = re.findall(rf"(?:answer|option|choice)\s*(?:is|:)?\s*[:(\"'*]*([{letters}])\b(?!')", text, re.IGNORECASE)
    if len({letter.upper() for letter in named}) == 1:
        return named[0].upper()
    # "A" is also an article: it counts as a choice only where no word follows it.
    alone = set(re.findall(rf"(?<![\w'])\(?([{letters}])\)?(?![\w'])", text))
    if "A" in alone and re.search(r"\bA (?!or\b|and\b)[a-z]", text):
        alone.discard("A")
    if "I" in alone:
        alone.discard("I")
    if len(alone) == 1:
        return alone.pop()
    if len(alone) > 1 or any(word in text.lower() for word in _REFUSALS):
        return None
    said = f" {normalize_english(text)} "
    spoken = [f" {normalize_english(choice)} " for choice in choices]
    found = [index for index, choice in enumerate(spoken) if choice.strip() and choice in said]
    # "dark red" holds "red": a choice that is part of another found one does not count.
    found = [i for i in found if not any(i != j and spoken[i] in spoken[j] for j in found)]
    return letters[found[0]] if len(found) == 1 else None


def choice_match(prediction: str, answer: str, choices: Sequence[str]) -> float:
    """1 where the chosen letter is that of ``answer`` (a letter, or a choice's text)."""
    if len(answer.strip()) == 1 and answer.strip().upper() in LETTERS[: len(choices)]:
        wanted: str | None = answer.strip().upper()
    else:
        equal = [i for i, choice in enumerate(choices) if choice.strip().lower() == answer.strip().lower()]
        wanted = LETTERS[equal[0]] if equal else None
    return float(wanted is not None and extract_choice(prediction, choices) == wanted)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where prediction and an answer are equal after English normalisation; nothing equals nothing."""
    said = normalize_english(prediction)
    return float(bool(said) and any(said == normalize_english(answer) for answer in answers))


def contains_answer(prediction: str, answers: Sequence[str]) -> float:
    """1 where an answer's words stand, in order and whole, in the prediction (spoken question answering)."""
    said = f" {normalize_english(prediction)} "
    return float(any(f" {words} " in said for answer in answers if (words := normalize_english(answer))))


def yes_or_no(prediction: str) -> str:
    """``yes``, ``no``, or ``other``, from the first words as MME reads them."""
    head = re.sub(r"[^a-z ]", " ", prediction.strip().lower()).split()[:1]
    return head[0] if head and head[0] in ("yes", "no") else "other"


def circular_accuracy(hits: Mapping[int, float]) -> float:
    """Per cent of questions that are right in *every* rotation; rotations share index modulo a million."""
    questions: dict[int, list[float]] = defaultdict(list)
    for index, hit in hits.items():
        questions[index % CIRCULAR_STEP].append(hit)
    return 100 * sum(min(rotations) for rotations in questions.values()) / len(questions) if questions else 0.0


def mme_subtask(hits: Iterable[tuple[str, float]]) -> float:
    """acc + acc+ of one subtask, at most 200: questions right, and pictures of which both questions are right, in %."""
    pictures: dict[str, list[float]] = defaultdict(list)
    for picture, hit in hits:
        pictures[picture].append(hit)
    questions = [hit for both in pictures.values() for hit in both]
    if not questions:
        return 0.0
    return 100 * sum(questions) / len(questions) + 100 * sum(map(min, pictures.values())) / len(pictures)


def mme_sum(hits: Iterable[tuple[str, str, float]]) -> float:
    """The total over subtasks (perception and cognition, at most 2800) of (subtask, picture, hit)."""
    subtasks: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for subtask, picture, hit in hits:
        subtasks[subtask].append((picture, hit))
    return sum(mme_subtask(found) for found in subtasks.values())
