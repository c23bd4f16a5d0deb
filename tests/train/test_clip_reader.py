"""Recordings streamed from converted sets: each as often as it is asked for, and a resumed run like a whole one."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova.speech.tokenizer.units import name_units
from emova_data.records.records import Draft, Media, Part, Record, message, text
from emova_data.sources.convert import ConvertConfig, convert
from emova_train.core.config import RunConfig
from emova_train.core.protocols import StreamedSet
from emova_train.data.clip_reader import ClipStream, Pooled, StreamConfig, find_sources
from emova_train.data.stream import StreamLoader
from emova_train.s2u import stream as s2u
from emova_train.s2u.data import SourceConfig, Views
from emova_train.u2s import stream as u2s
from emova_train.u2s.config import U2SDataConfig

CLIPS = 24


def flac(number: int, rate: int = 16000, seconds: float = 0.5) -> bytes:
    time = np.arange(int(rate * (seconds + 0.01 * number))) / rate
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.2 * np.sin(2 * np.pi * (120 + 5 * number) * time), rate, format="FLAC")
    return buffer.getvalue()


def record(number: int, **extra: Any) -> Record:
    part: Part = {"type": "audio", "audio": "flac", "units": [(number + at) % 4096 for at in range(12)]}
    turns = [message("user", part), message("assistant", text("hello"))]
    facts = {"task": "speech", "text": f"hello {number // 2}", "phones": ["h", "ə", "l", "O"], "voice": "v", **extra}
    return Record(f"c{number}", turns, (Media("flac", flac(number)),), facts)


def write(root: Path, name: str, count: int = CLIPS, units: str = "", **extra: Any) -> Path:
    drafts = [Draft(str(at), lambda at=at: record(at, **extra)) for at in range(count)]  # type: ignore[misc]
    convert(drafts, root / name, name, config=ConvertConfig(per_shard=5), units=units)
    return root / name


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write(root, "one")
    write(root, "two", 7)
    return root


def stream(sets: Path, **config: Any) -> ClipStream[s2u.Heard]:
    sources = [SourceConfig(str(sets / "one" / "one-train-*.tar")), SourceConfig(str(sets / "two" / "two-*.tar"), 2.0)]
    settings = StreamConfig(enabled=True, **{"pool": 8, "block": 3, **config})
    return s2u.streamed(sources, s2u.StreamedClips(DEFAULT_PHONES, 5.0, 2.0), Views(), settings)


def loader(made: StreamedSet, output: Path, rank: int = 0, world: int = 1, **run: Any) -> StreamLoader:
    values = {"output_dir": str(output), "max_steps": 30, "batch_size": 1, "seed": 3, **run}
    found = made.batches(list, RunConfig(**values))  # type: ignore[arg-type]  # which it does not use
    assert isinstance(found, StreamLoader)
    found.rank, found.world = rank, world
    return found


def keys(group: Pooled[s2u.Heard]) -> Any:
    return [clip.key for clip, _ in group.items]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_recording_as_often_as_its_set_is_passed(sets: Path, tmp_path: Path, workers: int) -> None:
    readers = 2 * max(workers, 1)
    seen: Counter[str] = Counter()
    for rank in range(2):
        batches = iter(
            loader(replace(stream(sets, pool=1), make=keys), tmp_path, rank, 2, workers=workers, max_steps=400)
        )
        mine: list[str] = []
        # Readers differ by a recording or two: what all of them have of two epochs comes first.
        while len(mine) < 2 * (CLIPS + 14) // 2 - 2 * readers:
            mine += next(batches)
        seen.update(mine)
    assert set(seen) == {f"c{at}" for at in range(CLIPS)}
    ones = [seen[f"c{at}"] for at in range(7, CLIPS)]  # "two" has clips of the same names as the first of "one"
    assert max(ones) <= 2 and sum(ones) >= 2 * len(ones) - 4 * readers
    assert max(seen[f"c{at}"] for at in range(7)) <= 6


def same(one: Sequence[Mapping[str, Tensor]], two: Sequence[Mapping[str, Tensor]]) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_hears_what_an_uninterrupted_one_does(sets: Path, tmp_path: Path, workers: int) -> None:
    whole = list(loader(stream(sets), tmp_path / "a", workers=workers))
    assert len(whole) == 30 and whole[0]["samples"].shape[0] == 2 * len(whole[0]["phones"])
    assert not same(whole[:3], list(loader(stream(sets), tmp_path / "a", workers=workers, seed=4))[:3])
    stopped = loader(stream(sets), tmp_path / "b", workers=workers)
    batches = iter(stopped)
    part = [next(batches) for _ in range(13)]
    stopped.save(tmp_path)
    del batches
    resumed = loader(stream(sets), tmp_path / "b", workers=workers)
    resumed.load(tmp_path)
    assert same(part + list(resumed), whole)


def test_damage_is_counted_and_ends_a_run(tmp_path: Path) -> None:
    write(tmp_path, "silent", phones=[])
    made = s2u.streamed(
        [SourceConfig(str(tmp_path / "silent" / "*.tar"))], s2u.StreamedClips(DEFAULT_PHONES, 5.0, 2.0), Views(),
        StreamConfig(pool=4, min_tried=3),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"3 of 3 samples had to be left out, 3 of them: no phones \(convert with"):
        list(loader(made, tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "skipped-samples.jsonl").read_text().splitlines()]
    assert {(row["set"], row["reason"].partition(" (")[0]) for row in rows} == {("silent", "no phones")}


def test_patterns_name_converted_sets(sets: Path, tmp_path: Path) -> None:
    part = find_sources([(str(sets / "one" / "one-train-00000[01].tar"), 1.0)])[0][0]
    assert [shard.path.name[-5] for shard in part.shards] == ["0", "1"] and part.records == 10
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "x-train-0.tar").write_bytes(b"")
    whole = str(sets / "one" / "*.tar")
    for patterns, why in (
        ([("nowhere-*.tar", 1.0)], "no such shards; `emova data convert` makes them"),
        ([(str(tmp_path / "loose" / "*.tar"), 1.0)], "set 'loose' is not in"),
        ([(whole, 0.0)], "comes 0 times an epoch"),
        ([(whole, 1.0), (whole, 2.0)], "its set is named before"),
    ):
        with pytest.raises(InputError, match=why):
            find_sources(patterns)
    with pytest.raises(InputError, match="stream.pool=0: must be at least 1"):
        StreamConfig(pool=0)


def test_a_voice_hears_the_units_of_its_own_tokenizer(tmp_path: Path) -> None:
    """Windows of streamed utterances have the units, sounds and styles of their records; foreign units are refused."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    name_units(tokenizer, "mine")
    (tokenizer / "config.json").write_text("{}")
    write(tmp_path, "said", units="mine", emotion="neutral", pitch="normal")
    config = U2SDataConfig(
        train=[str(tmp_path / "said" / "*.tar")], tokenizer=str(tokenizer), window_units=6, context_left=2,
        context_right=1, digit_noise=0.0, reference_seconds=0.2, neutral_units=0.0, stream=StreamConfig(True, 9, 3),
    )  # fmt: skip
    made = u2s.streamed(config, 4)
    assert made.config.pool == 8  # whole batches
    batches = list(loader(made, tmp_path / "run", max_steps=6, batch_size=4))
    for batch in batches:
        assert batch["units"].shape == (4, 9) and batch["audio"].shape == (4, 6 * 960)
        assert batch["f0"].shape == (4, 24) and batch["reference"].shape[0] == 4
        inside = batch["unit_mask"][:, 0].bool()
        for row in range(4):
            found = batch["units"][row][inside[row]]
            assert (found.diff() == 1).all()  # as the record has them, in their place
    held = np.concatenate([batch["f0"][batch["voiced"].bool()].numpy() for batch in batches])
    assert 110 < np.percentile(held, 5) < np.percentile(held, 95) < 250
    with pytest.raises(InputError, match="said holds units of mine, data.tokenizer makes other; run `emova data token"):
        name_units(tokenizer, "other")
        u2s.streamed(config, 4)
    with pytest.raises(InputError, match="only where recordings are cached"):
        u2s.streamed(replace(config, augmented=True), 4)
