"""A converted set gets units in every part that has audio; audio that does not fit its record is left out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from emova.cli.main import main
from emova.core.errors import InputError
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova_data.nano.speech.shard_maker import encode_flac
from emova_data.records.records import Draft, Media, Record, message, text
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, convert
from emova_data.sources.tokenise import TokeniseConfig, tokenise

RATE = 24000


def heard(number: int, rate: int = RATE, said_rate: int = RATE, content: bytes | None = None) -> Record:
    tone = (0.2 * np.sin(np.arange(rate) * (0.02 + 0.001 * number))).astype(np.float32)
    media = Media("flac", content if content is not None else encode_flac(tone, rate))
    turns = [message("user", {"type": "audio", "audio": "flac"}), message("assistant", text("A tone."))]
    return Record(f"a{number}", turns, (media,), {"task": "speech", "text": "A tone.", "sample_rate": said_rate})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    KMeansTokenizer(KMeansConfig(dimensions=4, clusters=8)).save_pretrained(folder)
    return folder


@pytest.fixture()
def source(tmp_path: Path) -> Path:
    records = [
        heard(0),
        heard(1, rate=16000),  # its record says 24 kHz
        heard(2, content=b"fLaC but no more"),
        heard(3, content=encode_flac(np.zeros(0, np.float32), RATE)),
        heard(4, rate=8000, said_rate=8000),
    ]
    drafts = [Draft(record.id, partial(lambda record: record, record)) for record in records]
    convert(drafts, tmp_path / "sets" / "tones", "tones", config=ConvertConfig(2))
    return tmp_path


def test_units_take_the_place_of_audio(source: Path, tokenizer: Path) -> None:
    config = TokeniseConfig(str(tokenizer), per_shard=1, max_skip_rate=1.0)
    result = tokenise(source / "sets" / "tones", source / "out", "tones-units", config)
    assert result.skipped == {"audio of another rate than its record says": 1, "audio that cannot be decoded": 2}
    first, last = read_set(source / "out")
    assert first["id"] == "a0" and len(first["messages"][0]["content"][0]["units"]) == 25 and not first["media"]
    assert last["id"] == "a4" and len(last["messages"][0]["content"][0]["units"]) == 25
    assert first["text"] == "A tone." and first["source"] == "tones-units"


def test_recordings_can_be_kept(source: Path, tokenizer: Path) -> None:
    config = TokeniseConfig(str(tokenizer), keep_audio=True, max_skip_rate=1.0)
    tokenise(source / "sets" / "tones", source / "out", "tones-units", config)
    before, after = next(read_set(source / "sets" / "tones")), next(read_set(source / "out"))
    assert after["media"] == before["media"]
    assert after["messages"][0]["content"][0].pop("units") and after["messages"] == before["messages"]


def test_the_command_and_what_it_refuses(source: Path, tokenizer: Path, capsys) -> None:
    command = ["data", "tokenise", "tones", "--root", str(source), "--tokenizer"]
    assert main([*command, str(source)]) == 2
    assert "config.json: missing" in capsys.readouterr().err
    assert main(["data", "tokenise", "nothing", "--root", str(source), "--tokenizer", str(tokenizer)]) == 2
    assert "no shards here" in capsys.readouterr().err
    assert main([*command, str(tokenizer)]) == 0
    assert "2 records in 1 shards" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least 1"):
        tokenise(source / "sets" / "tones", source / "x", "x", TokeniseConfig(str(tokenizer), jobs=0))
