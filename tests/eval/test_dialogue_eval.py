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

from emova.core.errors import InputError
from emova.events import Reply
from emova_eval.nano.data import DialogueItem, TextRow, load_dialogues, read_shards
from emova_eval.nano.dialogue import NanoDialogue, dialogue_rows
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import run_task
from emova_eval.suite.samples import Record


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
    facts = {"family": "piper", "voice": "piper/joe", "text": "What colour is it?", "split": "test"}
    greeting = {**facts, "text": "Hello there."}
    slt = {**facts, "family": "festival", "voice": "festival/cmu_us_slt_arctic_hts", "text": "Nobody says this."}
    write_shard(
        tmp_path / "speech" / "question-test-000000.tar",
        [
            ("q0", facts, {"flac": sound.getvalue()}),
            ("q1", greeting, {"flac": sound.getvalue()}),
            ("q2", slt, {"flac": sound.getvalue()}),
        ],
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


class Recogniser:
    name = "recogniser"

    def transcribe(self, samples: np.ndarray) -> str:
        return "what colour is it"


class Rater:
    key, name = "naturalness", "rater"

    def score(self, samples: np.ndarray) -> float:
        return 4.0


def run(model: Any, items: list[DialogueItem], folder: Path, right: Any = lambda item, answer: True) -> list[Record]:
    task = NanoDialogue(items, right, Recogniser(), heard=1, raters=(Rater(),))
    return task.judge_again(run_task(task, model, RunFolder(folder, {"model": "m"})))


def test_training_phrasings_and_known_speakers_are_not_asked(recipe_folder: Path) -> None:
    talk = recipe_folder / "text" / "talk.jsonl"
    known = json.loads(talk.read_text()) | {"question": "hello THERE", "split": "train"}
    talk.write_text(talk.read_text() + json.dumps(known) + "\n")
    assert [item.kind for item in load_dialogues(recipe_folder, None, seed=0)] == ["scenes"]
    talk.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_dialogues(recipe_folder, None, seed=0)


def test_a_stopped_run_goes_on_and_asks_nothing_twice(recipe_folder: Path, tiny_checkpoint: Path) -> None:
    from emova.assistant import Assistant

    assistant = Assistant.from_pretrained(tiny_checkpoint)
    items = load_dialogues(recipe_folder, None, seed=0)
    out = recipe_folder / "run"
    first = run(assistant, items[:1], out)
    log = out / "samples.jsonl"
    log.write_text(log.read_text() + '{"id": "cut')
    both = run(assistant, items, out)
    assert both[0] == first[0] and len(log.read_text().splitlines()) == 3
    assert all(record.values["form"] == [1.0, 1.0] and not record.failure for record in both)
    # A better judge judges the kept answers anew.
    assert [record.value for record in run(assistant, items, out, lambda item, answer: False)] == [0, 0]


def test_replies_are_heard_in_both_voices(recipe_folder: Path) -> None:
    asked: list[str] = []

    class Speaker:
        def chat(self, voice: str, **inputs: Any) -> Any:
            asked.append(voice)
            return Reply(
                "what colour", "what colour is it", "sad", "high", voice, (1,), np.ones(160, np.float32), 16000
            )

    items = load_dialogues(recipe_folder, None, seed=0)
    records = run(Speaker(), items, recipe_folder / "run")
    rows = {row.name: row for row in dialogue_rows(records, items)}
    assert [record.values["naturalness"] for record in records] == [[4.0, 1.0]] * 2
    assert asked == ["female", "male"]
    heard = [rows[f"spoken reply, word error, {voice}"] for voice in asked]
    assert [(row.value, row.count) for row in heard] == [(0, 1), (0, 1)]


def test_a_failing_model_counts_as_wrong_never_dropped(recipe_folder: Path) -> None:
    class Broken:
        def chat(self, **inputs: Any) -> None:
            raise ValueError("no answer")

    items = load_dialogues(recipe_folder, None, seed=0)
    rows = {
        row.name: row for row in dialogue_rows(run(Broken(), items, recipe_folder / "run"), items, ("scenes", "tables"))
    }
    assert rows["picture questions right"].value == 0
    assert rows["spoken-instruction word error"].value == 100
    assert "2 questions failed" in rows["spoken-instruction word error"].note
    assert rows["reply parses to the schema"].value == 0
    assert all(rows[f"spoken reply, word error, {voice}"].value == 100 for voice in ("female", "male"))
    assert "no questions on: tables" in rows["picture questions, worst kind"].note
    assert not any(row.reached for row in rows.values())


def test_a_model_without_words_or_units_is_wrong_in_form_and_sound(recipe_folder: Path) -> None:
    class Silent:
        def chat(self, **inputs: Any) -> Any:
            sound = np.zeros(0, np.float32)
            return Reply("", "", "neutral", "normal", "female", (), sound, 16000)

    items = load_dialogues(recipe_folder, None, seed=0)
    records = run(Silent(), items, recipe_folder / "run")
    assert [record.values["naturalness"] for record in records] == [[1.0, 1.0]] * 2
    rows = {row.name: row.value for row in dialogue_rows(records, items)}
    assert rows["reply parses to the schema"] == 0
    assert rows["spoken reply, word error, female"] == rows["spoken reply, word error, male"] == 100
    assert rows["spoken-instruction word error"] == 100


def item(id: str, kind: str, question: str = "a b", **record: str) -> DialogueItem:
    facts: TextRow = {"answer": "x", **record}  # type: ignore[typeddict-item]  # by keyword
    return DialogueItem(id, kind, question, "v", tone(), None, facts, "sad", "high")


def test_shares_are_worked_by_hand() -> None:
    items = [
        item("0", "talk", held_out="phrasing"),
        item("1", "signs", type="says", key="open"),
        item("2", "signs", type="says", key="closed"),
        item("3", "tables", "c d", type="most", key="Ivy"),
        item("4", "tables", "c d", type="most", key="Ivy"),
    ]
    values = {"recognition": [1.0, 2.0], "emotion": [1.0, 1.0], "pitch": [0.0, 1.0], "form": [1.0, 1.0]}
    right = [1.0, 1.0, 0.0, 1.0, 1.0]
    records = [
        Record("nano-dialogue", i.id, i.question, ["x"], "x", value, 1.0, i.kind, values)
        for i, value in zip(items, right, strict=True)
    ]
    rows = {row.name: row for row in dialogue_rows(records, items)}
    assert rows["spoken-instruction word error"].value == 50
    assert rows["picture questions right"].value == 75
    assert "blindly: 75 %" in rows["picture questions right"].note  # one of two signs, both tables
    worst = rows["picture questions, worst kind"]
    assert worst.value == 50 and worst.note.startswith("signs") and worst.parts == {"signs": 50, "tables": 100}
    assert "new phrasing: 100 %" in rows["talk: answer fits the intent"].note
    assert rows["emotion label"].value == 100 and rows["pitch label"].value == 0
    assert "commonest: 100 %" in rows["emotion label"].note
    for voice in ("female", "male"):
        assert rows[f"spoken reply, word error, {voice}"].value is None  # none was heard, so it is a miss
    # Two questions on one recording are one cluster: the interval is that of two recordings, wide.
    assert rows["picture questions right"].low == 50 and rows["picture questions right"].high == 100


def test_the_talk_judge_wants_the_words_in_order_and_no_turned_sense() -> None:
    from emova_data.nano.text.talk import appropriate

    assert appropriate("capital", {"country": "Italy", "city": "Rome"}, "The capital of Italy is Rome.")
    assert not appropriate("capital", {"country": "Italy", "city": "Rome"}, "The capital of Italy is Paris.")
    assert not appropriate("capital", {"country": "Italy", "city": "Rome"}, "The capital of Italy is not Rome.")
    assert not appropriate("capital", {"country": "Italy", "city": "Rome"}, "Rome is Italy of capital the.")
    assert not appropriate("capital", {"country": "Italy", "city": "Rome"}, "")
