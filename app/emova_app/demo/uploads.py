"""Files that the browser hands over: read within limits, and deleted at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gradio.components import Component

from emova.core.errors import InputError

C = TypeVar("C", bound=Component)
MAX_UPLOAD_BYTES = 16 << 20
MAX_SECONDS = 30.0


def unread(component: C) -> C:
    """Let ``component`` (``gr.Image``, ``gr.UploadButton``) hand an upload on as its path, unread.

    ``gr.Image`` decodes an upload before any function of ours sees it, without our limits and with its own errors. It
    is changed here and not in a sub-class, since gradio writes a file beside the source of each sub-class.
    """

    def path(payload: Any) -> str | None:
        return None if payload is None else payload.path

    component.preprocess = path  # type: ignore[method-assign]
    return component


def delete(path: str | None) -> None:
    """Delete an uploaded file and its folder; only what lies in the demo's own temporary folder is touched."""
    if path is None:
        return
    folder = os.environ.get("GRADIO_TEMP_DIR")
    file = Path(path).resolve()
    if folder is None or Path(folder).resolve() not in file.parents:
        return
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another upload with the same content lies there
        file.parent.rmdir()


@contextmanager
def uploaded(path: str | None, what: str) -> Iterator[bytes]:
    """The bytes of an upload, whose file is gone afterwards; errors call it ``what`` and never show where it lay.

    Raises:
        InputError: no file, or too large a file.
    """
    try:
        if path is None:
            raise InputError(f"{what}: no file came; choose one")
        with Path(path).open("rb") as file:
            data = file.read(MAX_UPLOAD_BYTES + 1)
        if len(data) > MAX_UPLOAD_BYTES:
            raise InputError(f"{what}: larger than {MAX_UPLOAD_BYTES >> 20} MB; give a smaller file")
    except OSError:
        raise InputError(f"{what}: the file did not arrive; choose it again") from None
    finally:
        delete(path)
    yield data
