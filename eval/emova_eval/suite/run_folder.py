"""A run folder: what was asked of which model with which settings, and every answer, resumable after a kill.

::

    run.json          resolved settings, hashes of model and data, versions; a folder belongs to one of these
    samples.jsonl     one Record a line, appended as answers come in
    audio/TASK/ID.wav what the model said
    results.json      the figures;  report.md, report.html: the same to read
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_eval.suite.samples import Record

PACKAGES = (
    "emova", "torch", "transformers", "numpy", "faster-whisper", "scikit-learn",
    "distillmos", "speechmos", "utmos-pytorch", "Resemblyzer",
)  # fmt: skip
# What may change between the start of a run and its continuation.
_FREE = {"versions", "tasks", "limit", "asked"}
# A judge that could not be reached may be reached when the run goes on: such a question is judged again.
UNREACHED = "judge: no answer from the endpoint"


def hash_path(path: str | Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files; ``missing`` where there is none."""
    path = Path(path)
    if not path.exists():
        return "missing"
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file()):
        digest.update(b"" if file == path else f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()


def hash_model(folder: Path) -> str:
    """SHA-256 over a checkpoint's weights, configurations and templates; its card may change."""
    return hash_files(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".jinja"))


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names."""
    found = "".join(f"{path.name} {hash_path(path)}\n" for path in sorted(paths))
    return hashlib.sha256(found.encode()).hexdigest() if found else "missing"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which figures depend."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def safe_name(text: str) -> str:
    """A file name for any id: its plain characters, and a hash where something had to go."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:80]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class RunFolder:
    """A run's folder.

    Args:
        path: made if missing.
        facts: settings and hashes that decide what the figures mean.

    Raises:
        InputError: the folder holds a run with other settings.
    """

    def __init__(self, path: str | Path, facts: dict[str, object]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        facts = json.loads(json.dumps({**facts, "versions": versions()}))
        existing = self.path / "run.json"
        if existing.exists():
            try:
                before = json.loads(existing.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                raise InputError(f"{existing}: damaged; choose another folder for this run") from None
            changed = sorted(key for key in (before.keys() | facts.keys()) - _FREE if before.get(key) != facts.get(key))
            if changed:
                raise InputError(
                    f"{self.path}: holds a run with another {', '.join(changed)}; choose another folder with --out"
                )
        write_text(existing, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        self.facts = facts
        self.log = self.path / "samples.jsonl"
        self._records = {(record.task, record.id): record for record in read_records(self.log)}
        self._mend()

    def _mend(self) -> None:
        # A kill may leave half a line; what is appended must not be glued to it.
        if self.log.exists() and (data := self.log.read_bytes()) and not data.endswith(b"\n"):
            with self.log.open("ab") as out:
                out.write(b"\n")

    def find(self, task: str, id: str) -> Record | None:
        """The record of a question that was answered before, and judged if a judge was needed."""
        record = self._records.get((task, id))
        return None if record is not None and record.failure.startswith(UNREACHED) else record

    def add(self, record: Record) -> None:
        """Keep an answer; a question that has one already is not counted again."""
        key = (record.task, record.id)
        if self.find(*key) is not None:
            return
        self._records[key] = record
        with self.log.open("a", encoding="utf-8", errors="backslashreplace") as out:  # half of a character stays JSON
            out.write(json.dumps(record.as_json(), ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def save_audio(self, task: str, id: str, samples: np.ndarray, sample_rate: int) -> str:
        """Write what the model said; returns the path within the folder."""
        from emova.speech.audio import save_wav

        name = Path("audio") / safe_name(task) / f"{safe_name(id)}.wav"
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        save_wav(self.path / name, samples, sample_rate)
        return name.as_posix()


def read_records(log: Path) -> list[Record]:
    """The whole lines of ``samples.jsonl``, one of each question: the first, or the first that a judge could be reached
    for; half lines of a kill are skipped."""
    if not log.exists():
        return []
    names = {field.name for field in fields(Record)}
    found: dict[tuple[str, str], Record] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            facts = json.loads(line)
            record = Record(**{key: value for key, value in facts.items() if key in names})
        except (json.JSONDecodeError, TypeError, AttributeError):
            continue
        before = found.get((record.task, record.id))
        if before is None or before.failure.startswith(UNREACHED):
            found[record.task, record.id] = record
    return list(found.values())


def check_unique(ids: Iterable[str], where: str) -> None:
    """Raises: InputError: an id comes twice."""
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise InputError(f"{where}: the id {id[:60]!r} comes twice; ids must differ")
        seen.add(id)


def by_task(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by task, in the order of first appearance."""
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(record.task, []).append(record)
    return tasks
