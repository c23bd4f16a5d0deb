"""The demo's own folder: made at the start, locked while the demo runs, deleted at the end or by the next start.

A killed demo cannot delete its folder. The next one does so if the folder has the demo's name, belongs to this user
alone, holds the demo's lock file, and nobody holds that lock. Links are never followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emova.core.errors import InputError

PREFIX = "emova-demo-"
LOCK = ".emova-demo.lock"
TO_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OwnFolder:
    """A new folder under the system's temporary one, for this user alone; what killed demos left there goes.

    ``path`` is the folder in it for what the demo keeps, without links in its name: gradio names files so, and paths
    are compared as they are written.

    Raises:
        InputError: the temporary folder cannot be written.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        sweep(parent)
        try:
            self._folder, self._lock = _make(parent)
            self.path = Path(self._folder.name) / "uploads"
            self.path.mkdir(mode=0o700)
        except OSError as error:
            why = error.strerror or "it cannot be written"
            raise InputError(f"the temporary folder {parent}: {why}; set TMPDIR to another one") from None

    def close(self) -> None:
        """Delete it."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):  # what is left, the next start deletes
                self._folder.cleanup()
            os.close(self._lock)
            self._lock = -1


def _make(parent: str) -> tuple[tempfile.TemporaryDirectory[str], int]:
    while True:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=os.path.realpath(parent), ignore_cleanup_errors=True)
        path = os.path.join(folder.name, LOCK)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another demo's sweep may have held the lock before, and deleted the folder.
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def sweep(parent: str) -> None:
    """Delete the folders of demos that were killed; what is not surely one of them is left alone."""
    with contextlib.suppress(OSError):
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(parent_fd):
                if name.startswith(PREFIX):
                    with contextlib.suppress(OSError), _abandoned(parent_fd, name):
                        shutil.rmtree(name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)


@contextmanager
def _abandoned(parent_fd: int, name: str) -> Iterator[None]:
    """Holds the lock of a killed demo's folder. Raises: OSError: it is another's, in use, or no such folder."""
    with contextlib.ExitStack() as opened:
        folder_fd = os.open(name, TO_FOLDER, dir_fd=parent_fd)
        opened.callback(os.close, folder_fd)
        lock = os.open(LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
        opened.callback(os.close, lock)
        folder, file = os.fstat(folder_fd), os.fstat(lock)
        ours = folder.st_uid == file.st_uid == os.geteuid() and not folder.st_mode & 0o077
        if not ours or not stat.S_ISREG(file.st_mode) or file.st_size:
            raise PermissionError
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
