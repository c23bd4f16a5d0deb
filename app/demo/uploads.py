"""Files that the browser hands over: read within limits, and deleted at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData, ImageData

from emova.errors import InputError

MAX_UPLOAD_BYTES = 16 << 20
MAX_SECONDS = 30.0


class PictureUpload(gr.Image):
    """A picture whose file is handed on unread: the library's own loader, with its limits, is the first to decode it.

    ``gr.Image`` decodes an upload before any function of ours sees it, without our limits and with its own errors.
    """

    is_template = True

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the uploaded file."""
        return None if payload is None else payload.path


class AudioUpload(gr.UploadButton):
    """A button whose file is handed on as its path."""

    is_template = True

    def preprocess(self, payload: FileData | None) -> str | None:  # type: ignore[override]
        """The path of the uploaded file."""
        return None if payload is None else payload.path


def delete(path: str | None) -> None:
    """Delete an uploaded file and its folder; only what lies in the demo's own temporary folder is touched."""
    if path is None:
        return
    folder = os.environ.get("GRADIO_TEMP_DIR")
    file = Path(path).resolve()
    if folder is None or Path(folder).resolve() not in file.parents:
        return
    file.unlink(missing_ok=True)
    try:
        file.parent.rmdir()
    except OSError:
        pass  # another upload with the same content lies there


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
