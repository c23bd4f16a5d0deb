"""Word and token errors on cases worked by hand."""

from __future__ import annotations

import pytest

from emova.core.levenshtein import edit_distance
from emova_eval.metrics.text import ErrorRate, normalize_english, token_errors, word_errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b b c", 1),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c d", "b c d a", 2),
    ],
)
def test_edit_distance(reference: str, hypothesis: str, edits: int) -> None:
    assert edit_distance(reference.split(), hypothesis.split()) == edits


def test_number_words_equal_digits_and_punctuation_is_dropped() -> None:
    assert normalize_english("There are THREE stars!") == normalize_english("there are 3 stars")


def test_an_empty_hypothesis_counts_every_word() -> None:
    assert word_errors("what do you see", "").rate == 1.0


def test_rates_are_pooled_over_tokens_not_averaged_over_sentences() -> None:
    total = token_errors(["a", "b", "c", "d"], ["a", "b", "c", "d"]) + token_errors(["a"], ["b"])
    assert total == ErrorRate(edits=1, reference_tokens=5)
    assert total.rate == pytest.approx(0.2)


def test_an_empty_corpus_has_no_error_and_an_invented_word_has() -> None:
    assert ErrorRate(0, 0).rate == 0.0
    assert word_errors("", "hello").rate == 1.0
