"""The dialogue evaluation: held-out items are read, failures are counted, a stopped run goes on, nothing twice."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from emova.errors import InputError
from eval.dialogue import Verdict, dialogue_rows, run_dialogues
from eval.nano_data import DialogueItem, load_dialogues, read_shards


def tone(seconds: float = 0.4) -> np.ndarray:
    return (0.1 * np.sin(np.arange(int(16000 * seconds)) * 0.1)).astype(np.float32)


def write_shard(path: Path, samples: list[tuple[str, dict[str, Any], dict[str, bytes]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, facts, media in samples:
            for extension, data in (*media.items(), ("json", json.dumps(facts).encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    sound, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, tone(), 16000, format="FLAC")
    Image.new("RGB", (28, 28), "red").save(picture, "PNG")
    facts = {"family": "piper", "voice": "piper/joe", "text": "What colour is it?"}
    greeting = {**facts, "text": "Hello there."}
    write_shard(
        tmp_path / "speech" / "question-test-000000.tar",
        [("q0", facts, {"flac": sound.getvalue()}), ("q1", greeting, {"flac": sound.getvalue()})],
    )
    question = {"question": "What colour is it?", "answer": "It is red.", "emotion": "neutral", "pitch": "normal"}
    unasked = {**question, "question": "Nobody says this."}
    write_shard(
        tmp_path / "pictures" / "scenes-test-000000.tar",
        [("p0", {"kind": "scenes", "questions": [question, unasked]}, {"png": picture.getvalue()})],
    )
    talk = {"id": "t0", "question": "Hello there.", "answer": "Hi!", "intent": "greet", "slots": {}}
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "talk.jsonl").write_text(
        json.dumps({**talk, "emotion": "happy", "pitch": "high", "split": "test"}) + "\n"
    )
    return tmp_path


def test_items_are_what_held_out_voices_asked(recipe_folder: Path) -> None:
    items = load_dialogues(recipe_folder, None, seed=0)
    assert [(item.kind, item.question, item.voice) for item in items] == [
        ("talk", "Hello there.", "piper/joe"),
        ("scenes", "What colour is it?", "piper/joe"),
    ]
    assert items[0].image is None and items[1].image is not None


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="question-test"):
        list(read_shards(tmp_path, "question-test-*.tar"))


def test_a_stopped_run_goes_on_and_asks_nothing_twice(recipe_folder: Path, tiny_checkpoint: Path) -> None:
    from emova.assistant import Assistant

    assistant = Assistant.from_pretrained(tiny_checkpoint)
    items = load_dialogues(recipe_folder, None, seed=0)
    judged: list[str] = []

    def judge(item: DialogueItem, answer: str) -> bool:
        judged.append(item.id)
        return True

    log = recipe_folder / "dialogues.jsonl"
    first = run_dialogues(assistant, items[:1], judge, log)
    log.write_text(log.read_text() + '{"id": "cut')
    both = run_dialogues(assistant, items, judge, log)
    assert both[0] == first[0] and judged == [item.id for item in items]
    assert all(verdict.complete and not verdict.error for verdict in both)


def test_a_failing_model_counts_as_wrong_never_dropped(recipe_folder: Path) -> None:
    class Broken:
        def chat(self, **inputs: Any) -> None:
            raise ValueError("no answer")

    items = load_dialogues(recipe_folder, None, seed=0)
    verdicts = run_dialogues(Broken(), items, lambda item, answer: True, recipe_folder / "log")  # type: ignore[arg-type]
    rows = {row.name: row for row in dialogue_rows(verdicts)}
    assert rows["picture questions right"].value == 0
    assert rows["spoken-instruction word error"].value == 100
    assert rows["reply parses to the schema"].value == 0
    assert not any(row.reached for row in rows.values())


def test_shares_are_worked_by_hand() -> None:
    base = dict(
        voice="v", question="a b", transcript="a b", answer="x", emotion="sad", asked_emotion="sad", pitch="low",
        asked_pitch="high", units=3, complete=True, edits=1, words=2, seconds=0.1,
    )  # fmt: skip
    verdicts = [
        Verdict(id="0", kind="talk", right=True, **base),  # type: ignore[arg-type]
        Verdict(id="1", kind="signs", right=True, **base),  # type: ignore[arg-type]
        Verdict(id="2", kind="signs", right=False, **base),  # type: ignore[arg-type]
        Verdict(id="3", kind="tables", right=True, **base),  # type: ignore[arg-type]
    ]
    rows = {row.name: row.value for row in dialogue_rows(verdicts)}
    assert rows["spoken-instruction word error"] == 50
    assert rows["picture questions right"] == pytest.approx(200 / 3)
    assert rows["picture questions, worst kind"] == 50
    assert rows["emotion label"] == 100 and rows["pitch label"] == 0
