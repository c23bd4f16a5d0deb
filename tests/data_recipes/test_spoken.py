"""Written questions and stories as spoken ones, and that the spoken tasks of the evaluation can ask them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from emova.core.config import load_config
from emova.core.errors import InputError
from emova_data.synthesis.spoken import SpokenConfig, synthesise
from emova_eval.suite.suite import SuiteConfig, build_task
from tests.data_recipes.test_synthesis import Tone

QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "text": "Who wrote Hamlet?", "answer": ["Shakespeare"], "metric": "contains"},
    {"text": "What is the capital of France?", "answer": "Paris"},
    {"text": "今天天气怎么样？", "answer": "很好"},
]
STORIES: list[dict[str, Any]] = [
    {"text": "Ann was hungry.", "answer": "right", "choices": ["She ate an apple.", "The moon is far away."]}
]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return folder


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "meta.jsonl").read_text("utf-8").splitlines()]


def test_spoken_questions_are_what_the_evaluation_asks(tmp_path: Path) -> None:
    tone, out = Tone(), tmp_path / "out"
    config = SpokenConfig(str(written(tmp_path / "in", QUESTIONS)), str(out))
    assert synthesise(config, tone) == (3, {})
    rows = read(out)
    assert [row["id"] for row in rows] == ["q1", "2", "3"] and not any("text" in row for row in rows)
    assert [row["answer"] for row in rows] == [row["answer"] for row in QUESTIONS]
    sound, rate = soundfile.read(out / rows[0]["audio"])
    assert rate == 24_000 and len(sound) == pytest.approx(1.5 * 160 * len("Who wrote Hamlet?"), abs=2)
    assert len({speaker for _, speaker, *_ in tone.said}) > 1, "a speaker a line"
    task = build_task("web-questions-s2t", SuiteConfig(data=str(out)))
    assert [Path(each.audio).is_file() for each in task.items] == [True] * 3


def test_a_storys_endings_are_told_by_its_teller(tmp_path: Path) -> None:
    tone, out = Tone(), tmp_path / "out"
    config = SpokenConfig(str(written(tmp_path / "in", STORIES)), str(out), endings=True)
    synthesise(config, tone)
    assert [words for words, *_ in tone.said] == [STORIES[0]["text"], *STORIES[0]["choices"]]
    assert len({speaker for _, speaker, *_ in tone.said}) == 1
    (item,) = build_task("storycloze-s2s", SuiteConfig(data=str(out))).items
    assert all(Path(item.facts[key]).is_file() for key in ("right", "wrong")) and Path(item.audio).is_file()


def test_an_interrupted_run_goes_on_and_nothing_is_lost_uncounted(tmp_path: Path) -> None:
    class Stops(Tone):
        def speak(self, *said: Any) -> Any:
            if len(self.said) == 2:
                raise KeyboardInterrupt
            return super().speak(*said)

    config = SpokenConfig(str(written(tmp_path / "in", QUESTIONS)), str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        synthesise(config, Stops())
    assert not (tmp_path / "out" / "meta.jsonl").exists(), "half of the questions are no data set"
    rest = Tone()
    synthesise(config, rest)
    assert len(rest.said) == 1
    whole = SpokenConfig(config.input, str(tmp_path / "whole"))
    synthesise(whole, Tone())
    assert read(tmp_path / "out") == read(tmp_path / "whole")
    english = SpokenConfig(config.input, str(tmp_path / "english"))
    assert synthesise(english, Tone(("en",))) == (2, {"a language that the voices do not speak": 1})


@pytest.mark.parametrize(
    ("row", "changes", "why"),
    [
        ({"answer": "x"}, {}, "line 1: no text to be spoken"),
        ({"text": "Why?"}, {}, "line 1: no answer"),
        ({"text": "Why?", "answer": "x", "image": "a.png"}, {}, "line 1: 'image' is not carried over"),
        ({"text": "Why?", "answer": "x"}, {"endings": True}, "needs two choices"),
        ({"text": "Why?", "answer": "x"}, {"input": ""}, "input: give a folder"),
        ({"text": "Why?", "answer": "x"}, {"input": "no"}, "cannot be read"),
        ({"text": "为什么？", "answer": "x"}, {}, "none of 1 lines could be spoken: a language"),
    ],
)
def test_what_cannot_be_spoken_is_named(tmp_path: Path, row: dict[str, Any], changes: dict[str, Any], why: str) -> None:
    values = {"input": str(written(tmp_path / "in", [row])), "output": str(tmp_path / "out"), **changes}
    with pytest.raises(InputError, match=why):
        synthesise(SpokenConfig(**values), Tone(("en",)))
    assert not (tmp_path / "out" / "meta.jsonl").exists()


def test_settings_are_read_as_everywhere() -> None:
    config = load_config(SpokenConfig, None, ["input=x", "speech.backend=piper"], kind="data")
    assert config.speech.backend == "piper"
    for wrong in ("language=de", "limit=-1", "speach.backend=x"):
        with pytest.raises(InputError):
            load_config(SpokenConfig, None, [wrong], kind="data")


def test_a_setting_may_come_without_a_file_before_it_whatever_folder_it_names(tmp_path: Path, capfd: Any) -> None:
    from emova.cli.main import main

    assert main(["data", "synthesise", "spoken", f"input={tmp_path}/none.jsonl"]) != 0
    assert "none.jsonl: cannot be read" in capfd.readouterr().err
