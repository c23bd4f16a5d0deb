"""The measure that conversations are compared by: near is understood, far and empty are not."""

from __future__ import annotations

import pytest

from tests.hearing import understood


@pytest.mark.parametrize("heard", ["How much is the cheese?", "how about is the cheese", "Much is cheese."])
def test_a_word_or_two_heard_otherwise_is_understood(heard: str) -> None:
    assert understood(heard)


@pytest.mark.parametrize(
    "heard", ["", None, "The cheese.", "How much is the tree?", "Where are you? How much is the cheese?"]
)
def test_the_keyword_is_needed_and_no_more_than_two_may_be_wrong(heard: str | None) -> None:
    assert not understood(heard)


def test_of_any_sentence() -> None:
    assert not understood("Who has the mast", "Who has the most?")
    assert understood("Can you say a good tong twister to me?", "Can you say a good tongue twister for me?")
