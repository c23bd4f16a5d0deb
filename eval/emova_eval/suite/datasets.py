"""Reading data sets: your own folder, VLMEvalKit's TSV, the benchmarks' own JSON and MME's folders.

A data set of your own is a folder with ``meta.jsonl``, one question a line::

    {"id": "1", "audio": "a/1.wav", "image": "b.png", "text": "What is this?", "answer": "a cat", "metric": "contains"}

- ``id`` is optional (the line's number); it must not come twice.
- At least one of ``text``, ``audio`` and ``image`` asks; paths are relative to the folder and stay inside of it.
- ``answer`` is a text or a list of accepted texts; ``choices`` a list, for the metrics ``choice`` and ``circular``.
- ``metric`` is one of ``emova_eval.suite.scoring.METRICS``; without it ``contains``. ``group`` splits the figures.

A line that is no JSON, lacks an answer, or names an unknown column or metric stops the run before it starts; a file
that is missing or cannot be read is that question's failure, and is counted.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from emova.core.errors import InputError
from emova.core.writing import write_bytes
from emova_eval.metrics.choices import LETTERS
from emova_eval.suite.run_folder import check_unique
from emova_eval.suite.samples import Example
from emova_eval.suite.scoring import find_metric

COLUMNS = {"id", "text", "audio", "image", "answer", "choices", "metric", "group"}
MAX_IMAGE_BYTES = 64 << 20


def _inside(folder: Path, name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{where}: {name[:80]!r} leads out of the data set's folder")
    return str(folder / name)


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)


def read_text(path: Path) -> str:
    """A text file, without the mark of UTF-8 that some programs begin it with.

    Raises:
        InputError: missing, unreadable, or not UTF-8; then the line is named.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError:
        raise InputError(f"{path}: not a file that can be read") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not in UTF-8; save the file in that encoding") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, by line feeds alone: other separators may stand inside of a text.

    Raises:
        InputError: as ``read_text``.
    """
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def _load_json(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not a JSON file ({error.msg})") from None


def read_own(folder: str | Path) -> list[Example]:
    """The questions of a folder with ``meta.jsonl``. Raises: InputError: naming the line and what is wrong with it."""
    folder = Path(folder)
    meta = folder / "meta.jsonl"
    if not meta.is_file():
        raise InputError(f"{folder}: no meta.jsonl in this folder")
    examples = []
    for number, line in enumerate(read_lines(meta), start=1):
        if not line.strip():
            continue
        where = f"{meta}, line {number}"
        try:
            facts = json.loads(line)
        except json.JSONDecodeError:
            raise InputError(f"{where}: not JSON") from None
        if not isinstance(facts, dict):
            raise InputError(f"{where}: not an object")
        facts = {name: value for name, value in facts.items() if value is not None}
        if unknown := sorted(facts.keys() - COLUMNS):
            raise InputError(f"{where}: unknown column {unknown[0]!r}; known are {', '.join(sorted(COLUMNS))}")
        if not any(facts.get(name) for name in ("text", "audio", "image")):
            raise InputError(f"{where}: nothing asks; give text, audio or image")
        if facts.get("answer") in (None, "", []):
            raise InputError(f"{where}: no answer")
        metric = find_metric(str(facts.get("metric", "contains"))).name
        choices = _texts(facts.get("choices"))
        if metric in ("choice", "circular") and not 2 <= len(choices) <= len(LETTERS):
            raise InputError(f"{where}: the metric {metric} needs choices, 2 to {len(LETTERS)}")
        examples.append(
            Example(
                id=str(facts.get("id", number)),
                text=str(facts.get("text", "")),
                audio=_inside(folder, str(facts["audio"]), where) if facts.get("audio") else "",
                images=tuple(_inside(folder, name, where) for name in _texts(facts.get("image")) if name),
                answers=_texts(facts["answer"]),
                choices=choices,
                metric=metric,
                group=str(facts.get("group", "")),
            )
        )
    if not examples:
        raise InputError(f"{meta}: no questions")
    check_unique((example.id for example in examples), str(meta))
    return examples


def _listed(text: str) -> list[str]:
    """A cell that may hold a Python or JSON list of texts."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        if isinstance(value, list) and value:
            return [str(item) for item in value]
    return [text]


def _store_image(data: str, media: Path, where: str) -> str:
    if len(data) > MAX_IMAGE_BYTES * 4 // 3:
        raise InputError(f"{where}: the picture is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: the picture is not base64") from None
    path = media / f"{hashlib.sha256(content).hexdigest()[:32]}.img"
    if not path.exists():
        media.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    return str(path)


def _table(path: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """The columns of a tab-separated file, and its rows by the line that each begins in. Raises: InputError."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t", strict=True)
    rows: dict[int, dict[str, str]] = {}
    line = 1
    try:
        columns = next(reader, [])
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return columns, rows
            if cells:
                rows[line] = dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not a table ({error}); is a quotation mark open?") from None


def read_tsv(path: str | Path, metric: str, media: str | Path) -> list[Example]:
    """VLMEvalKit's format: index, image (base64, a list of them, or another row's index), question, A, B, …, answer.

    Pictures are unpacked to ``media``; their pixels are checked against the limits when they are shown to the model.

    Raises:
        InputError: a column is missing, an index comes twice, or a picture is not base64.
    """
    path, media = Path(path), Path(media)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    csv.field_size_limit(2**31 - 1)
    columns, lines = _table(path)
    rows = list(lines.values())
    for needed in ("index", "question", "answer"):
        if needed not in columns:
            raise InputError(f"{path}: the column {needed!r} is missing")
    pictures = {row["index"]: row["image"] for row in rows if len(row.get("image") or "") > 64}
    examples = []
    for line, row in lines.items():
        where = f"{path}, line {line}"
        cell = row.get("image") or ""
        cell = pictures.get(cell, cell)
        images: tuple[str, ...] = ()
        if cell:
            images = tuple(_store_image(data, media, where) for data in _listed(cell))
        elif row.get("image_path"):
            images = tuple(_inside(path.parent, name, where) for name in _listed(row["image_path"] or ""))
        choices = []
        for letter in LETTERS:
            if not (row.get(letter) or "").strip():
                break
            choices.append(str(row[letter]))
        hint = (row.get("hint") or "").strip()
        question = row.get("question") or ""
        examples.append(
            Example(
                id=str(row["index"]),
                text=f"{hint}\n{question}" if hint and hint != "nan" else question,
                images=images,
                answers=tuple(_listed(row.get("answer") or "")),
                choices=tuple(choices),
                metric=metric,
                group=row.get("category") or "",
                facts={"picture": row.get("image_path") or (Path(images[0]).stem if images else "")},
            )
        )
    check_unique((example.id for example in examples), str(path))
    return examples


def read_mme(folder: str | Path) -> list[Example]:
    """MME's folders: SUBTASK/(images|questions_answers_YN|.)/NAME.{txt,jpg,png}, two tab-separated questions a file."""
    folder = Path(folder)
    examples = []
    for text in sorted(folder.glob("*/questions_answers_YN/*.txt")) + sorted(folder.glob("*/*.txt")):
        subtask = text.relative_to(folder).parts[0]
        places = [text.parent, folder / subtask / "images"]
        found = [p / f"{text.stem}{end}" for p in places for end in (".jpg", ".png", ".jpeg")]
        image = next((path for path in found if path.exists()), found[0])
        for number, line in enumerate(read_lines(text)):
            question, tab, answer = line.partition("\t")
            if not tab:
                continue
            examples.append(
                Example(
                    f"{subtask}/{text.stem}/{number}",
                    question.strip(),
                    images=(str(image),),
                    answers=(answer.strip(),),
                    metric="mme",
                    group=subtask,
                    facts={"picture": text.stem},
                )
            )
    if not examples:
        raise InputError(f"{folder}: no SUBTASK/NAME.txt with questions")
    return examples


Entry = dict[str, Any]
"""As a benchmark's authors wrote it: what does not fit is told when it is read."""
Convert = Callable[[str, Entry, Path], Example]


def _rows(content: object, where: Path) -> Iterator[tuple[str, Entry]]:
    if isinstance(content, dict):
        listed = (content.get(key) for key in ("data", "questions", "annotations"))
        content = next((each for each in listed if isinstance(each, list)), content)
    pairs: Iterable[tuple[object, object]] = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        pairs = enumerate(content)
    for key, row in pairs:
        if not isinstance(row, dict):
            raise InputError(f"{where}: the entry {str(key)[:40]!r} is not an object")
        yield str(key), row


def _textvqa(key: str, row: Entry, images: Path) -> Example:
    id = str(row.get("question_id", key))
    image = str(images / f"{row['image_id']}.jpg")
    return Example(id, row["question"], images=(image,), answers=_texts(row["answers"]), metric="vqa")


def _chartqa(key: str, row: Entry, images: Path) -> Example:
    return Example(
        key, row["query"], images=(str(images / row["imgname"]),), answers=(str(row["label"]),), metric="relaxed"
    )


def _docvqa(key: str, row: Entry, images: Path) -> Example:
    name = row.get("image_local_name") or row["image"]
    id = str(row.get("questionId", key))
    image = str(images / Path(name).name)
    return Example(id, row["question"], images=(image,), answers=_texts(row["answers"]), metric="anls")


def _seed(key: str, row: Entry, images: Path) -> Example:
    choices = tuple(str(row[f"choice_{letter}"]) for letter in "abcd")
    image = str(images / str(row["data_id"]))
    group = str(row.get("question_type_id", ""))
    id = str(row.get("question_id", key))
    return Example(id, row["question"], "", (image,), (row["answer"],), choices, "choice", group)


def _scienceqa(key: str, row: Entry, images: Path) -> Example:
    text = f"{row['hint']}\n{row['question']}" if row.get("hint") else row["question"]
    image = str(images / key / row["image"])
    answer = LETTERS[int(row["answer"])]
    return Example(key, text, "", (image,), (answer,), _texts(row["choices"]), "choice", str(row.get("subject", "")))


def _mathvista(key: str, row: Entry, images: Path) -> Example:
    precision = row.get("precision")
    facts = {"answer_type": row["answer_type"], "precision": int(precision) if precision is not None else None}
    choices = _texts(row.get("choices"))
    image = str(images / row["image"])
    return Example(
        key, row.get("query") or row["question"], "", (image,), (str(row["answer"]),), choices, "mathvista", "", facts
    )


def _mathverse(key: str, row: Entry, images: Path) -> Example:
    image = str(images / row["image"])
    id, group = str(row.get("sample_index", key)), str(row.get("problem_version", ""))
    return Example(id, row["question"], "", (image,), (str(row["answer"]),), (), "mathverse", group)


def _mmvet(key: str, row: Entry, images: Path) -> Example:
    return Example(
        key, row["question"], images=(str(images / row["imagename"]),), answers=(row["answer"],), metric="mmvet"
    )


CONVERTERS: dict[str, Convert] = {
    "textvqa": _textvqa,
    "chartqa": _chartqa,
    "docvqa": _docvqa,
    "infovqa": _docvqa,
    "seed": _seed,
    "scienceqa": _scienceqa,
    "mathvista": _mathvista,
    "mathverse": _mathverse,
    "mmvet": _mmvet,
}


def read_benchmark(name: str, path: str | Path, images: str | Path) -> list[Example]:
    """A benchmark's own JSON file; pictures lie in ``images``. ScienceQA keeps the test questions with a picture.

    Raises:
        InputError: the benchmark is unknown, the file cannot be read, or an entry lacks a column.
    """
    if name not in CONVERTERS:
        raise InputError(f"benchmark: {name[:40]!r} is unknown; choose from {', '.join(CONVERTERS)}")
    path, examples = Path(path), []
    for key, row in _rows(_load_json(path), path):
        if name == "scienceqa" and (row.get("split") != "test" or not row.get("image")):
            continue
        if name == "seed" and row.get("data_type", "image") != "image":
            continue
        try:
            examples.append(CONVERTERS[name](key, row, Path(images)))
        except KeyError as missing:
            raise InputError(f"{path}: the entry {key[:40]!r} lacks the column {missing}") from None
        except (TypeError, ValueError, IndexError):
            raise InputError(f"{path}: the entry {key[:40]!r} has a value of the wrong kind") from None
    if not examples:
        raise InputError(f"{path}: no questions")
    check_unique((example.id for example in examples), str(path))
    return examples
