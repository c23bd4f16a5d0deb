"""Evaluation files as other programs write them: marks of encodings, nulls, odd line ends, halves of characters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_eval.models.assistant import AssistantModel
from emova_eval.suite.datasets import read_own, read_tsv
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import run_task
from emova_eval.suite.samples import Example, Output
from emova_eval.suite.tasks import OwnTask
from tests.eval.fixtures_models import Unasked

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
QUESTION = {"text": "What is it?", "answer": "red"}


def folder_of(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "meta.jsonl").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_marks_and_line_ends_change_nothing(tmp_path: Path, start: bytes, end: bytes) -> None:
    lines = [
        json.dumps(QUESTION).encode(),
        json.dumps({**QUESTION, "text": "a\u2028b\x85c"}, ensure_ascii=False).encode(),
    ]
    first, second = read_own(folder_of(tmp_path, start + end.join(lines) + end))
    assert first.text == "What is it?" and second.text == "a\u2028b\x85c" and second.id == "2"


def test_what_is_no_utf8_names_its_line(tmp_path: Path) -> None:
    content = json.dumps(QUESTION).encode() + b"\n" + '{"text": "caf\xe9"}'.encode("latin-1")
    with pytest.raises(InputError, match=r"meta\.jsonl, line 2: not in UTF-8"):
        read_own(folder_of(tmp_path, content))


def test_null_means_absent() -> None:
    (example,) = read_own(CASES / "eval_null")
    assert example.text == "" and example.group == "" and example.audio.endswith("q.wav")


def test_the_handed_files_are_read(tmp_path: Path) -> None:
    assert read_own(CASES / "eval_bom")[0].answers == ("red",)
    assert read_tsv(CASES / "tsv_bom.tsv", "choice", tmp_path)[0].id == "0"


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('0\t"Which\tA\n1\tWhat\tB\n', 2),
        ('0\tWhich\tA\n1\t"What\tB', 3),
        ('0\t"Which\none"\tA\n\n1\t"What\tB\n2\tWho\tC\n', 5),
        ('0\tWhich\tA\n1\t"Wh"at\tB\n', 3),
    ],
)
def test_an_open_quotation_mark_names_the_line_of_its_row(tmp_path: Path, rows: str, line: int) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("index\tquestion\tanswer\n" + rows)
    with pytest.raises(InputError, match=rf"t\.tsv, line {line}: not a table"):
        read_tsv(table, "exact", tmp_path)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    """A cell may hold line breaks, and an empty line is none of the table."""
    table = tmp_path / "t.tsv"
    table.write_text('index\tquestion\tanswer\timage\n0\t"Which\none"\tA\n\n1\tWhat\tB\t!!!\n')
    with pytest.raises(InputError, match=r"t\.tsv, line 5"):
        read_tsv(table, "exact", tmp_path)


def test_half_a_character_is_one_failed_question(tmp_path: Path, tiny_checkpoint: Path) -> None:
    task = OwnTask("own", read_own(CASES / "eval_surrogate"))
    (record,) = run_task(task, AssistantModel(str(tiny_checkpoint)), RunFolder(tmp_path, {}))
    assert record.failure and record.value == 0
    assert len(RunFolder(tmp_path, {})._records) == 1


def test_a_spoken_question_is_answered_and_not_written_down(tmp_path: Path) -> None:
    class Answers(Unasked):
        def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
            return Output("The cheese is red.", "How much is the cheese?")

        def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
            return Output("How much is the cheese?")

    item = Example("1", audio="q.wav", answers=("red",), metric="contains")
    (record,) = run_task(OwnTask("own", [item]), Answers(), RunFolder(tmp_path, {}))
    assert record.value == 1


def test_half_a_character_stands_in_the_report(tmp_path: Path, tiny_checkpoint: Path) -> None:
    import argparse

    from emova_eval import cli

    parser = argparse.ArgumentParser()
    cli.register(parser)
    line = ["own", "--data", str(CASES / "eval_surrogate"), "--model", str(tiny_checkpoint), "--out", str(tmp_path)]
    assert cli.run(parser.parse_args(line)) == 0
    assert "half of a character" in (tmp_path / "report.html").read_text(encoding="utf-8")
