"""The reader that a tokenizer's training leaves beside it: what is read through the units alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emova.checkpoint.registry import load_tokenizer
from emova.core.errors import InputError
from emova.speech.tokenizer.whisper_vq.reader import FOLDER, ReadsWords
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer
from emova_eval.tokenizer.measures import Heard, read_errors
from emova_eval.tokenizer.utterances import Utterance
from emova_train.vq.program import build, train
from emova_train.vq.whisper import load_whisper
from tests.train.fixtures_vq import config, labelled, whisper_folder  # noqa: F401  # fixtures


@pytest.fixture
def export(config, tmp_path: Path) -> Path:  # noqa: F811
    train(labelled(replace(config, run=replace(config.run, max_steps=1, eval_every=1, save_every=1))))
    return tmp_path / "run" / "export"


def utterance(sentence: str, seed: int) -> Utterance:
    sound = 0.1 * np.random.default_rng(seed).standard_normal(20_000).astype(np.float32)
    return Utterance(sound, "en", sentence)


def test_an_exported_tokenizer_says_which_words_its_units_keep(export: Path) -> None:
    ears = load_tokenizer(export)
    assert isinstance(ears, WhisperVQTokenizer)
    reader = ReadsWords.from_tokenizer(export)
    assert reader is not None and reader.languages == ("en",)
    spoken = [utterance("good day", 1), utterance("", 2), replace(utterance("晚安", 3), language="zh")]
    heard = Heard(ears, spoken)
    said = reader(ears, torch.from_numpy(heard.units[0]))
    assert reader(ears, torch.from_numpy(heard.units[0])) == said and reader(ears, torch.zeros(0).long()) == ""
    same = [replace(spoken[0], sentence=said or "x"), *spoken[1:]]
    assert read_errors(ears, export, heard, same)["word_error/en"] == (0.0 if said.split() else 100.0)
    found = read_errors(ears, export, heard, spoken)
    assert found.keys() == {"word_error/en"}, "what has no words, or is in a language without a prompt, counts nowhere"
    with pytest.raises(InputError, match="language zh: the reader knows en"):
        reader(ears, torch.from_numpy(heard.units[0]), "zh")


def test_what_is_read_is_what_the_training_read(config, export: Path) -> None:  # noqa: F811
    """Saved in 16 bits, loaded, and with the tokenizer alone: near the training's own encoding."""
    whisper = load_whisper(config.whisper, config.language)
    reader = build(config, whisper).reader.eval()
    reader.save(export, whisper.text.json)
    loaded = ReadsWords.from_tokenizer(export)
    assert loaded is not None
    state = loaded._reader.state_dict()
    for name, value in reader.state_dict().items():
        assert torch.equal(state[name], value.half().float()), name


def test_a_tokenizer_without_a_reader_is_measured_without_it_and_a_damaged_one_is_told(export: Path) -> None:
    ears = load_tokenizer(export)
    spoken = [utterance("good day", 1)]
    heard = Heard(ears, spoken)
    (export / FOLDER / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json: missing or damaged"):
        read_errors(ears, export, heard, spoken)
    (export / FOLDER / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: missing"):
        read_errors(ears, export, heard, spoken)
    shutil.rmtree(export / FOLDER)
    assert read_errors(ears, export, heard, spoken) == {}
