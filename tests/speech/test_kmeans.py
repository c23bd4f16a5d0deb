"""The k-means tokenizer keeps the laws of the protocol, and its units tell voices apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emova.checkpoint.registry import load_tokenizer
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.audio import AudioLimits
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.streaming import listen
from emova_data.nano.speech.shard_maker import encode_flac
from emova_train.data.units import tokenize_set
from emova_train.s2u.kmeans import KMeansRun, train
from tests.train.fixtures_recipe import add

RATE = 16000


def vowel(pitch: float, seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """A buzz whose first formant wanders, with a little noise."""
    times = np.arange(int(seconds * RATE)) / RATE
    centre = 600 + 300 * np.sin(2 * np.pi * 3 * times)
    waves = [np.sin(2 * np.pi * pitch * h * times) * np.exp(-(((h * pitch - centre) / 250) ** 2)) for h in range(1, 20)]
    noise = np.random.default_rng(seed).normal(size=len(times))
    return (0.2 * np.sum(waves, axis=0) + 0.003 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two shards of a low and a high voice."""
    import json
    import tarfile

    root = tmp_path_factory.mktemp("kmeans")
    (root / "speech").mkdir()
    for number, pitch in enumerate((110.0, 240.0)):
        with tarfile.open(root / "speech" / f"question-train-{number:06d}.tar", "w") as tar:
            for clip in range(6):
                add(tar, f"q{number}{clip}.flac", encode_flac(vowel(pitch, 1.0 + 0.1 * clip, clip), RATE))
                record = {"text": "a", "voice": f"v{number}", "split": "train", "set": "question"}
                add(tar, f"q{number}{clip}.json", json.dumps(record).encode())
    return root


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    config = KMeansRun(
        output_dir=str(data / "run"), data=str(data), sets=["question"], max_units=400, batch_size=128,
        model=KMeansConfig(dimensions=12, clusters=24),
    )  # fmt: skip
    report = train(config)
    assert report["variance_explained"] > 0.5 and report["codebook_perplexity"] > 8
    return data / "run" / "export"


def test_it_is_a_speech_tokenizer(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    assert isinstance(tokenizer, KMeansTokenizer) and isinstance(tokenizer, SpeechTokenizer)
    assert (tokenizer.sample_rate, tokenizer.unit_rate, tokenizer.codebook_size) == (16000, 25.0, 24)


@pytest.mark.parametrize("length", [0, 1, 639, 640, 641, 16000, 20123])
def test_streamed_equals_offline(trained: Path, length: int) -> None:
    tokenizer = load_tokenizer(trained)
    samples = torch.from_numpy(vowel(150.0, 2.0)[:length])[None]
    offline = tokenizer.encode(samples)[0]
    assert len(offline) == -(-length // 640)
    for step in (1 + length // 3, 160, 997, 40000):
        with tokenizer.streaming() as stream:
            parts = [stream.step(part) for part in samples.split(step, dim=1)]
            parts.append(stream.finish())
            with pytest.raises(InputError, match="has ended"):
                stream.step(samples)
        assert torch.equal(torch.cat(parts, dim=1)[0], offline)


def test_it_listens_to_recordings_whole_and_in_chunks(trained: Path) -> None:
    tokenizer, samples = load_tokenizer(trained), vowel(120.0, seed=3)
    units = tokenizer.encode(torch.from_numpy(samples)[None])[0].tolist()
    for audio in (samples, iter(np.array_split(samples, 5))):
        assert listen(tokenizer, audio, AudioLimits(), reject_silence=True) == units


def test_rows_of_a_batch_are_independent(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    long, short = torch.from_numpy(vowel(110.0)), torch.from_numpy(vowel(240.0))[:5000]
    batch = torch.stack([long, torch.nn.functional.pad(short, (0, len(long) - 5000), value=9.0)])
    together = tokenizer.encode(batch, torch.tensor([len(long), 5000]))
    assert torch.equal(together[0], tokenizer.encode(long[None])[0])
    assert torch.equal(together[1], tokenizer.encode(short[None])[0])
    with pytest.raises(InputError, match="batch, samples"):
        tokenizer.encode(long)


def test_units_tell_the_voice(trained: Path) -> None:
    """The same movement of the mouth in two voices shares almost no unit: that is what entangled means."""
    tokenizer = load_tokenizer(trained)
    low, high = (set(tokenizer.encode(torch.from_numpy(vowel(p, seed=9))[None])[0].tolist()) for p in (110.0, 240.0))
    assert len(low & high) <= 0.25 * min(len(low), len(high))


def test_sets_are_tokenised_into_a_folder_of_their_own(trained: Path, data: Path) -> None:
    path = tokenize_set(trained, data, "question", jobs=1, folder="units-entangled")
    assert path == data / "units-entangled" / "question.jsonl" and len(path.read_text().splitlines()) == 12
    assert not (data / "units").exists()


def test_what_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training shards of nothing"):
        train(KMeansRun(data=str(data), sets=["nothing"], output_dir=str(tmp_path)))
    with pytest.raises(InputError, match="lower model.clusters"):
        train(KMeansRun(data=str(data), sets=["question"], output_dir=str(tmp_path)))
    with pytest.raises(InputError, match="missing"):
        load_tokenizer(tmp_path)
    assert load_config(KMeansRun, Path(__file__).parents[2] / "configs/kmeans/nano.yaml").model.clusters == 4096
