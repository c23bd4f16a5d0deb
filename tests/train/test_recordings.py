"""Recordings of a recipe's shards: mono at one rate whatever the file has; damage is named, never passed on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emova.core.errors import InputError
from emova_data.records.recordings import Recording, read_recordings
from emova_train.s2u.data import ClipStore
from emova_train.u2s.cache import cache_shard
from tests.train.test_tokenize_shards import flac, write_shard


def stereo(seconds: float, rate: int) -> bytes:
    buffer = io.BytesIO()
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(buffer, np.stack([tone, -0.5 * tone], axis=1), rate, format="FLAC")
    return buffer.getvalue()


def test_every_rate_and_channel_becomes_the_wanted_one(tmp_path: Path) -> None:
    clips = {"same": flac(0.5, 1), "low": flac(0.5, 2, 8000), "high": flac(0.5, 3, 44100), "both": stereo(0.5, 48000)}
    write_shard(tmp_path / "a.tar", clips)
    found = {each.key: each for each in read_recordings(tmp_path / "a.tar", 16000)}
    assert list(found) == list(clips) and all(len(each.samples) == 8000 for each in found.values())
    assert found["same"].record["text"] == "text same"
    spectrum = np.abs(np.fft.rfft(found["both"].samples))
    assert spectrum.argmax() == 220 and found["both"].samples.max() == pytest.approx(0.05, rel=0.1)


def test_16_bit_samples_come_back_as_they_were(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="FLAC", subtype="PCM_16")
    write_shard(tmp_path / "a.tar", {"a": buffer.getvalue()})
    [read] = read_recordings(tmp_path / "a.tar", 16000)
    assert np.array_equal(read.pcm16(), samples)
    assert Recording("x", {}, np.array([1.0, -1.5], np.float32)).pcm16().tolist() == [32767, -32768]


def test_damage_is_named_and_too_much_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = {f"good{number}": flac(0.2, number) for number in range(3)}
    write_shard(tmp_path / "a.tar", {**clips, "broken": b"fLaC"})
    assert [each.key for each in read_recordings(tmp_path / "a.tar", 16000)] == list(clips)
    assert "broken cannot be read" in capsys.readouterr().err
    write_shard(tmp_path / "b.tar", {"silent": flac(0.0, 0), **clips, "broken": b"fLaC"})
    with pytest.raises(InputError, match="2 of its recordings cannot be read, silent first"):
        list(read_recordings(tmp_path / "b.tar", 16000))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_a_shard_cut_short_leaves_no_cache(tmp_path: Path, share: float) -> None:
    shard = tmp_path / "s2u-train-000000.tar"
    write_shard(shard, {f"clip{number}": flac(0.2, number) for number in range(3)})
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    for read in (
        lambda: ClipStore([str(shard)], tmp_path / "s2u"),
        lambda: cache_shard(str(shard), str(tmp_path / "u2s")),
    ):
        with pytest.raises(InputError, match="s2u-train-000000.tar: the shard is damaged"):
            read()
    assert not list(tmp_path.rglob("*.npy"))
