"""Ordinary speech as words: the search finds the best of all sequences, and the model of words is a model."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.files import WORDS
from emova.cli.main import main
from emova.core.errors import InputError
from emova.decoding.word_search import SearchConfig, WordModel, WordSearch
from emova.session.scheduler import Scheduler
from emova.session.transcripts import better_transcript, sentence
from emova.speech.tokenizer.phones import BLANK, PhoneInventory
from emova_app.transcribing import write_units_down
from emova_train.words import Counts, build

TEXTS = ["See the sea.", "I see a bee.", "The bee can see me.", "Can I see the bee?", "A tea, a bee, the sea.", "Me?"]
ALL = SearchConfig(hypotheses=100_000, width=1e9, floor=0.0)
UNITS = [5, 900, 77, 77, 3, 2048, 1] * 4


@pytest.fixture(scope="module")
def counts() -> Counts:
    made = Counts()
    for text in TEXTS:
        made.add(text, PhoneInventory())
    return made


@pytest.fixture(scope="module")
def model(counts) -> WordModel:
    return build(counts)


@pytest.fixture(scope="module")
def folder(model, tiny_checkpoint, tmp_path_factory) -> Path:
    made = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("words") / "tiny")
    model.save(made / WORDS)
    return made


def paths(phones: list[int], frames: int) -> list[list[int]]:
    """Every way in which so many frames of CTC say the phones."""
    found = []
    labels = [BLANK, *itertools.chain.from_iterable((phone, BLANK) for phone in phones)]

    def go_on(place: int, path: list[int]) -> None:
        if len(path) == frames:
            if place >= len(labels) - 2:
                found.append(path)
            return
        for step in (0, 1, 2):
            after = place + step
            if after < len(labels) and (step < 2 or (labels[after] != BLANK and labels[after] != labels[place])):
                go_on(after, [*path, labels[after]])

    for first in (0, 1):
        if first < len(labels):
            go_on(first, [labels[first]])
    return found


def test_it_finds_the_best_of_all_sequences(counts) -> None:
    """Against every sequence of up to three words, every alignment of each."""
    small = Counts()
    for text in ("See me.", "Me, see.", "See."):
        small.add(text, PhoneInventory())
    model, inventory = build(small), PhoneInventory()
    sounds = {word: inventory.ids(small.sounds[word].most_common(1)[0][0]).ids for word in small.sounds}
    search = WordSearch(model, inventory, ALL)
    place = {word.lower(): number for number, word in enumerate(model.words)}
    rng = np.random.default_rng(0)
    used = sorted({BLANK, *itertools.chain.from_iterable(sounds.values())})
    for _ in range(6):
        log_probs = np.full((6, inventory.classes), -60.0)
        log_probs[:, used] = np.log(rng.dirichlet([0.5] * len(used), 6))
        best, chosen = -np.inf, []
        for count in (1, 2, 3):
            for words in itertools.product(sounds, repeat=count):
                phones = list(itertools.chain.from_iterable(sounds[word] for word in words))
                fits = [sum(log_probs[t, p] for t, p in enumerate(path)) for path in paths(phones, 6)]
                acoustic = max(fits, default=-1e9)
                numbers = np.array([len(model.words), *(place[word] for word in words)])
                language = model.after(numbers[:-1], numbers[1:]).sum() + model.ends[numbers[-1]]
                if acoustic + ALL.language * language > best:
                    best, chosen = acoustic + ALL.language * language, list(words)
        assert [word.lower() for word in search.words(log_probs)] == chosen


def test_what_follows_a_word_sums_up_to_one(model) -> None:
    every = np.arange(len(model.words))
    for before in range(len(model.words) + 1):
        total = np.exp(model.after(np.full_like(every, before), every)).sum() + np.exp(float(model.ends[before]))
        assert abs(total - 1) < 0.02, before


def test_words_are_written_as_within_sentences_and_sound_as_they_stand(model) -> None:
    assert {"see", "the", "bee"} <= set(model.words) and "The" not in model.words
    with_both = Counts()
    for text in ("The apple.", "The bee."):
        with_both.add(text, PhoneInventory())
    assert set(with_both.sounds["the"]) == {("ð", "i"), ("ð", "ə")}


def test_saved_and_loaded_it_is_the_same(model, tmp_path) -> None:
    model.save(tmp_path / WORDS)
    again = WordModel.load(tmp_path / WORDS)
    assert (again.words, again.phones) == (model.words, model.phones)
    for each in fields(WordModel)[2:]:
        assert np.array_equal(getattr(again, each.name), getattr(model, each.name)), each.name
        assert getattr(again, each.name).dtype == getattr(model, each.name).dtype
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / WORDS).read_bytes()


def test_a_damaged_or_foreign_file_is_told(model, folder, tmp_path) -> None:
    whole = (folder / WORDS).read_bytes()
    for bad in (b"", whole[: len(whole) // 2], b"no model"):
        (tmp_path / WORDS).write_bytes(bad)
        with pytest.raises(InputError, match="emova train words"):
            WordModel.load(tmp_path / WORDS)
    for wrong in (
        {"ending_words": model.ending_words + 1000}, {"pair_words": model.pair_words[:-1]},
        {"node_children": model.node_children[::-1] * 0}, {"unigrams": model.unigrams[:-1]},
    ):  # fmt: skip
        replace(model, **wrong).save(tmp_path / WORDS)
        with pytest.raises(InputError, match="do not fit each other"):
            WordModel.load(tmp_path / WORDS)
    with pytest.raises(InputError, match="emova train words"):
        WordSearch(model, PhoneInventory(("a", "b")))


def test_without_words_there_is_no_model() -> None:
    with pytest.raises(InputError, match="no English words"):
        build(Counts())


def load(folder: Path, margin: float) -> Assistant:
    return Assistant.from_pretrained(folder, config=AssistantConfig(words=SearchConfig(margin=margin)))


def test_the_likelier_transcript_is_told(folder, tiny_checkpoint) -> None:
    written = Assistant.from_pretrained(tiny_checkpoint).transcribe_units(UNITS)
    found = load(folder, -np.inf).transcribe_units(UNITS)
    assert load(folder, np.inf).transcribe_units(UNITS) == written != found
    assert found[-1] in ".?" and set(found[:-1].lower().split()) <= {word.lower() for word in build_words(folder)}


def build_words(folder: Path) -> tuple[str, ...]:
    return WordModel.load(folder / WORDS).words


@pytest.mark.parametrize("margin", [-np.inf, np.inf])
def test_the_server_writes_down_the_same(folder, margin: float) -> None:
    assistant = load(folder, margin)
    assert "".join(write_units_down(Scheduler(assistant), UNITS)).strip() == assistant.transcribe_units(UNITS)


def test_another_script_is_left_as_it_is(folder) -> None:
    assistant = load(folder, -np.inf)
    for text in ("我有3个苹果。", "Он здесь."):
        assert better_transcript(assistant, UNITS, text) == text
    assert better_transcript(assistant, UNITS, "I see 3 apples.") != "I see 3 apples."


def test_what_no_words_fit_stays_as_it_was_written(folder) -> None:
    assistant = load(folder, -np.inf)
    assert better_transcript(assistant, [], "as it was") == "as it was"
    assert assistant.word_search is not None and assistant.word_search.words(np.zeros((0, 300))) == []


def test_words_become_a_sentence() -> None:
    assert sentence(["where", "do", "i", "live"]) == "Where do I live?"
    assert sentence(["Chicago", "is", "far"]) == "Chicago is far."
    assert sentence([]) == ""


def test_the_program_makes_what_assemble_takes(tiny_checkpoint, tmp_path) -> None:
    text, plain = tmp_path / "some.jsonl", tmp_path / "some.txt"
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS))
    plain.write_text("\n".join(TEXTS))
    ask = ["train", "words", "--tokenizer", str(tiny_checkpoint / "speech_tokenizer"), "--out", str(tmp_path)]
    made = []
    for path in (text, plain):
        assert main([*ask, "--text", str(path)]) == 0
        made.append((tmp_path / WORDS).read_bytes())
    assert made[0] == made[1]
    for bad in (tmp_path / "none.jsonl", tmp_path / WORDS):
        assert main([*ask, "--text", str(bad)]) == 2
    assert (tmp_path / WORDS).read_bytes() == made[0]
    assemble = ["train", "assemble", "--model", str(tiny_checkpoint), "--prototypes", str(tiny_checkpoint), "--words"]
    assemble += [str(tmp_path), "--out", str(tmp_path / "whole")]
    for part in ("speech_tokenizer", "speech_detokenizer"):
        assemble += [f"--{part.replace('_', '-')}", str(tiny_checkpoint / part)]
    assert main(assemble) == 0
    assert Assistant.from_pretrained(tmp_path / "whole").word_search is not None
