"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

Whatever ends the writing, an error, Ctrl+C or a full disk, leaves what was there before. A kill that no program can
answer leaves a file beside; the next one that is written in the same place removes it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from emova.core.errors import DISK_FULL, InputError
from emova.core.io import shown

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # no locks there: what a kill leaves stays
    fcntl = None  # type: ignore[assignment]

_LONGEST = 200  # bytes of a name that leave room for ours around it
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def unwritable(path: str | Path, error: Exception) -> InputError:
    """What a user is told of ``path``, which could not be written."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_FOLDER:
        reason = "its folder does not exist; make it first"
    elif number == errno.EROFS:
        reason = "the disk is read-only, so it cannot be written; give a place on another one"
    elif number in DISK_FULL:
        reason = "the disk is full; check the space on the disk, make room and run the same command again"
    elif number in _FORBIDDEN:
        reason = "the file cannot be written; check the name and the permissions"
    else:
        reason = "the file cannot be written; check the name and the disk"
    return InputError(f"{shown(path)}: {reason}")


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, where missing. Raises: InputError: it cannot be made, or is a file."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{shown(folder)}: this is no folder; give the name of a folder to write to") from None
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from None
    return folder


def check_writable(path: str | Path) -> None:
    """See that ``path`` can be written, before the long work; nothing is left or changed. Raises: InputError."""
    path = Path(path)
    file, staged = _open_staged(path)
    file.close()
    staged.unlink(missing_ok=True)


@contextmanager
def staged_output(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, by its handle or its name; it becomes ``path`` when the block ends well, or vanishes.

    Raises:
        InputError: the folder is missing or may not be written to, or the disk is full.
    """
    path = Path(path)
    file, staged = _open_staged(path)
    try:
        with file:  # open, and so locked, until it has its name
            yield file
            file.flush()
            _flush(staged)
            os.replace(staged, path)
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder
            _flush(path.parent)
    except OSError as error:
        if isinstance(error, ConnectionError) or error.filename not in (None, str(staged)):
            raise  # of another file or pipe that the block works with
        raise unwritable(path, error) from None
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_path(path: str | Path) -> Iterator[Path]:
    """``staged_output`` for a library that wants a name. Raises: InputError."""
    with staged_output(path) as file:
        yield Path(file.name)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; it becomes ``path`` when the block ends well, or vanishes.

    Raises:
        InputError: there is something at ``path`` already, or it cannot be written to.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{shown(path)}: is there already; give the name of a new folder")
    staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        make_folder(path.parent)
        shutil.rmtree(staged, ignore_errors=True)
        make_folder(staged)
        yield staged
        for written in (*staged.rglob("*"), staged):
            with contextlib.suppress(OSError):  # some file systems cannot flush a folder
                _flush(written)
        os.replace(staged, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file. Raises: InputError."""
    with staged_output(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a file as UTF-8; half of a character (a lone surrogate) as its escape. Raises: InputError."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises: InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with staged_path(path) as staged:
        try:
            save_file(tensors, staged, metadata=metadata)
        except SafetensorError as error:  # its way of telling that the disk did not take it
            raise unwritable(path, error) from None


# --- the file beside --------------------------------------------------------------------------------------------------
def _open_staged(path: Path) -> tuple[BinaryIO, Path]:
    """The locked file beside ``path``, and its name. Raises: InputError."""
    name = path.name if len(os.fsencode(path.name)) <= _LONGEST else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    try:
        if path.is_dir():
            raise InputError(f"{shown(path)}: this is a folder; give the name of a file to write")
        _remove_leftovers(path.parent, name)
        number = 0
        while True:
            staged = path.with_name(f".{name}.{os.getpid()}-{number}.partial")
            with contextlib.suppress(FileExistsError):
                file = staged.open("xb")
                if _lock(file.fileno(), staged):
                    return file, staged
                file.close()
            number += 1
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise unwritable(path, error) from None


def _lock(handle: int, path: Path) -> bool:
    """Whether the open file is now ours alone, and still at ``path``."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks: others see that too, and leave it alone
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove what killed writers of ``name`` left: files that no process holds."""
    if fcntl is None:
        return
    for path in folder.glob(f".{glob.escape(name)}.*.partial"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
