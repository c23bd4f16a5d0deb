"""Pictures and sound as requests carry them: base64 and data: URLs, nothing that a decoder could follow elsewhere."""

from __future__ import annotations

import base64
import binascii
import re

from emova.core.errors import InputError
from emova_app.server.http.fetch import Fetcher

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_PLAIN = str.maketrans("-_", "+/", " \t\r\n\v\f")


def from_base64(text: str, what: str) -> bytes:
    """The bytes of ``what``: in either alphabet of RFC 4648, with or without padding and line breaks, also behind the
    head of a data: URL. Raises: InputError.
    """
    head = _DATA_URL.match(text)
    digits = (text[head.end() :] if head else text).translate(_PLAIN).rstrip("=")
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
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
    if not _DATA_URL.match(url):
        raise InputError("the picture: a data: URL must read data:image/png;base64,... (or another type of picture)")
    return from_base64(url, "the picture")
