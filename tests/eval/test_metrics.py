"""Every metric on cases worked by hand, failures among them."""

from __future__ import annotations

import pytest

from emova_eval.metrics.choices import (
    choice_match,
    circular_accuracy,
    contains_answer,
    exact_match,
    extract_choice,
    mme_subtask,
    mme_sum,
    yes_or_no,
)
from emova_eval.metrics.documents import anls, normalize_vqa, ocrbench_match, relaxed_match, vqa_accuracy
from emova_eval.metrics.maths import extract_result, mathverse_match, mathvista_match, mmvet_grade
from emova_eval.metrics.text import character_errors, normalize_chinese


def test_chinese_is_counted_by_character_without_punctuation_and_width() -> None:
    assert normalize_chinese("你好，ＡＢ c 1！") == "你好abc1"
    assert character_errors("今天天气很好。", "今天天汽很好").edits == 1
    assert character_errors("今天天气很好。", "今天天汽很好").rate == pytest.approx(1 / 6)
    assert character_errors("今天", "").rate == 1.0


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("Hello", ["hello"], 1.0),
        ("helo", ["hello"], 0.8),
        ("he", ["hello"], 0.0),  # 3 of 5 wrong: below the threshold
        ("ab", ["abcd"], 0.0),  # exactly half wrong is not enough
        ("two", ["one", "two"], 1.0),
        ("", ["hello"], 0.0),
        ("x", [], 0.0),
    ],
)
def test_anls(said: str, answers: list[str], score: float) -> None:
    assert anls(said, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("said", "answer", "score"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("95", "100", 1.0),
        ("-100", "100", 0.0),
        ("0", "0", 1.0),
        ("0.01", "0", 0.0),
        ("12%", "0.12", 1.0),
        ("1,000", "1000", 1.0),
        ("Blue.", "blue", 1.0),
        ("nan", "3", 0.0),
        ("", "3", 0.0),
    ],
)
def test_relaxed_accuracy_allows_five_per_cent(said: str, answer: str, score: float) -> None:
    assert relaxed_match(said, [answer]) == score


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Dog.", "dog"),
        ("dont", "don't"),
        ("three, four", "3 4"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("a red-ball", "red ball"),
        ("ten", "10"),
    ],
)
def test_vqa_answers_are_normalised(text: str, plain: str) -> None:
    assert normalize_vqa(text) == plain


def test_vqa_accuracy_leaves_each_person_out() -> None:
    crowd = ["red"] * 3 + ["blue"] * 7
    # leaving out one of the three: 2/3 (three times); leaving out another: 1 (seven times)
    assert vqa_accuracy("Red", crowd) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("red", ["red"] + ["blue"] * 9) == pytest.approx(9 * (1 / 3) / 10)
    assert vqa_accuracy("green", crowd) == 0.0
    assert vqa_accuracy("red", ["red"]) == 1.0 and vqa_accuracy("red", []) == 0.0


def test_ocrbench_finds_the_answer_inside() -> None:
    assert ocrbench_match("It says STOP\nhere", ["stop here"]) == 1.0
    assert ocrbench_match("", ["stop"]) == 0.0 and ocrbench_match("x", [""]) == 0.0
    assert ocrbench_match("a ^ 2", ["a^2"], formula=True) == 1.0
    assert ocrbench_match("A^2", ["a^2"], formula=True) == 0.0


CHOICES = ["red", "dark red", "a blue car", "none"]


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C) a blue car", "C"),
        ("B. dark red", "B"),
        ("The answer is D.", "D"),
        ("Answer: C", "C"),
        ("It is dark red.", "B"),
        ("A blue car", "C"),
        ("I think it is red", "A"),
        ("A or B", None),
        ("Sorry, I cannot tell.", None),
        ("", None),
        ("green", None),
        ("The answer is E", None),
    ],
)
def test_choices_are_read_and_nothing_is_guessed(said: str, letter: str | None) -> None:
    assert extract_choice(said, CHOICES) == letter


def test_choice_match_takes_letters_and_texts() -> None:
    assert choice_match("B", "B", CHOICES) == 1.0 and choice_match("B", "dark red", CHOICES) == 1.0
    assert choice_match("", "B", CHOICES) == 0.0 and choice_match("A", "missing", CHOICES) == 0.0


def test_exact_and_contained() -> None:
    assert exact_match("Two!", ["2"]) == 1.0 and exact_match("", [""]) == 0.0 and exact_match("two cats", ["2"]) == 0.0
    assert contains_answer("It was Paris, of course.", ["paris"]) == 1.0
    assert contains_answer("Parisian", ["paris"]) == 0.0 and contains_answer("anything", [""]) == 0.0


def test_mmbench_needs_every_rotation() -> None:
    hits = {1: 1.0, 1_000_001: 1.0, 2: 1.0, 1_000_002: 0.0, 3: 0.0}
    assert circular_accuracy(hits) == pytest.approx(100 / 3)
    assert circular_accuracy({}) == 0.0


def test_mme_adds_acc_and_acc_plus_over_subtasks() -> None:
    count = [("a.png", 1.0), ("a.png", 1.0), ("b.png", 1.0), ("b.png", 0.0)]
    assert mme_subtask(count) == 75 + 50
    assert mme_sum([("count", *hit) for hit in count] + [("scene", "c", 1.0), ("scene", "c", 1.0)]) == 125 + 200
    assert mme_subtask([]) == 0.0
    assert [yes_or_no(text) for text in ("Yes, it is.", "NO", "Nothing", "", "Maybe yes")] == [
        "yes", "no", "other", "other", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (r"so \boxed{14}", "14"),
        ("The answer is 3.5.", "3.5"),
        ("First 2.\nAnswer: **B**", "B"),
        ("42", "42"),
        ("", ""),
    ],
)
def test_results_are_found(said: str, result: str) -> None:
    assert extract_result(said) == result


def test_mathvista_by_type() -> None:
    assert mathvista_match("The answer is 7 apples.", "7", "integer") == 1.0
    assert mathvista_match("1.249", "1.25", "float", precision=2) == 1.0
    assert mathvista_match("1.2", "1.25", "float", precision=2) == 0.0
    assert mathvista_match("(B)", "60°", "text", choices=["30°", "60°"]) == 1.0
    assert mathvista_match("60 degrees", "60°", "text", choices=["30°", "60°"]) == 1.0
    assert mathvista_match("[1, 2]", "[1,2]", "list") == 1.0
    assert mathvista_match("no number", "7", "integer") == 0.0 and mathvista_match("", "7", "integer") == 0.0


def test_mathverse_by_letter_number_and_text() -> None:
    assert mathverse_match("Answer: B", "B", ["1", "2", "3", "4"]) == 1.0
    assert mathverse_match("The answer is 50°", "50") == 1.0
    assert mathverse_match("It is 49", "50") == 0.0 and mathverse_match("", "50") == 0.0
    assert mathverse_match("Answer: x = 1/2", "0.5") == 1.0


@pytest.mark.parametrize(
    ("said", "grade"),
    [("0.7", 0.7), ("Correctness: 1.0", 1.0), ("I give 1", 1.0), ("good", None), ("", None), ("17", None)],
)
def test_mmvet_grades_are_parsed_and_nonsense_is_none(said: str, grade: float | None) -> None:
    assert mmvet_grade(said) == grade
