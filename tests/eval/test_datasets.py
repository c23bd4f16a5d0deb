"""Data sets: good folders are read, bad ones are refused with the line; the benchmarks' own formats."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from emova.core.errors import InputError
from emova_eval.suite.datasets import CONVERTERS, read_benchmark, read_mme, read_own, read_tsv


def write_meta(folder: Path, *lines: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "meta.jsonl").write_text(text)
    return folder


def test_an_own_folder_needs_no_more_than_meta(tmp_path: Path) -> None:
    folder = write_meta(
        tmp_path / "own",
        {"text": "Say hi", "answer": "hi"},
        {"id": "b", "audio": "a.wav", "image": "b.png", "answer": ["x", "y"], "metric": "exact", "group": "g"},
    )
    first, second = read_own(folder)
    assert (first.id, first.metric, first.answers) == ("1", "contains", ("hi",))
    assert second.audio == str(folder / "a.wav") and second.images == (str(folder / "b.png"),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 1: not JSON"),
        ([1], "not an object"),
        ({"text": "q", "answr": "x"}, "unknown column 'answr'"),
        ({"text": "q"}, "no answer"),
        ({"answer": "x"}, "nothing asks"),
        ({"text": "q", "answer": "x", "metric": "magic"}, "unknown"),
        ({"audio": "../../secret.wav", "answer": "x"}, "leads out"),
        ({"audio": "/etc/passwd", "answer": "x"}, "leads out"),
        ({"text": "q", "answer": "x", "metric": "choice"}, "needs choices"),
        ("", "no questions"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_own(write_meta(tmp_path / "own", line))


def test_duplicates_and_missing_meta(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="meta.jsonl"):
        read_own(tmp_path)
    line = {"id": "a", "text": "q", "answer": "x"}
    with pytest.raises(InputError, match="comes twice"):
        read_own(write_meta(tmp_path / "own", line, line))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "meta.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "t.tsv").write_bytes(b"index\xff\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_own(tmp_path)
    with pytest.raises(InputError, match="UTF-8"):
        read_tsv(tmp_path / "t.tsv", "choice", tmp_path)


def encoded() -> str:
    data = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_vlmevalkit_tables(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    picture = encoded()
    lines = [
        "index\timage\tquestion\thint\tA\tB\tC\tanswer\tcategory",
        f"1\t{picture}\tWhat colour?\tLook\tred\tblue\t\tA\tcolour",
        "1000001\t1\tWhat colour?\t\tblue\tred\t\tB\tcolour",
        f"2\t{picture}\tRead\t\t\t\t\t['a', 'b']\ttext",
    ]
    table.write_text("\n".join(lines) + "\n")
    first, second, third = read_tsv(table, "circular", tmp_path / "media")
    assert first.choices == ("red", "blue") and first.text == "Look\nWhat colour?" and first.group == "colour"
    assert second.images == first.images and Image.open(first.images[0]).size == (9, 9)
    assert third.answers == ("a", "b") and third.choices == ()
    table.write_text(lines[0] + "\n1\t" + "!" * 80 + "\tq\t\t\t\t\tA\tc\n")
    with pytest.raises(InputError, match="line 2: the picture is not base64"):
        read_tsv(table, "choice", tmp_path / "media")
    table.write_text("index\tquestion\n1\tq\n")
    with pytest.raises(InputError, match="'answer' is missing"):
        read_tsv(table, "choice", tmp_path / "media")


def test_mme_folders(tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "a.txt").write_text("Is it one?\tYes\nIs it two?\tNo\n")
    found = read_mme(tmp_path)
    assert [(e.group, e.facts["picture"], e.answers) for e in found] == [
        ("count", "a", ("Yes",)), ("count", "a", ("No",)),
    ]  # fmt: skip
    with pytest.raises(InputError, match="questions"):
        read_mme(tmp_path / "count")


FILES = {
    "textvqa": {"data": [{"question_id": 5, "question": "q", "image_id": "i", "answers": ["a"] * 10}]},
    "chartqa": [{"imgname": "c.png", "query": "q", "label": 7}],
    "docvqa": {"data": [{"questionId": 1, "question": "q", "image": "documents/d.png", "answers": ["a"]}]},
    "infovqa": {"data": [{"questionId": 1, "question": "q", "image_local_name": "d.png", "answers": ["a"]}]},
    "seed": {
        "questions": [
            {"question_id": "1", "question": "q", "data_id": "x", "data_type": "image", "answer": "B"}
            | {f"choice_{letter}": letter for letter in "abcd"},
            {"question_id": "2", "data_type": "video"},
        ]
    },
    "scienceqa": {
        "3": {"question": "q", "choices": ["a", "b"], "answer": 1, "image": "image.png", "split": "test"},
        "4": {"question": "q", "choices": ["a", "b"], "answer": 1, "image": None, "split": "test"},
    },
    "mathvista": {
        "1": {"query": "q", "image": "i", "choices": None, "answer": "2.5", "answer_type": "float", "precision": 1.0}
    },
    "mathverse": [{"sample_index": "1", "question": "q", "image": "i", "answer": "B"}],
    "mmvet": {"v1_0": {"imagename": "i", "question": "q", "answer": "a"}},
}


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_each_benchmarks_own_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(FILES[name]))
    [example] = read_benchmark(name, path, tmp_path / "images")
    assert example.text == "q" and example.answers and example.images[0].startswith(str(tmp_path / "images"))
    path.write_text(json.dumps([{"wrong": 1}]) if name != "scienceqa" else '{"3": {"split": "test", "image": "x"}}')
    with pytest.raises(InputError, match="lacks the column"):
        read_benchmark(name, path, tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        read_benchmark(name, path, tmp_path)
