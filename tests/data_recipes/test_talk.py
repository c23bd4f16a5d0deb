"""Laws of the small talk: reproducible, held out, labeled, speakable, and judged by its own references."""

from __future__ import annotations

from collections import Counter

import pytest

from emova_data.nano.text import talk
from emova_data.nano.text.spoken_text import why_unspeakable, words


@pytest.fixture(scope="module")
def records():
    return talk.build(seed=0)


def keys_of(records, split, held_out=None):
    """(intent, words) of the questions."""
    keys = set()
    for r in records:
        if r["split"] == split and (held_out is None or r["held_out"] == held_out):
            keys.add((r["intent"], " ".join(words(r["question"]))))
    return keys


def test_same_seed_same_exchanges_other_seed_other_exchanges(records):
    assert talk.build(seed=0) == records
    assert talk.build(seed=1) != records
    # what is held out does not depend on the seed
    other = talk.build(seed=1)
    assert not keys_of(records, "train") & keys_of(other, "test", "phrasing")


def test_further_phrasings_are_for_training_and_change_nothing_else(records):
    before = talk.build(seed=0, more=0)
    assert records[: len(before)] == before
    further = records[len(before) :]
    assert {r["split"] for r in further} == {"train"} and all(r["id"].startswith(talk.MORE) for r in further)
    asked = Counter(r["intent"] for r in further)
    intents = talk.load_intents()
    assert asked.keys() == intents.keys() and min(asked.values()) >= 30
    tested = {(i.name, talk.core(i, q)) for i in intents.values() for q, *_ in talk._questions(i.test, i.rows)}
    assert not tested & {(r["intent"], talk.core(intents[r["intent"]], r["question"])) for r in further}


def test_no_test_question_is_in_train_with_or_without_opener(records):
    train, test = keys_of(records, "train"), keys_of(records, "test")
    assert not train & test
    intents = talk.load_intents()
    bare = {
        split: {(r["intent"], talk.core(intents[r["intent"]], r["question"])) for r in records if r["split"] == split}
        for split in ("train", "test")
    }
    assert not bare["train"] & bare["test"]


def test_core_drops_openers_and_please():
    joke = talk.load_intents()["joke"]
    for question in (
        "Tell me a joke.",
        "Hey, tell me a joke!",
        "Please tell me a joke.",
        "Hi, tell me a joke, please.",
    ):
        assert talk.core(joke, question) == "tell me a joke"
    greeting = talk.load_intents()["greeting"]  # here the opener is the matter itself
    assert talk.core(greeting, "Hello there!") == "hello there"


def test_every_intent_has_phrasings_answers_and_a_test(records):
    tested = Counter(r["intent"] for r in records if r["held_out"] == "phrasing")
    for name, intent in talk.load_intents().items():
        assert len(intent.questions) >= 12, name
        assert len(intent.test) >= 2, name
        assert tested[name] >= 2, name
        assert len({len(row) for row in intent.rows}) == 1
        for row in intent.rows:
            assert len(set(intent.replies(row))) == len(intent.answers)


def test_questions_are_unique_and_belong_to_one_intent(records):
    keys = [" ".join(words(r["question"])) for r in records]
    assert len(keys) == len(set(keys))


def test_all_is_speakable_and_short(records):
    for r in records:
        for text in (r["question"], r["answer"]):
            assert why_unspeakable(text) is None, text
            assert len(text.split()) <= talk.MAX_WORDS, text
            assert text[0].isupper() and text[-1] in ".?!", text
            assert "  " not in text and "{" not in text


def test_styles_are_valid_and_all_twelve_occur_with_plain_most_often(records):
    for r in records:
        assert r["emotion"] in talk.EMOTIONS and r["user_emotion"] in talk.EMOTIONS
        assert r["pitch"] in talk.PITCHES and r["user_pitch"] in talk.PITCHES
    counts = Counter((r["emotion"], r["pitch"]) for r in records)
    assert len(counts) == 12 and min(counts.values()) >= 40
    assert counts.most_common(1)[0][0] == ("neutral", "normal")
    table = talk.distribution(records).splitlines()
    assert len(table) == 5
    assert sum(int(cell) for line in table[1:] for cell in line.split()[1:]) == len(records)


def test_the_style_follows_from_intent_and_slots_alone(records):
    styles: dict = {}
    for r in records:
        key = (r["intent"], tuple(sorted(r["slots"].items())))
        assert styles.setdefault(key, (r["emotion"], r["pitch"])) == (r["emotion"], r["pitch"])


@pytest.mark.parametrize(
    ("emotion", "pitch", "question"),
    [
        ("sad", "low", "My dog died yesterday."),
        ("happy", "high", "I just passed the exam!"),
        ("angry", "high", "Someone stole my bicycle!"),
        ("sad", "high", "A puppy is hurt outside!"),
        ("neutral", "normal", "What color is a banana?"),
    ],
)
def test_the_rule_on_clear_cases(emotion, pitch, question):
    found = [
        intent.style(row)
        for intent in talk.load_intents().values()
        for pattern in intent.questions
        for text in talk.expand(pattern)
        for row in intent.rows
        if talk.fill(text, row) == question
    ]
    assert found == [(emotion, pitch)]


def test_size(records):
    assert 12000 <= len(records) <= 16000
    assert sum(r["split"] == "test" for r in records) >= 400
    assert len({r["answer"] for r in records if not r["slots"]}) <= 250


def test_expand_and_fill():
    assert talk.expand("I am (so|very) sad(| today).") == [
        "I am so sad.",
        "I am so sad today.",
        "I am very sad.",
        "I am very sad today.",
    ]
    assert talk.fill("{a} is a {b}. {a} runs.", {"a": "an ant", "b": "animal"}) == "An ant is an animal. An ant runs."
    assert talk.fill("A {x} is used.", {"x": "uniform"}) == "A uniform is used."


def test_every_record_answer_is_appropriate(records):
    for r in records:
        assert talk.appropriate(r["intent"], r["slots"], r["answer"])
        assert r["answer"] in talk.acceptable_answers(r["intent"], r["slots"])


@pytest.mark.parametrize(
    ("intent", "slots", "answer", "fits"),
    [
        ("color_of", {"thing": "a banana", "color": "yellow"}, "A banana is yellow.", True),
        ("color_of", {"thing": "a banana", "color": "yellow"}, "a banana is yellow", True),
        ("color_of", {"thing": "a banana", "color": "yellow"}, "A banana is blue.", False),
        ("color_of", {"thing": "a banana", "color": "yellow"}, "A lemon is yellow.", False),
        ("add", {"a": "two", "b": "three", "sum": "five"}, "Two plus three is five.", True),
        ("add", {"a": "two", "b": "three", "sum": "five"}, "Two plus three is six.", False),
        ("thanks", {}, "You are very welcome!", True),
        ("thanks", {}, "It was a pleasure to help you!", True),
        ("thanks", {}, "A dog barks.", False),
        ("thanks", {}, "", False),
        ("count_to", {"number": "three", "list": "One, two, three."}, "One, two, three, four.", False),
        (
            "count_to",
            {"number": "ten", "list": "One, two, three, four, five, six, seven, eight, nine, ten."},
            "One, two, three, four, five, six, seven, eight, nine.",
            False,
        ),
        ("animal_sound", {"animal": "dog", "sound": "barks"}, "A dog meows.", False),
    ],
)
def test_appropriate_by_hand(intent, slots, answer, fits):
    assert talk.appropriate(intent, slots, answer) is fits


def test_answers_of_other_rows_are_not_appropriate():
    for intent in talk.load_intents().values():
        for row in intent.rows:
            for other in intent.rows:
                for answer in intent.replies(other):
                    if sorted(words(answer)) not in [sorted(words(a)) for a in intent.replies(row)]:
                        assert not talk.appropriate(intent.name, row, answer), (intent.name, row, answer)
