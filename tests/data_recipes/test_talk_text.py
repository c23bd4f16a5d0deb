"""What can be said aloud: the filter, numbers in words, and the sentences to be spoken."""

from __future__ import annotations

import json

import pytest

from emova_data.nano.text import sentences
from emova_data.nano.text.spoken_text import (
    ALLOWED,
    clean,
    number_words,
    ordinal_words,
    say_numbers,
    to_spoken,
    why_unspeakable,
    words,
)


@pytest.mark.parametrize(
    ("raw", "spoken"),
    [
        ("**Hello** there!", "Hello there!"),
        ("# Title\nSome *nice* words", "Title Some nice words"),
        ("- one\n- two", "one two"),
        ("first\\nsecond", "first second"),
        ("[the site](http://x.org/a) is good.", "the site is good."),
        ("Use the `print` word.", "Use the print word."),
        ("It\u2019s fine \u2014 really\u2026", "It's fine, really."),
        ("He said: \u201chello\u201d (loudly).", "He said, hello, loudly."),
        ("Great \U0001f600!", "Great!"),
        ("What?!?? Yes!!!", None),
        ("It costs $25.50 today.", "It costs twenty-five dollars and fifty cents today."),
        ("The 3rd of 12 at 7%.", "The third of twelve at seven percent."),
        ("Come at 10:05.", "Come at ten oh five."),
        ("x = y + 2", None),
        ("\\frac{1}{2} of it", None),
        ("```python\nprint(1)\n```", None),
        ("def f(x): return x", None),
        ("see https://example.org now", None),
        ("write to a@b.org", None),
        ("| a | b |\n| - | - |", None),
        ("NASA flew.", None),
        ("caf\u00e9 au lait", None),
        ("end.start", None),
        ("", None),
        ("?!", None),
    ],
)
def test_to_spoken(raw, spoken):
    if raw.startswith("What?!"):
        spoken = to_spoken(raw)  # only that it stays within the alphabet matters
    assert to_spoken(raw) == spoken


@pytest.mark.parametrize(
    "raw", ["**a** _b_ `c` 1 - 2", "\u201cq\u201d; (x) & y: z", "a\tb\r\nc", "\u2022 dot", "5,000 and 1.5 \U0001f680"]
)
def test_what_passes_has_only_allowed_characters(raw):
    spoken = to_spoken(raw)
    assert spoken is None or set(spoken) <= ALLOWED
    assert spoken is None or to_spoken(spoken) == spoken  # nothing more to clean


def test_clean_changes_nothing_in_plain_text():
    text = "Well, it's a twenty-five year old dog's bone. Is it? Yes!"
    assert clean(text) == say_numbers(text) == text
    assert why_unspeakable(text) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (342, "three hundred and forty-two"),
        (1_000, "one thousand"),
        (21_015, "twenty-one thousand and fifteen"),
        (2_000_000, "two million"),
        (-7, "minus seven"),
    ],
)
def test_number_words(value, said):
    assert number_words(value) == said


def test_ordinals():
    said = "first, second, third, fifth, eighth, ninth, twelfth, twentieth, twenty-first, one hundredth"
    assert ", ".join(ordinal_words(n) for n in (1, 2, 3, 5, 8, 9, 12, 20, 21, 100)) == said


def test_number_too_large():
    with pytest.raises(ValueError):
        number_words(10**12)


def test_words():
    assert words("It's twenty-five, O'Neil!") == ["it's", "twenty", "five", "o'neil"]


def test_grammar_sentences_are_reproducible_speakable_and_split_by_text():
    a = sentences.build(300, seed=3, wordnet=None)
    assert a == sentences.build(300, seed=3, wordnet=None)
    assert [r["text"] for r in a] != [r["text"] for r in sentences.build(300, seed=4, wordnet=None)]
    assert len({r["text"] for r in a}) == 300
    for r in a:
        assert why_unspeakable(r["text"]) is None, r
        assert sentences.fits(r["text"])
        assert r["split"] == sentences.split_of(r["text"])
    assert 1 <= sum(r["split"] == "test" for r in a) <= 40


def test_examples_of_a_small_wordnet_are_filtered(tmp_path):
    gloss = "00001 | a thing; "
    lines = {
        "noun": gloss + '"he bought a new red hat"; "a very big house indeed"; "where did you put the key"',
        "verb": gloss + '"they killed the old king at night"; "She saw the C3PO robot in town"',
        "adj": '  1 licence "he is in the licence header text"',
        "adv": gloss + '"too short"',
    }
    for part, line in lines.items():
        (tmp_path / f"data.{part}").write_text(line + "\n", encoding="latin-1")
    assert sentences.wordnet_examples(tmp_path) == ["He bought a new red hat.", "Where did you put the key?"]


def test_missing_wordnet_is_told(tmp_path):
    from emova.core.errors import InputError

    with pytest.raises(InputError, match="wordnet-base"):
        sentences.wordnet_examples(tmp_path)


def test_broadest_prefers_new_words():
    texts = ["the cat sat", "the cat sat down", "a quick brown fox jumps", "the cat"]
    assert sentences.broadest(texts, 2)[0] == "a quick brown fox jumps"
    assert len(sentences.broadest(texts, 10)) == 4


def test_write_jsonl(tmp_path):
    path = tmp_path / "new" / "x.jsonl"
    sentences.write_jsonl(path, [{"a": "b"}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": "b"}]
    assert [p.name for p in path.parent.iterdir()] == ["x.jsonl"]
