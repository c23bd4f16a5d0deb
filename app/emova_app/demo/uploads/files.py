"""Files that a page uploads: stored under names that nobody can guess, read within limits, and deleted at once.

Every upload lies in a folder of its own, ``<the demo's folder>/<random>/<name>``, so that knowing its path is the right
to use it. Paths come from a browser: one that is not exactly of this form is as good as no file, whatever lies there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from emova.core.errors import InputError

MAX_UPLOAD_BYTES = 16 << 20
PART = re.compile(r"[\w.-]{1,128}", re.ASCII)
TO_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting: opening a FIFO or a terminal would otherwise never end.
TO_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class UploadLimits:
    """What all uploads together may take.

    Attributes:
        max_bytes: on the disk; the oldest give way.
        max_files: likewise.
        max_age_seconds: those that a page forgot are deleted when they are so old, in s.
    """

    max_bytes: int = 256 << 20
    max_files: int = 256
    max_age_seconds: float = 3600.0


@dataclass(frozen=True)
class _Kept:
    changed: float
    size: int
    path: str


class Store:
    """Keeps uploads: takes them in, and gives them out once.

    Args:
        root: the demo's folder; gradio's own files (pictures that the page shows) count as uploads.
        limits: of all together.
    """

    def __init__(self, root: Path, limits: UploadLimits = UploadLimits()) -> None:
        self.root, self.limits = root, limits
        self._lock = threading.Lock()

    def save(self, name: str, source: IO[bytes]) -> str:
        """Store what ``source`` gives, and tell its path. ``name`` is the browser's; only its letters are kept.

        Raises:
            InputError: larger than ``MAX_UPLOAD_BYTES``; nothing is left of it.
            OSError: the disk is full or fails; nothing is left of it.
        """
        data = source.read(MAX_UPLOAD_BYTES + 1)
        if len(data) > MAX_UPLOAD_BYTES:
            raise InputError(f"the file: larger than {MAX_UPLOAD_BYTES >> 20} MB; give a smaller file")
        path = str(self.root / secrets.token_hex(16) / _plain(name))
        with self._lock:
            self._make_room(len(data))
            try:
                os.mkdir(os.path.dirname(path), 0o700)
                file_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(file_fd, "wb") as file:
                    file.write(data)
            except OSError:
                delete_stored(self.root, path)
                raise
        return path

    def read(self, path: object) -> bytes:
        """At most ``MAX_UPLOAD_BYTES + 1`` bytes of an upload; no link is followed, and only a plain file is read.

        Raises:
            OSError: there is no such upload, whatever else there is.
        """
        with self._opened_folder(path) as (_, folder_fd, _, name):
            file_fd = os.open(name, TO_FILE, dir_fd=folder_fd)
            with open(file_fd, "rb") as file:
                found = os.fstat(file_fd)
                # A second name of a file of ours would be a file that was not uploaded.
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
                    raise FileNotFoundError(errno.ENOENT, "no upload")
                return file.read(MAX_UPLOAD_BYTES + 1)

    def delete(self, path: object) -> None:
        """Delete an upload and its folder; nothing else is touched."""
        with contextlib.suppress(OSError), self._opened_folder(path) as (root_fd, folder_fd, folder, name):
            os.unlink(name, dir_fd=folder_fd)
            os.rmdir(folder, dir_fd=root_fd)

    def take(self, path: object, what: str) -> bytes:
        """The bytes of an upload, which is gone then; errors call it ``what``, and never show where it lay or what
        lies elsewhere.

        Raises:
            InputError: no file, or too large a file.
        """
        if not isinstance(path, str):
            raise InputError(f"{what}: no file came; choose one")
        try:
            data = self.read(path)
        except OSError:
            raise InputError(f"{what}: the file did not arrive; choose it again") from None
        finally:
            self.delete(path)
        if len(data) > MAX_UPLOAD_BYTES:
            raise InputError(f"{what}: larger than {MAX_UPLOAD_BYTES >> 20} MB; give a smaller file")
        return data

    def _split(self, path: object) -> tuple[str, str] | None:
        """The folder and the name of an upload by its path; None if it is no path of an upload. Nothing is opened."""
        if not isinstance(path, str) or not path.startswith(f"{self.root}{os.sep}"):
            return None
        parts = path[len(str(self.root)) + 1 :].split(os.sep)
        if len(parts) != 2 or not all(PART.fullmatch(part) and not part.startswith(".") for part in parts):
            return None
        return parts[0], parts[1]

    @contextmanager
    def _opened_folder(self, path: object) -> Iterator[tuple[int, int, str, str]]:
        """File descriptors of the demo's folder and of the upload's; the upload's folder and name. Raises: OSError."""
        parts = self._split(path)
        if parts is None:
            raise FileNotFoundError(errno.ENOENT, "no upload")
        with contextlib.ExitStack() as opened:
            root_fd = os.open(self.root, TO_FOLDER)
            opened.callback(os.close, root_fd)
            folder_fd = os.open(parts[0], TO_FOLDER, dir_fd=root_fd)
            opened.callback(os.close, folder_fd)
            yield root_fd, folder_fd, *parts

    def forget_old(self) -> None:
        """Delete what is older than the limit."""
        with self._lock:
            self._make_room(0)

    def _make_room(self, size: int) -> None:
        kept = sorted(self._kept(), key=lambda each: each.changed)
        total, oldest = sum(each.size for each in kept), time.time() - self.limits.max_age_seconds
        for number, each in enumerate(kept):
            full = size and (total + size > self.limits.max_bytes or len(kept) - number >= self.limits.max_files)
            if each.changed >= oldest and not full:
                break
            delete_stored(self.root, each.path)
            total -= each.size

    def _kept(self) -> Iterator[_Kept]:
        """Whatever lies in the folders of the demo's folder; links are seen as such."""
        with os.scandir(self.root) as folders:
            for folder in folders:
                if not folder.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(OSError):
                    for file in os.scandir(folder):
                        with contextlib.suppress(OSError):  # its reader has just deleted it
                            found = file.stat(follow_symlinks=False)
                            yield _Kept(found.st_mtime, found.st_size, file.path)


def delete_stored(root: Path, path: str) -> None:
    """Delete a file and its folder below ``root``; neither need be there."""
    assert Path(path).parent.parent == root
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _plain(name: str) -> str:
    """A file's name without anything that a path or a header could read otherwise; its ending stays."""
    kept = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[-64:].lstrip(".")
    return kept or "upload"
