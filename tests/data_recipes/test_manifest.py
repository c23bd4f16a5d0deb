"""The manifest says what is there: counts, hours and checksums are those of the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from emova_data.nano import manifest
from emova_data.nano.packages import SOURCES
from emova_data.nano.pictures.make import make_picture, write_pictures
from emova_data.nano.speech.sets import SpeechPlan
from emova_data.nano.speech.shard_maker import ShardInfo, write_info, write_tar
from emova_data.records.recordings import RecordingFields


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_counts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    for number, seconds in enumerate((90.0, 270.0)):
        shard = tmp_path / "speech" / f"question-train-{number:06d}.tar"
        write_info(
            shard, ShardInfo(shard.name, "a plan", 2, seconds, write_tar(shard, [("a", b"x", {}), ("b", b"y", {})]))
        )
    (tmp_path / "speech" / "question-train-000002.tar").write_bytes(b"half of a shard, which has no record yet")
    pictures = tmp_path / "pictures" / "signs-test-000000.tar"
    write_pictures(pictures, (make_picture("signs", 0, index, "test") for index in range(3)))
    (tmp_path / "text").mkdir()
    text = tmp_path / "text" / "talk.jsonl"
    text.write_text("{}\n{}\n")

    made = manifest.write(tmp_path, SpeechPlan(answers=7), seed=5)

    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written == json.loads(json.dumps(made)) and written["seed"] == 5
    assert made["plan"]["answers"] == 7
    assert made["speech"]["sets"] == {"question-train": {"shards": 2, "items": 4, "hours": 0.1}}
    for shard in (tmp_path / "speech").glob("*00[01].tar"):
        assert made["speech"]["shards"][shard.name]["sha256"] == digest(shard)
    assert made["pictures"]["sets"] == {"signs-test": {"shards": 1, "items": 3}}
    assert made["pictures"]["shards"][pictures.name] == {"items": 3, "sha256": digest(pictures)}
    assert made["text"] == {"talk.jsonl": {"lines": 2, "sha256": digest(text)}}
    assert {source.name for source in SOURCES} <= {source["name"] for source in made["sources"]}
    assert all(source["licence"] for source in made["sources"])
    rows: list[tuple[str, str, str, str]] = []
    manifest.report(made, lambda *row: rows.append(row))
    assert ("speech question-train", "2", "4", "0.10") in rows and ("pictures signs-test", "1", "3", "") in rows
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "a stage file is left"


def test_the_same_data_has_the_same_manifest(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    shard = tmp_path / "speech" / "answer-train-000000.tar"
    samples: list[tuple[str, bytes, RecordingFields]] = [("a", np.zeros(4, np.int16).tobytes(), {"text": "Yes."})]
    first = write_tar(shard, samples)
    assert write_tar(shard, samples) == first == digest(shard)
