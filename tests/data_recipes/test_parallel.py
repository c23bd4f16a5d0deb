"""Drafts built by several processes, here or through Ray, come out as if built one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emova.core.errors import InputError
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova_data.records.parallel import in_pool, in_ray
from emova_data.records.records import Draft, Record, message, reject, text
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, build_one, convert
from emova_data.synthesis import pipeline
from emova_data.synthesis.pipeline import OmniConfig, SpeechConfig
from tests.data_recipes.test_synthesis import write_dialogues


def drafts(count: int) -> list[Draft]:
    made = []
    for number in range(count):
        turns = [message("user", text(f"question {number}")), message("assistant", text("answer"))]
        build = reject("a missing file") if number % 5 == 3 else partial(Record, f"r{number}", turns)
        made.append(Draft(f"d{number}", build))
    return made


def test_a_pool_gives_what_one_process_gives(tmp_path: Path) -> None:
    assert list(in_pool(2, str, "any")(drafts(23))) == [build_one(draft) for draft in drafts(23)]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local Ray of two workers."""
    ray = pytest.importorskip("ray")
    for part in ("pandas", "pyarrow"):  # of Ray Data
        pytest.importorskip(part)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ray_gives_what_one_process_gives(tmp_path: Path, ray: Any) -> None:
    # Waves of eight drafts over two workers, then a rest.
    spread = in_ray(2, str, "any", wave=4)
    assert list(spread(drafts(23))) == [build_one(draft) for draft in drafts(23)]
    result = convert(drafts(23), tmp_path / "a", "a", config=ConvertConfig(5, max_skip_rate=1.0), build=spread)
    assert result.skipped == {"a missing file": 4} and result.records == 19
    assert [sample["id"] for sample in read_set(tmp_path / "a")] == [f"r{n}" for n in range(23) if n % 5 != 3]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ray_synthesises_what_one_process_does(tmp_path: Path, ray: Any) -> None:
    """Filter, labels, hibari's voices and units, on two workers: the same shards, byte for byte."""
    pytest.importorskip("hibari")
    KMeansTokenizer(KMeansConfig(dimensions=4, clusters=8)).save_pretrained(tmp_path / "tokenizer")
    one = OmniConfig(
        input=str(write_dialogues(tmp_path / "in.jsonl")), output=str(tmp_path / "one"), per_shard=2,
        tokenizer=str(tmp_path / "tokenizer"), speech=SpeechConfig(sources=str(tmp_path)),
    )  # fmt: skip
    two = replace(one, output=str(tmp_path / "two"), jobs=2, ray=True)
    found = [pipeline.synthesise(config) for config in (one, two)]
    assert found[0].skipped == found[1].skipped and found[0].records == found[1].records == 3
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    reply = next(read_set(tmp_path / "two"))["messages"][1]["content"][0]
    assert reply["units"] and reply["emotion"] == "neutral"
    assert ray.cluster_resources()["CPU"] == 2


def test_without_ray_it_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    path = tmp_path / "in.jsonl"
    turns = [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]
    path.write_text(json.dumps({"conversations": turns}) + "\n")
    with pytest.raises(InputError, match=r"pip install 'emova\[ray\]'"):
        pipeline.synthesise(OmniConfig(str(path), str(tmp_path / "out"), ray=True))
