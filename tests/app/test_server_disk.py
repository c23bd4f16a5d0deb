"""A disk for temporary files that is full: the client is told so, and everything that needs no disk goes on."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import httpx
import pytest

import emova

pytest.importorskip("fastapi")

from emova.core.errors import DISK_FULL, InputError, disk_full
from emova_app.server.errors import as_api_error

KEY = {"Authorization": "Bearer secret-of-tests"}
QUESTION = (Path(emova.__file__).parent / "checkpoints" / "examples" / "question.wav").read_bytes()


def write_down(running, data: bytes) -> httpx.Response:
    files, wish = {"file": ("a.wav", data)}, {"model": "emova-nano"}
    return httpx.post(f"{running.url}/audio/transcriptions", headers=KEY, data=wish, files=files, timeout=60)


def large() -> bytes:
    """The question, as a file that does not fit into memory's share of an upload."""
    chunk = b"LIST" + (2 << 20).to_bytes(4, "little") + bytes(2 << 20)
    size = len(QUESTION) - 8 + len(chunk)
    return b"RIFF" + size.to_bytes(4, "little") + QUESTION[8:12] + chunk + QUESTION[12:]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_507(running, monkeypatch) -> None:
    assert write_down(running, large()).status_code == 200
    with monkeypatch.context() as patched:
        # What does not fit is put into such a file; the kernel itself refuses each byte.
        patched.setattr(tempfile, "TemporaryFile", lambda *_, **__: open("/dev/full", "w+b", buffering=0))  # noqa: SIM115
        refused = write_down(running, large())
        assert refused.status_code == 507, refused.text
        error = refused.json()["error"]
        assert error["code"] == "insufficient_storage" and "disk" in error["message"] and "parsed" not in refused.text
        assert int(refused.headers["retry-after"]) >= 1 and "/dev" not in refused.text
        assert write_down(running, QUESTION).status_code == 200, "a small one needs no disk"
    assert write_down(running, large()).status_code == 200


@pytest.mark.parametrize("number", DISK_FULL)
def test_wherever_it_fills(number: int) -> None:
    """Also under another error: a decoder says that it cannot read what could not be written."""
    full = OSError(number, os.strerror(number), "/tmp/secret")
    try:
        try:
            raise full
        except OSError:
            raise InputError("the audio: cannot be decoded") from None
    except InputError as error:
        wrapped = error
    for each in (full, wrapped):
        told = as_api_error(each)
        assert disk_full(each) and told.status == 507 and "secret" not in told.message
    for other in (OSError(errno.ENOENT, "x"), InputError("x"), RuntimeError("No space left on device")):
        assert not disk_full(other) and as_api_error(other).status != 507
