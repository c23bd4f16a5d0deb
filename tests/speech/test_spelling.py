"""How texts are spelled to a model that reads aloud: as their sounds, in letters that every vocabulary has."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import hibari
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emova import Assistant
from emova.checkpoint.loading import find_checkpoint, load_processor
from emova.core.errors import InputError
from emova.model.configuration_emova import EmovaConfig
from emova.speech.spelling import _LETTER_OF, LETTERS, PHONES, find_spelling, phone_letters, read_words, sounds
from emova.speech.tokenizer.phones import is_mark
from emova_train.data.recipe import Recipe, Utterance, Voices
from emova_train.data.records import RecordConfig
from emova_train.stages.tasks import ConversationConfig, Conversations

SPELLED = re.compile(r"(?:[ -]?[12,.!?]*(?: [A-Za-z])?)*")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Hello there.", " h e l1 O- D1 E r."),
        ("At 3:30, on May 4th", "2 a t- T r1 y- T1 R r F y,2 c n- m1 A- f1 c r T"),
        ("It's $4.50.", "2 H t s- f1 c r- d1 o l e r z- a n d- f1 H f t y- s1 E n t s."),
        ("  Hello\n there. ", " h e l1 O- D1 E r."),
    ],
)
def test_a_text_as_its_sounds(text: str, spelled: str) -> None:
    assert phone_letters(text) == spelled


def test_words_that_no_dictionary_has_sound_too() -> None:
    assert len(phone_letters("Zbrimblewock").split()) > 6


@pytest.mark.parametrize("text", ["中文", "…", "🙂", "?!"])
def test_without_a_sound_of_english_a_text_stays(text: str) -> None:
    assert phone_letters(text) == text


@given(st.text(max_size=40))
def test_no_text_makes_anything_but_sounds(text: str) -> None:
    spelled = phone_letters(text)
    assert spelled == text or SPELLED.fullmatch(spelled), spelled


def test_no_two_sounds_are_one() -> None:
    """But the flap's two symbols, the unstressed vowel's, and what the network for unknown words writes otherwise."""
    assert len(set(_LETTER_OF.values())) == len(_LETTER_OF) - 5
    assert not set(_LETTER_OF.values()) & set("iqxQXZ")


def test_each_sound_is_one_token_of_the_shipped_vocabulary() -> None:
    tokenizer = load_processor(find_checkpoint("emova-nano")).tokenizer
    spelled = " ".join(
        ["Measure the pleasure of a younger judge, oh boy: five good thin books, then shower her now!"] * 2
    )
    letters = phone_letters(spelled)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(letters, add_special_tokens=False)["input_ids"])
    assert len(tokens) == len(letters.replace(" ", ""))


def test_a_model_is_asked_as_it_was_taught(tiny_processor) -> None:
    nobody = Voices([])
    said = Voices([Utterance("Hello there.", np.asarray([1, 2, 3], np.uint16), "hibari/female", "train")])
    recipe = Recipe((), (), nobody, nobody, nobody, said)
    for name, wanted in ((LETTERS, "Hello there."), (PHONES, " h e l1 O- D1 E r.")):
        sample = Conversations(recipe, tiny_processor, ConversationConfig(spelling=name)).tts(np.random.default_rng(0))
        assert sample.messages[0]["content"][0]["text"].endswith(wanted)
        assert EmovaConfig(reading_spelling=name).spell("Hello there.") == wanted


def test_an_unknown_spelling_is_told() -> None:
    for ask in (find_spelling, lambda name: EmovaConfig(reading_spelling=name),
                lambda name: ConversationConfig(spelling=name), lambda name: RecordConfig(spelling=name)):  # fmt: skip
        with pytest.raises(InputError, match="spelling 'runes': unknown; give one of letters, phones"):
            ask("runes")


def test_every_sound_that_a_text_can_have_has_a_letter() -> None:
    """Of the dictionary, and of the network for words that it lacks."""
    assets = Path(hibari.__file__).parent / "assets"
    symbols = set("ɐ")  # the article, by a rule
    for name in ("gold", "silver"):
        entries = json.loads(gzip.decompress((assets / f"lexicon_us_{name}.json.gz").read_bytes()))
        for entry in entries.values():
            symbols.update(*(each for each in (entry.values() if isinstance(entry, dict) else [entry]) if each))
    symbols |= set(json.loads((assets / "oov.json").read_text(encoding="utf-8"))["out"]) - set("()-1")
    assert {each for each in symbols if not is_mark(each)} <= set(_LETTER_OF)
    assert phone_letters("I see a bee.") == "2 I- s1 y- e- b1 y."


@pytest.mark.parametrize(
    "text", ["1" * 40, "9" * 5000, "thİ", "@" * 160, "a/" * 80, "x" * 300, "9.9.9." * 40, "\u2028"]
)
def test_no_text_breaks_it_or_takes_long(text: str) -> None:
    phone_letters(text), read_words(text)
    assert sounds(f"Hello {text} there").startswith("həlˈO")


def test_a_spelling_that_is_too_long_is_cut_between_words(tiny_checkpoint, tmp_path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "reading_spelling": PHONES}))
    text = "$1,777.77 " * 15
    cut = list(Assistant.from_pretrained(folder)._spelled([text.strip()]))
    assert len(cut) > 1 and " ".join(sentence for sentence, _ in cut) == text.strip()
    assert all(len(spelled) < 700 for _, spelled in cut)
