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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from emova.core.errors import InputError

MARKER = "complete.json"
WEIGHTS = "model.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")
_STAGE_PREFIX = ".stage-"
_ASKED = 2**20


def stage_path(output_dir: str | Path, step: int) -> Path:
    """The folder beside the checkpoints in which the checkpoint of ``step`` is put together."""
    return Path(output_dir) / f"{_STAGE_PREFIX}{step}"


def stage_folder(output_dir: str | Path, step: int) -> Path:
    """Make ``stage_path`` anew, empty."""
    stage = stage_path(output_dir, step)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    return stage


def commit(written: Path, final: Path, **facts: object) -> None:
    """Flush the files of ``written``, mark it complete with ``facts`` beside the sizes, and rename it to ``final``.

    A complete checkpoint that is there already stays: it has the same step of the same run.
    """
    sizes = {}
    for path in sorted(path for path in written.rglob("*") if path.is_file()):
        _flush(path)
        sizes[path.relative_to(written).as_posix()] = path.stat().st_size
    marker = written / MARKER
    marker.write_text(json.dumps({**facts, "files": sizes}, indent=1), encoding="utf-8")
    _flush(marker)
    for folder in [path for path in written.rglob("*") if path.is_dir()]:
        _flush(folder)
    _flush(written)
    if is_complete(final):
        return
    shutil.rmtree(final, ignore_errors=True)
    os.rename(written, final)
    _flush(final.parent)


@contextmanager
def one_line(what: str, kept: str, written: Path | None = None) -> Iterator[None]:
    """Turn what the block's writing raises, on a full disk above all, into one line.

    Args:
        what: could not be written.
        kept: is untouched.
        written: the folder that the block fills. torch's own writer raises a RuntimeError without a reason, and like
            any other: the disk is then asked for it.

    Raises:
        InputError: something could not be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        refused: BaseException | None = error
        if isinstance(error, RuntimeError):
            refused = refusal(written) if written is not None else None
            if refused is None:
                raise
        reason = os.strerror(refused.errno) if isinstance(refused, OSError) and refused.errno else "the disk refused it"
        raise InputError(
            f"{what} could not be written ({reason}); {kept} untouched: make room and run the same command again"
        ) from error


def refusal(folder: Path) -> OSError | None:
    """What the disk says to a MiB more in ``folder``, at the end of its newest file; None: it takes it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    last = max(files, key=lambda path: path.stat().st_mtime_ns, default=folder / ".asked")
    try:
        with last.open("ab") as file:
            file.write(bytes(_ASKED))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


@contextmanager
def clear_errors(output_dir: str | Path, step: int) -> Iterator[None]:
    """``one_line`` for the checkpoint of ``step``; what was written of it, which has no marker, goes."""
    try:
        with one_line(f"{output_dir}: the checkpoint of step {step}", "earlier ones are", stage_path(output_dir, step)):
            yield
    except InputError:
        shutil.rmtree(stage_path(output_dir, step), ignore_errors=True)
        raise


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``final`` when the block ends well, and vanishes otherwise."""
    staged, old = (final.with_name(f"{_STAGE_PREFIX}{kind}-{final.name}") for kind in ("new", "old"))
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in (*staged.rglob("*"), staged):
            _flush(path)
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.rename(final, old)
        os.rename(staged, final)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def facts(checkpoint: Path) -> dict[str, object]:
    """What ``commit`` was told of a complete checkpoint: ``strategy`` and ``processes`` of the run that wrote it."""
    return json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))


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
        # Renamed first: what a kill leaves of it is then no half checkpoint, and goes at the next call.
        removed = path.with_name(f"{_STAGE_PREFIX}removed-{path.name}")
        shutil.rmtree(removed, ignore_errors=True)
        os.rename(path, removed)
    for path in Path(output_dir).glob(f"{_STAGE_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
