"""Reading what a user handed over, a path, a pipe or bytes, up to a limit."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import BinaryIO

from emova.core.errors import InputError

Source = str | Path | bytes | BinaryIO
STDIN = "-"


def shown(name: str | Path) -> str:
    """A name as an error shows it: on one line, printable, not too long."""
    text = "".join(character if character.isprintable() else "?" for character in str(name))
    return text if len(text) <= 200 else f"{text[:197]}..."


def read_once(path: str, what: str, max_bytes: int = 64 << 20) -> Source:
    """A path that can be read again as it is; a pipe's bytes, or those of the standard input for ``-``.

    Raises:
        InputError: as ``read_source``; nothing is piped in.
    """
    if path == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError(f"-: nothing is piped in; pipe the {what} to this command, or give a file")
        return read_source(sys.stdin.buffer, what, max_bytes)[0]
    try:
        piped = stat.S_ISFIFO(Path(path).stat().st_mode)
    except (OSError, ValueError):
        piped = False  # what is wrong with the path is told by whoever reads it
    return read_source(path, what, max_bytes)[0] if piped else path


def read_source(source: Source, what: str, max_bytes: int) -> tuple[bytes, str]:
    """The bytes of ``source`` and the name by which errors call it.

    Args:
        what: "audio" or "picture".

    Raises:
        InputError: missing, not a file, unreadable, empty, or larger than ``max_bytes``.
    """
    name = f"the {what}"
    data: bytes | None = None
    if isinstance(source, (str, Path)):
        name = shown(source) or "no name"
        path = Path(source)
        try:
            if not str(source):
                raise InputError(f"{name}: give a file with the {what}")
            if path.is_dir():
                raise InputError(f"{name}: this is a folder; give a file with the {what}")
            if path.exists() and not path.is_file() and not path.is_fifo():
                raise InputError(f"{name}: this is neither a plain file nor a pipe; give a file with the {what}")
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except InputError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{name}: no such file; check the path") from None
        except PermissionError:
            raise InputError(f"{name}: the file may not be read; change its permissions") from None
        except (OSError, ValueError):
            raise InputError(f"{name}: the file cannot be read; check the path and the disk") from None
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif hasattr(source, "read"):
        try:
            data = source.read(max_bytes + 1)
        except (OSError, ValueError):
            raise InputError(f"{name}: the stream cannot be read; open it again") from None
    if not isinstance(data, bytes):
        raise InputError(f"{name}: neither a path nor bytes; give a file, its bytes, or a binary stream")
    if not data:
        raise InputError(f"{name}: the file is empty; give a file with the {what}")
    if len(data) > max_bytes:
        raise InputError(f"{name}: larger than {max_bytes / 2**20:.0f} MiB; give a smaller file or raise max_bytes")
    return data, name
