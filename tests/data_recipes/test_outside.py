"""Questions outside the model's world: declined in words that the judge knows, apart from all that the talk answers."""

from __future__ import annotations

from emova_data.nano.text import outside, talk
from emova_data.nano.text.spoken_text import words


def form(text):
    return " ".join(words(text))


def test_every_answer_declines_and_no_answer_of_the_talk_does():
    assert all(outside.declines(answer) for answer, _, _ in outside.ANSWERS)
    answers = {row["answer"] for row in talk.build()}
    declining = [answer for answer in answers if outside.declines(answer)]
    assert len(declining) < 0.01 * len(answers), declining


def test_questions_are_of_one_split_and_not_the_talks():
    rows = outside.build()
    by_split = {
        split: {form(str(row["question"])) for row in rows if row["split"] == split} for split in ("train", "test")
    }
    assert not by_split["train"] & by_split["test"]
    assert len(by_split["train"]) > 400
    assert len(by_split["test"]) >= 100
    known = {form(row["question"]) for row in talk.build()}
    assert not (by_split["train"] | by_split["test"]) & known


def test_rows_have_the_form_of_the_talk_and_follow_from_the_seed():
    rows, again, other = outside.build(0), outside.build(0), outside.build(1)
    assert rows == again != other
    assert set(rows[0]) == set(talk.build()[0])
    assert all("{" not in str(row["question"]) for row in rows)
    assert all(len(str(row["question"]).split()) <= 14 for row in rows)
