"""Sentences as units: shards that are there are those of the tokenizer that is named, or nothing is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.tokenizer.units import units_of
from emova_data.records.packed_units import pack_units
from emova_train import aloud
from emova_train.data.units import units_of_file
from tests.fixtures_speech import make_speech_tokenizer


@pytest.fixture()
def spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts that are there, and a voice that says one of them."""

    def say(root: Path, tokenizer: str, **rest: object) -> None:
        row = {"id": "a", "text": "One.", "units": pack_units([1, 2]), "words": []}
        write_text(root / "nano" / "aloud" / "aloud-00000.jsonl", json.dumps(row) + "\n")

    monkeypatch.setattr(aloud.spoken, "make", say)
    (tmp_path / "nano" / "text").mkdir(parents=True)
    (tmp_path / "nano" / "text" / "aloud.jsonl").write_text('{"id": "a", "text": "One."}\n')
    return tmp_path


def test_units_of_another_tokenizer_are_refused(spoken: Path) -> None:
    folders = [spoken / storage for storage in ("int8", "float16")]
    for folder in folders:
        make_speech_tokenizer().save_pretrained(folder, folder.name)
    for _ in range(2):
        assert aloud.make(spoken, str(folders[0]), sets=["aloud"]) == {"aloud": 1}
    file = spoken / "nano" / "units" / "aloud.jsonl"
    assert units_of_file(file.parent, "aloud") == units_of(folders[0]) != units_of(folders[1])
    before = file.read_bytes()
    with pytest.raises(InputError, match="aloud: its shards hold another tokenizer's units"):
        aloud.make(spoken, str(folders[1]), sets=["aloud"])
    assert file.read_bytes() == before


def test_what_is_wrong_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    for tokenizer, shards, words in (
        (str(tmp_path / "none"), 1, "no such checkpoint"),
        ("emova-nano", -1, "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            aloud.make(tmp_path / "data", tokenizer, shards=shards)
    assert not (tmp_path / "data").exists()
