"""Shards to units: the same as encoding each clip alone, resumable, damaged clips counted."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from emova.core.errors import InputError
from emova.speech.features import MelConfig
from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.spiral import SpiralConvConfig, SpiralStageConfig
from emova_data.records.recordings import read_recordings
from emova_train.data.units import batches, main, tokenize_set


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s2u")
    torch.manual_seed(0)
    stages = [
        SpiralStageConfig([SpiralConvConfig(16, 3, 1), SpiralConvConfig(16, 3, 2)], layers=1, heads=2, ffn=16),
        SpiralStageConfig([SpiralConvConfig(16, 2, 2)], layers=1, heads=2, ffn=16),
    ]
    config = S2UConfig(mel=MelConfig(n_mels=20), stages=stages, decoder=PhoneDecoderConfig(width=16, layers=1))
    S2UTokenizer(config).save_pretrained(folder)
    return folder


def write_shard(path: Path, clips: dict[str, bytes], voice: str = "v") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, data in clips.items():
            record = {
                "text": f"text {key}", "voice": voice, "gender": "female", "split": "train", "set": "question",
                "emotion": "neutral", "pitch": "normal", "phones": [],
            }  # fmt: skip
            for name, content in ((f"{key}.flac", data), (f"{key}.json", json.dumps(record).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def flac(seconds: float, seed: int, rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate))
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    root = tmp_path / "nano"
    for number in range(2):
        clips = {f"clip_{number}_{index}": flac(0.3 + 0.2 * index, 10 * number + index) for index in range(4)}
        clips[f"clip_{number}_24k"] = flac(0.5, 99, 24000)
        write_shard(root / "speech" / f"question-train-{number:06d}.tar", clips)
    return root


def test_units_are_those_of_each_clip_alone(tokenizer_folder: Path, data: Path) -> None:
    target = tokenize_set(tokenizer_folder, data, "question", jobs=1)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["key"] for row in rows][:2] == ["clip_0_0", "clip_0_1"] and len(rows) == 10
    tokenizer = S2UTokenizer.from_pretrained(tokenizer_folder)
    for shard in sorted((data / "speech").glob("*.tar")):
        for clip in read_recordings(shard, 16000):
            row = next(row for row in rows if row["key"] == clip.key)
            assert row["units"] == tokenizer.encode(torch.from_numpy(clip.samples)[None])[0].tolist()
            assert len(row["units"]) == -(-len(clip.samples) // 640)
    assert rows[0].keys() >= {"text", "voice", "gender", "emotion", "pitch", "set", "split"}


def test_augmented_clips_have_units_of_their_own_that_are_the_same_again(tokenizer_folder: Path, data: Path) -> None:
    plain = tokenize_set(tokenizer_folder, data, "question", jobs=1).read_text()
    augmented = tokenize_set(tokenizer_folder, data, "question", jobs=1, augmented=True)
    assert augmented.name == "question_augmented.jsonl" and (data / "units" / "question.jsonl").read_text() == plain
    rows, before = ([json.loads(line) for line in text.splitlines()] for text in (augmented.read_text(), plain))
    assert [row["text"] for row in rows] == [row["text"] for row in before]
    assert any(row["units"] != other["units"] for row, other in zip(rows, before, strict=True))
    shutil.rmtree(data / "units")
    assert tokenize_set(tokenizer_folder, data, "question", jobs=1, augmented=True).read_text().splitlines() == [
        json.dumps(row, ensure_ascii=False) for row in rows
    ]


def test_one_voice_alone(tokenizer_folder: Path, data: Path) -> None:
    write_shard(data / "speech" / "question-train-000002.tar", {"hers": flac(0.4, 7)}, "hibari/female")
    every = tokenize_set(tokenizer_folder, data, "question", jobs=1).read_text().splitlines()
    hers = tokenize_set(tokenizer_folder, data, "question", jobs=1, voice="hibari/female").read_text().splitlines()
    assert hers == every[-1:] and json.loads(hers[0])["key"] == "hers"


def test_a_second_run_does_only_what_is_new(tokenizer_folder: Path, data: Path, capsys) -> None:
    before = tokenize_set(tokenizer_folder, data, "question", jobs=1).read_text()
    part = next((data / "units" / ".parts").glob("question-train-000001.*"))
    part.unlink()
    capsys.readouterr()
    assert tokenize_set(tokenizer_folder, data, "question", jobs=1).read_text() == before
    assert "2 shards, 1 to do" in capsys.readouterr().err


def test_bad_clips_are_left_out_and_named(tokenizer_folder: Path, data: Path, capsys) -> None:
    clips = {f"good_{index}": flac(0.3, index) for index in range(3)}
    shard = data / "speech" / "question-train-000002.tar"
    write_shard(shard, {**clips, "broken": b"fLaC not really"})
    rows = tokenize_set(tokenizer_folder, data, "question", jobs=1).read_text()
    assert "good_2" in rows and '"broken"' not in rows
    assert "broken cannot be read" in capsys.readouterr().err
    write_shard(shard, {"a": b"x", "b": b"y", **clips})
    with pytest.raises(InputError, match="2 of its recordings cannot be read"):
        tokenize_set(tokenizer_folder, data, "question", jobs=1)
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError):
        tokenize_set(tokenizer_folder, data, "question", jobs=1)


def test_batches_hold_alike_lengths(data: Path) -> None:
    clips = [clip for shard in sorted((data / "speech").glob("*.tar")) for clip in read_recordings(shard, 16000)]
    made = list(batches(clips, 20000))
    assert sorted(clip.key for batch in made for clip in batch) == sorted(clip.key for clip in clips)
    assert all(len(batch) * max(len(clip.samples) for clip in batch) <= 20000 for batch in made if len(batch) > 1)


def test_the_command_names_what_is_missing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "sys.argv", ["tokenize", "--set", "nothing", "--data", str(tmp_path), "--tokenizer", "emova-nano"]
    )
    assert main() == 2
    assert "no shards of the set nothing" in capsys.readouterr().err
