"""Pictures and sound as requests carry them: base64 and data: URLs, nothing that a decoder could follow elsewhere."""

from __future__ import annotations

import base64
import binascii

from emova.core.errors import InputError
from emova_app.server.http.fetch import Fetcher


def from_base64(text: str, what: str) -> bytes:
    """The bytes of ``what``. Raises: InputError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{what}: not valid base64; encode the file's bytes") from None
    if not data:
        raise InputError(f"{what}: empty; send the file's bytes as base64")
    return data


def to_base64(data: bytes) -> str:
    """Bytes as they stand in JSON."""
    return base64.b64encode(data).decode("ascii")


async def read_picture(url: str, fetcher: Fetcher) -> bytes:
    """The file that a data: URL holds or an http(s) URL names. Raises: InputError."""
    if url[:5].lower() != "data:":
        return await fetcher.get(url)
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError("the picture: a data: URL must read data:image/png;base64,... (or another type of picture)")
    return from_base64(payload, "the picture")
