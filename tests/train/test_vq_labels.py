# ruff: noqa: F811  # fixtures are imported and named as arguments
"""Pseudo-labels: one name of a recording where they are written and where they are read, cached or streamed; and
a training on labelled and wordless converted sets."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from emova.core.config import config_dict
from emova.core.errors import InputError
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova_train.core.metrics import read
from emova_train.data.clip_reader import ClipStream, StreamConfig
from emova_train.data.sample_reader import SKIPPED, BadSample
from emova_train.data.shards import Raw, read_shard
from emova_train.vq.data import Heard, TextBatches, TextSource, TextStore, label_path, streamed
from emova_train.vq.labels import label
from emova_train.vq.program import VQTrainConfig
from emova_train.vq.whisper import Whisper
from tests.train.fixtures_vq import flac, labelled, small_config, whisper, whisper_folder, write_set, write_whisper  # noqa: F401  # fixtures
from tests.train.test_parallel import SECONDS, run_module


def heard_in(samples: np.ndarray) -> str:
    """Words that only this sound has."""
    return f"sound {crc32(np.rint(samples * 32768).astype(np.int16).tobytes())}"


class Ears:
    """A labeller that hears ``heard_in``, and nothing in ``deaf_to``."""

    deaf_to: frozenset[str] = frozenset()

    def __init__(self, name: str, language: str, others: Sequence[str] = ()) -> None:
        pass

    def __call__(self, clips: Sequence[np.ndarray], language: str = "") -> list[str]:
        return ["" if heard_in(clip) in self.deaf_to else heard_in(clip) for clip in clips]


@pytest.fixture
def config(tmp_path: Path, whisper_folder: Path, monkeypatch: pytest.MonkeyPatch) -> VQTrainConfig:
    """A labelled set and two without words, whose recordings have the same ids and places; Whisper is ``Ears``."""
    monkeypatch.setattr("emova_train.vq.labels.Labeller", Ears)
    sources = [
        TextSource(write_set(tmp_path / "sets", "said", 6, "hello there")),
        TextSource(write_set(tmp_path / "sets", "one", 6), pseudo=True),
        TextSource(write_set(tmp_path / "sets", "two", 6), pseudo=True),
    ]
    config = small_config(tmp_path, whisper_folder)
    return replace(config, train=sources, stream=StreamConfig(enabled=True, pool=6, block=2))


def stream(config: VQTrainConfig, whisper: Whisper) -> ClipStream[Heard]:
    make = TextBatches(whisper.text, DEFAULT_PHONES, 1280, 0.0)
    return streamed(config.train, config.labels, config.pseudo_ratio, make, 3.0, config.max_seconds, config.stream)


def samples_of(made: ClipStream[Heard], name: str) -> list[Raw]:
    (whole,) = [source for source, _ in made.sources if source.name == name]
    found = [raw for shard in whole.shards for raw in read_shard(shard)]
    assert all(isinstance(raw, Raw) for raw in found)
    return [raw for raw in found if isinstance(raw, Raw)]


def test_labels_are_found_by_the_name_they_were_written_by(config: VQTrainConfig, whisper: Whisper) -> None:
    """Streamed and cached, and two sets whose recordings are called alike keep their own."""
    assert label(config, rows=2) == 12
    made = stream(config, whisper)
    clips = [made.decode(raw) for name in ("one", "two") for raw in samples_of(made, name)]
    assert len({clip.text for clip, _ in clips}) == 12 and len({clip.key for clip, _ in clips}) == 6
    assert all(clip.text == heard_in(samples) for clip, samples in clips)
    assert {made.decode(raw)[0].text for raw in samples_of(made, "said")} == {"hello there"}
    store = TextStore(config.train, config.cache, config.labels, 16.0)
    cached = {(clip.key, clip.text) for clip in store.clips}
    assert cached == {(clip.key, clip.text) for clip, _ in clips} | {(f"19-{at}", "hello there") for at in range(6)}


def test_a_pseudo_source_never_learns_its_own_transcript(
    config: VQTrainConfig, whisper: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = TextSource(write_set(tmp_path / "sets", "told", 5, "its own words"), pseudo=True)
    config = replace(config, train=[config.train[0], told])
    monkeypatch.setattr(Ears, "deaf_to", frozenset({heard_in(samples(flac(1, sum(b"told"))))}))
    assert label(config) == 4
    made = stream(config, whisper)
    texts = []
    for raw in samples_of(made, "told"):
        if raw.id == "19-1":
            with pytest.raises(BadSample, match="no words heard"):
                made.decode(raw)
        else:
            texts.append(made.decode(raw)[0].text)
    assert len(set(texts)) == 4 and all(text.startswith("sound") for text in texts)
    store = TextStore([told], config.cache, config.labels, 16.0)
    assert sorted(clip.text for clip in store.clips) == sorted(texts)
    # Three with words for a labelled one, whatever lies beside them.
    shares = {source.name: times for source, times in made.sources}
    assert shares["told"] * 4 == pytest.approx(3 * shares["said"] * 6)


def samples(content: bytes) -> np.ndarray:
    import soundfile

    return np.asarray(soundfile.read(io.BytesIO(content), dtype="float32")[0])


def test_words_of_a_source_without_labels_are_missed(config: VQTrainConfig, whisper: Whisper) -> None:
    """Neither a folder without labels nor one without words ends in samples that are all left out."""
    with pytest.raises(InputError, match="pseudo-labels"):
        stream(config, whisper)
    label(config)
    for path in Path(config.labels).glob("one-*.json"):
        path.write_text("{}")
    with pytest.raises(InputError, match="one-train.* words heard"):
        stream(config, whisper)
    label_path(config.labels, "one-train-000000.tar").write_text("[]")
    with pytest.raises(InputError, match="no labels of"):
        stream(config, whisper)


def test_a_recipes_labels_and_caches_of_earlier_versions_are_read(tmp_path: Path, whisper_folder: Path) -> None:
    """A recipe's recordings have no ids: their keys were, and are, their names."""
    config = labelled(small_config(tmp_path, whisper_folder))
    now = TextStore(config.train, config.cache, config.labels, 16.0)
    indices = list(Path(config.cache).glob("*.json"))
    for path in indices:
        entries = json.loads(path.read_text())
        assert all(entry.pop("name") == entry["key"] for entry in entries)
        path.write_text(json.dumps(entries))
    then = TextStore(config.train, config.cache, config.labels, 16.0)
    assert len(indices) == 2 and then.clips == now.clips
    assert [clip.text for clip in now.clips].count("good day") == 3


def test_labels_of_other_recordings_are_refused(config: VQTrainConfig) -> None:
    """Those by the places of recordings that earlier versions wrote of converted sets are such."""
    label(config)
    path = label_path(config.labels, "two-train-000001.tar")
    path.write_text(json.dumps({f"{at:09d}": "good day" for at in range(4, 6)}))
    with pytest.raises(InputError, match=r"two-train-000001\.json: names no recording of .*; remove it and"):
        TextStore(config.train, config.cache, config.labels, 16.0)


def test_shards_of_one_name_are_refused(config: VQTrainConfig, whisper: Whisper, tmp_path: Path) -> None:
    other = TextSource(write_set(tmp_path / "others", "one", 2), pseudo=True)
    doubled = replace(config, train=[*config.train, other])
    with pytest.raises(InputError, match="one-train-000000.tar has the same name"):
        label(doubled)
    label(config)
    with pytest.raises(InputError, match="has the same name"):
        TextStore(doubled.train, config.cache, config.labels, 16.0)


def test_two_recordings_of_one_id_in_a_shard_have_no_labels(
    config: VQTrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "alike-train-000000.tar", "w") as tar:
        for place, name in enumerate(("a", "b", "a")):
            meta = {"id": name, "text": ""}
            for kind, data in (("flac", flac(place, 0)), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"{place:09d}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = TextSource(str(tmp_path / "alike-train-*.tar"), pseudo=True)
    assert label(replace(config, train=[source])) == 1
    assert "2 recordings share an id" in capsys.readouterr().err
    assert list(json.loads(label_path(config.labels, "alike-train-000000.tar").read_text())) == ["b"]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_labelled_and_wordless_sets_are_learnt_together(config: VQTrainConfig, tmp_path: Path) -> None:
    """Streamed by two processes, and a run that was stopped goes on exactly."""
    label(config)
    run = replace(config.run, gradient_accumulation=2, workers=1, output_dir=str(tmp_path / "two"))
    path = tmp_path / "vq.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_dict(replace(config, run=run))))))
    jobs = [["vq", str(path), [f"run.output_dir={tmp_path}/two"], copy] for copy in ("", str(tmp_path / "two-again"))]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_module(["tests.train.codec_worker", str(tmp_path / "jobs.json")], 2, tmp_path)
    whole, again = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("two", "two-again"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    losses = [
        {row["step"]: row["loss"] for row in read(tmp_path / name / "metrics.jsonl") if row["kind"] == "train"}
        for name in ("two", "two-again")
    ]
    assert losses[0] == losses[1] and sorted(losses[0]) == [1, 2, 3, 4]
    assert not (tmp_path / "two" / SKIPPED).exists()  # every recording had its words
    places = [json.loads((tmp_path / "two" / "checkpoint-4" / f"data-{rank}.json").read_text()) for rank in range(2)]
    for place in places:
        assert place["position"] == 8 and place["readers"] == 2
        (state,) = place["states"].values()
        assert state["counts"][1] == 0 and set(state["sets"]) == {"said", "one", "two"}
