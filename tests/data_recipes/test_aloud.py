"""Sentences to be read aloud: readable as typed, cut at clauses, spoken to packed units with the text's alignment."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_data.nano.aloud.carriers import figure_sentences, lexicon_sentences, lexicon_words, name_sentences
from emova_data.nano.aloud.corpora import CORPORA
from emova_data.nano.aloud.spoken import NAME, make
from emova_data.nano.aloud.texts import written_by_hand
from emova_data.nano.aloud.wording import MOST_CHARACTERS, clauses, key, readable, sentences
from emova_data.records.packed_units import pack_units, unpack_units

PROSE = (
    "Mr. Smith met Dr. Jones at 5:30. “It costs $4.50,” he said — and left; nobody, as far as anyone could later "
    "remember, had seen him go, though the door was open, the lamp was lit, and his coat hung on its hook."
)


@pytest.mark.parametrize("corpus", [each for each in CORPORA if "wordnet" not in each.name], ids=lambda each: each.name)
def test_a_source_that_is_missing_is_told(corpus, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}.*fetches it"):
        next(corpus.read(tmp_path))


def test_sentences_do_not_end_at_abbreviations():
    first = next(sentences(PROSE))
    assert first == "Mr. Smith met Dr. Jones at 5:30."


def test_clauses_join_to_the_sentence_and_are_short():
    for sentence in sentences(PROSE):
        parts = list(clauses(sentence))
        assert " ".join(parts) == sentence
        assert all(len(part) <= MOST_CHARACTERS for part in parts)


def test_readable_keeps_figures_and_is_stable():
    for sentence in sentences(PROSE):
        for clause in clauses(sentence):
            text = readable(clause)
            assert text is not None
            assert readable(text) == text
    assert readable("it costs $4.50 at 5:30") == "It costs $4.50 at 5:30."


@pytest.mark.parametrize(
    "text", ["", "...", "x = y + 1", "http://a.b/c", "THE END OF IT ALL", "naïve café", "a b c d e"]
)
def test_unreadable(text):
    assert readable(text) is None


@pytest.mark.parametrize("make_sentences", [figure_sentences, name_sentences, lexicon_sentences])
def test_made_sentences_are_readable_and_follow_from_the_seed(make_sentences):
    def first(seed):
        texts = make_sentences(seed)
        return [next(texts) for _ in range(200)]

    assert first(1) == first(1)
    assert first(1) != first(2)
    plain = [text.replace("a.m.", "AM").replace("p.m.", "PM").rstrip(".") + "." for text in first(1)]
    unreadable = [text for text in plain if readable(text) is None and not re.search(r"\w{22}|\b\d( \d)+", text)]
    assert len(unreadable) <= 2, unreadable


def test_every_word_of_the_lexicon_is_said():
    words = set(lexicon_words()[0])
    said: set[str] = set()
    texts = lexicon_sentences(0)
    for _ in range(len(words)):
        said |= set(key(next(texts)).split())
    assert {word.lower() for word in words} <= said


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_units_are_packed_without_loss(count):
    units = np.random.default_rng(count).integers(0, 4096, count)
    packed = pack_units(units.tolist())
    assert unpack_units(packed).tolist() == units.tolist()
    assert len(packed) < 2 * count + 12


def test_units_that_do_not_fit_are_told() -> None:
    """They would be read back as other ones."""
    with pytest.raises(InputError, match="4096 is one of a codebook of more than 4096"):
        pack_units([1, 4096])


def test_the_hand_written_test_is_readable_and_has_no_double():
    texts = written_by_hand()
    assert len({key(text) for text in texts}) == len(texts) >= 100
    assert all(len(text) <= MOST_CHARACTERS and text[-1] in ".?!" for text in texts)


def test_alignment_covers_the_words_in_order():
    pytest.importorskip("hibari")
    from emova_data.nano.aloud.alignment import word_phones

    text = "On March 3rd, Dr. Smith paid $4.50 for 12 eggs."
    words = word_phones(text)
    covered = [text[first:last] for first, last, _ in words]
    assert covered[0] == "On"
    assert "eggs" in covered[-1]
    assert any("4.50" in each for each in covered)
    assert [first for first, _, _ in words] == sorted(first for first, _, _ in words)
    assert all(sounds for _, _, sounds in words)


def test_shards_are_resumed_and_the_same(tmp_path):
    pytest.importorskip("hibari")
    folder = tmp_path / "nano" / "text"
    folder.mkdir(parents=True)
    rows = [{"id": "a0", "text": "The train leaves at 5:30."}, {"id": "a1", "text": "Where is my red umbrella?"}]
    (folder / "aloud.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = "emova/checkpoints/emova-nano/speech_tokenizer"
    assert make(tmp_path, tokenizer) == 1
    path = tmp_path / "nano" / "aloud" / NAME.format(name="aloud", number=0)
    made = path.read_bytes()
    assert make(tmp_path, tokenizer) == 0
    path.unlink()
    assert make(tmp_path, tokenizer) == 1
    assert path.read_bytes() == made
    for row, line in zip(rows, made.splitlines(), strict=True):
        spoken = json.loads(line)
        assert spoken["text"] == row["text"]
        units = len(unpack_units(spoken["units"]))
        ends = [end for _, _, _, end in spoken["words"]]
        assert ends == sorted(ends)
        assert units - 6 <= ends[-1] <= units + 1


def test_voices_are_drawn_by_their_shares_and_never_held_out():
    from emova_data.nano.voices.voices import HELD_OUT_FAMILIES, family_of
    from emova_train.data.heard import SHARES, drawn_voice

    rng = np.random.default_rng(0)
    voices = [drawn_voice(rng, kokoro=True) for _ in range(3000)]
    families = [family_of(voice) for voice in voices]
    assert not set(families) & set(HELD_OUT_FAMILIES)
    assert families.count("kokoro") / 3000 == pytest.approx(SHARES["kokoro"], abs=0.03)
    assert len(set(voices)) > 200
    assert "kokoro" not in {family_of(drawn_voice(rng, kokoro=False)) for _ in range(300)}


def test_packed_shards_are_read_as_a_set_of_units(tmp_path):
    from emova_data.nano.aloud.as_units import write_units
    from emova_train.data.recipe import read_units

    folder = tmp_path / "aloud"
    folder.mkdir()
    row = {"id": "aloud_000000", "text": "Good morning.", "units": pack_units([5, 4095, 0]), "words": []}
    (folder / "aloud-00000.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert write_units(tmp_path, "aloud") == 1
    read = read_units(tmp_path, ["aloud"], "train")
    assert read.all[0].text == "Good morning."
    assert read.all[0].units.tolist() == [5, 4095, 0]
