"""The second table of emova-nano's evaluation: what it counts, and what it says where there are no items."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from emova_eval.models.assistant import AssistantModel, completed
from emova_eval.nano import beyond
from emova_eval.nano.data import OTHERS, read_shards
from emova_eval.report.goals import Row, goals_table
from emova_eval.suite.runner import Figure
from emova_eval.suite.samples import Example, Output, Record, Task
from emova_eval.suite.tasks import Recogniser


class Deaf:
    name = "deaf"

    def transcribe(self, samples: np.ndarray) -> str:
        raise AssertionError("there is nothing to hear")


class Nothing:
    """A run without items."""

    def __init__(self, folder: Path) -> None:
        self.data = self.out = folder

    @property
    def whisper(self) -> Recogniser:
        return Deaf()

    def run(self, task: Task[AssistantModel]) -> tuple[Figure, list[Record]]:
        raise AssertionError("there is nothing to ask")


def test_what_has_no_items_says_how_they_are_made(tmp_path) -> None:
    run = Nothing(tmp_path)
    rows = [*beyond.aloud_rows(run, 0, 0), *beyond.heard_rows(run, 0, 0), *beyond.picture_rows(run, 0, 0)]
    assert len(rows) == 5
    for row in rows:
        assert row.value is None and not row.reached
        module = row.note.partition("python -m ")[2].split("`")[0].split()[0]
        assert __import__(module, fromlist=["main"])


def test_a_long_talk_counts_its_last_quarter() -> None:
    turns = [{"question": f"q{number}", "right": "yes"} for number in range(8)]
    task = beyond.LongTalk("t", [], lambda item, text: text == item.facts["right"], "test")
    example = Example("c", "talk", facts={"turns": turns})
    answers = [["yes", "yes"]] * 6 + [["no", "yes"], ["yes", "no"]]
    score = task.score(example, Output(text=json.dumps(answers)))
    assert (score.value, score.weight) == (1.0, 2.0)
    assert score.values["alone"] == (7.0, 8.0)
    assert [score.values[f"turn_{number}"][0] for number in (6, 7, 8)] == [1.0, 0.0, 1.0]
    assert task.worst(example, "broken").weight == 2.0


def test_pictures_of_other_programs_stay_out_of_the_recipes_own(tmp_path) -> None:
    for name in ("charts-test-000000.tar", f"charts{OTHERS}test-000000.tar"):
        (tmp_path / "one.json").write_text(json.dumps({"text": name}))
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(tmp_path / "one.json", "one.json")
    own = [sample.facts["text"] for sample in read_shards(tmp_path, "*-test-*.tar", without=OTHERS)]
    assert own == ["charts-test-000000.tar"]
    assert len(list(read_shards(tmp_path, f"*{OTHERS}test-*.tar"))) == 1


def test_each_heading_has_its_table() -> None:
    rows = [Row("a", 1.0, 2.0, True), Row("b", 3.0, 2.0, True, table="Beyond the recipe"), Row("c", 1.0, None, True)]
    first, second = goals_table(rows).split("### Beyond the recipe")
    assert "| a |" in first and "| c |" in first and "| b |" not in first
    assert "| b |" in second


@pytest.mark.parametrize("most", [0, 4, 100])
def test_equal_shares_of_the_groups(most) -> None:
    items = [Example(f"{group}/{number}", group=group) for group in "abc" for number in range(10)]
    chosen = beyond.even(items, most, 1)
    assert len(chosen) == (len(items) if most == 0 else min(most, len(items)))
    counts = [sum(item.group == group for item in chosen) for group in "abc"]
    assert max(counts) - min(counts) <= 1
    assert chosen == beyond.even(items, most, 1)


def test_a_figure_names_its_failures() -> None:
    figure = Figure("t", 50.0, 40.0, 60.0, "%", True, 4, 2, "a judge")
    assert beyond.row_of(figure, "x", 85, "a note").note == "a note; a judge; 2 failed"


def test_an_export_without_its_codec_is_heard_with_anothers(tiny_checkpoint, tmp_path) -> None:
    export, whole = tmp_path / "export", tmp_path / "whole"
    shutil.copytree(tiny_checkpoint, export, ignore=shutil.ignore_patterns("speech_*"))
    whole.mkdir()
    for _ in range(2):  # a run that goes on links again
        model = AssistantModel(str(completed(export, tiny_checkpoint, whole)))
    assert (whole / "model.safetensors").resolve() == (export / "model.safetensors").resolve()
    assert model.assistant.speech_tokenizer.codebook_size == model.assistant.voice.detokenizer.codebook_size
