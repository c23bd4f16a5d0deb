"""Checkpoints that are whole or absent.

A checkpoint is written in a stage folder beside its final place, every file is flushed to the disk, a marker that
lists the files and their sizes is added, and the folder is renamed. Only folders whose marker agrees with their files
count, so a process killed at any point, or a full disk, leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_STAGE_PREFIX = ".stage-"


def stage_folder(output_dir: str | Path, step: int) -> Path:
    """An empty folder beside the checkpoints, in which the checkpoint of ``step`` is put together."""
    stage = Path(output_dir) / f"{_STAGE_PREFIX}{step}"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    return stage


def commit(written: Path, final: Path) -> None:
    """Flush the files of ``written``, mark it complete, and rename it to ``final`` (replacing an earlier one)."""
    sizes = {}
    for path in sorted(path for path in written.rglob("*") if path.is_file()):
        _flush(path)
        sizes[path.relative_to(written).as_posix()] = path.stat().st_size
    marker = written / MARKER
    marker.write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
    _flush(marker)
    _flush(written)
    if final.exists():
        shutil.rmtree(final)
    os.rename(written, final)
    _flush(final.parent)


def is_complete(checkpoint: Path) -> bool:
    """Whether ``checkpoint`` has its marker, and every file that the marker lists in full."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def step_of(checkpoint: Path) -> int:
    """The step after which ``checkpoint`` was written, by its name."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None, checkpoint.name
    return int(match.group(1))


def completed(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in folders if is_complete(path)), key=step_of)


def latest(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = completed(output_dir)
    return found[-1] if found else None


def prune(output_dir: str | Path, keep: int) -> None:
    """Remove all but the newest ``keep`` complete checkpoints, and stage folders that were left behind."""
    for path in completed(output_dir)[: -max(keep, 1)]:
        shutil.rmtree(path, ignore_errors=True)
    for path in Path(output_dir).glob(f"{_STAGE_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
