"""JSON from clients: pictures and sound in it may be large, all else is small; read without holding up others.

Media are long strings of base64. They are cut out before anything is parsed, so that a parser, whose objects take up to
a hundred times the bytes of what they came from, only sees what is left, within limits of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope

from emova_app.server.errors import ApiError

_MEDIA_LEAST = 4096  # bytes; what is shorter counts as text
_AT_ONCE = 1 << 20  # bytes that are looked at without letting other threads work
_PIECE = 256 << 10  # bytes of a form that are parsed at once
_SMALL = 16 << 10  # bytes that are read at once: a thread would take longer
_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")
_DATA_URL = re.compile(rb"data:[a-zA-Z0-9.+;=/\\-]{0,200},")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_HALVES = re.compile("[\ud800-\udfff]")
_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MARK = secrets.token_hex(16)  # nobody can send what stands in a medium's place


@dataclass(frozen=True)
class JsonLimits:
    """Of one text, apart from its media.

    Attributes:
        max_bytes: of all that is no medium.
        max_values: values and names.
        max_depth: of lists and objects in each other.
    """

    max_bytes: int = 1 << 20
    max_values: int = 50_000
    max_depth: int = 64


def parse_json(data: bytes, limits: JsonLimits = JsonLimits()) -> object:
    """What ``data`` says. Raises: ApiError: it is not JSON, nested too deeply (400), or too much (413)."""
    small, structure, media = _cut(data, limits)
    steps = np.frombuffer(structure.translate(None, _BRACKETS), np.uint8)
    # In ASCII, what opens is one below 92 or 124, what closes is one above.
    depths = np.cumsum(np.where((steps == ord("[")) | (steps == ord("{")), 1, -1))
    if len(depths) and depths.max() > limits.max_depth:
        raise ApiError(400, "the JSON: nested too deeply", code="invalid_json")
    if sum(map(structure.count, (b",", b"[", b"{", b":"))) > limits.max_values:
        raise _too_much(f"{limits.max_values} values")
    try:
        return _put_back(json.loads(small.decode("utf-8-sig")), media)
    except (ValueError, RecursionError):
        raise _invalid() from None


async def read_json(data: bytes, limits: JsonLimits) -> object:
    """``parse_json`` off the event loop, if it may take long; half of a surrogate pair, which is no character, becomes
    the replacement character, as it does in every browser.
    """
    return _read(data, limits) if len(data) <= _SMALL else await asyncio.to_thread(_read, data, limits)


def _read(data: bytes, limits: JsonLimits) -> object:
    content = parse_json(data, limits)
    return _whole_characters(content) if b"\\u" in data else content


def _whole_characters(value: object) -> object:
    if isinstance(value, str):
        return _HALVES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(each) for each in value]
    if isinstance(value, dict):
        return {_HALVES.sub("\ufffd", name): _whole_characters(each) for name, each in value.items()}
    return value


def _invalid() -> ApiError:
    return ApiError(400, "the text: not valid JSON", code="invalid_json")


def _too_much(most: str) -> ApiError:
    return ApiError(
        413, f"the JSON: more than {most} apart from pictures and sound; send less", code="request_too_large"
    )


def _cut(data: bytes, limits: JsonLimits) -> tuple[bytes, bytes, list[str]]:
    """The text with marks in the place of media, what of it is outside of strings, and the media."""
    kept: list[bytes] = []
    outside: list[bytes] = []
    media: list[str] = []
    position, size = 0, 0
    while True:
        start = data.find(b'"', position)
        until = len(data) if start < 0 else start
        size += until - position
        if size > limits.max_bytes:
            break
        outside.append(data[position:until])
        kept.append(outside[-1])
        if start < 0:
            return b"".join(kept), b"".join(outside), media
        position = _end_of_string(data, start, start + limits.max_bytes + 2)
        medium = _medium(data, start + 1, position - 1)
        if medium is None:
            size += position - start
            if size > limits.max_bytes:
                break
            kept.append(data[start:position])
        else:
            kept.append(f'"{_MARK}{len(media)}"'.encode())
            media.append(medium)
        if len(outside) > limits.max_values:
            raise _too_much(f"{limits.max_values} values")
    raise _too_much(f"{limits.max_bytes / 2**20:g} MiB")


def _end_of_string(data: bytes, start: int, most: int) -> int:
    """Where the string ends that begins at ``start``; one with an escaped quote is no medium and ends by ``most``."""
    end = data.find(b'"', start + 1)
    if end < 0:
        raise _invalid()
    if data[end - 1] != ord("\\"):
        return end + 1
    found = _STRING.match(data, start, most)
    if found is not None:
        return found.end()
    if most < len(data):
        raise _too_much(f"{(most - start) / 2**20:.2g} MiB")
    raise _invalid()


def _medium(data: bytes, start: int, end: int) -> str | None:
    """The string between ``start`` and ``end`` if it is a medium: base64, alone or in a data: URL."""
    if end - start < _MEDIA_LEAST:
        return None
    head = _DATA_URL.match(data, start, end)
    escapes = 0
    for at in range(head.end() if head else start, end, _AT_ONCE):
        part = data[at : min(end, at + _AT_ONCE)]
        if part.translate(None, _BASE64):
            return None
        escapes += part.count(b"\\")
    if not escapes:
        return data[start:end].decode("ascii")
    # Some programs write a slash as \/, many break lines; any other escape is none of base64's.
    plain = data[start:end].replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"")
    return None if b"\\" in plain else plain.decode("ascii")


def _put_back(value: object, media: list[str]) -> object:
    if isinstance(value, str):
        return media[int(value[len(_MARK) :])] if value.startswith(_MARK) else value
    if isinstance(value, list):
        return [_put_back(each, media) for each in value]
    if isinstance(value, dict):
        return {name: _put_back(each, media) for name, each in value.items()}
    return value


class _Read(Request):
    """A request whose JSON was read."""

    content: object = None

    async def json(self) -> Any:
        """What it says."""
        return self.content


def _as_json(scope: Scope) -> Scope:
    """A request's scope that says it is JSON, as it does or leaves open. Raises: ApiError: it says something else."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    for given in (value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"):
        kind = given.partition(";")[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            shown = kind if _TYPE.fullmatch(kind) else "another one"
            message = f"the Content-Type: {shown}; send JSON with the header Content-Type: application/json"
            raise ApiError(400, message, code="invalid_content_type")
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


def json_route(limits: JsonLimits) -> type[APIRoute]:
    """The class of routes that take JSON within ``limits``."""

    class JsonRoute(APIRoute):
        """Reads the body before FastAPI does, which would parse it on the event loop."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def read(request: Request) -> Response:
                known = _Read(_as_json(request.scope), request.receive)
                known.content = await read_json(await known.body(), limits)
                return await handle(known)

            return read

    return JsonRoute


class UploadRoute(APIRoute):
    """Takes a file as multipart/form-data. Forms in other encodings, which hold no file, are not even parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI wants it. Raises: ApiError: another encoding."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
                raise ApiError(400, "file: missing; send it as multipart/form-data", param="file")
            return await handle(Request(request.scope, in_pieces(request.receive)))

        return read


def in_pieces(receive: Receive) -> Receive:
    """A body in pieces between which others have their turn, for it is parsed on the event loop."""
    left: deque[Message] = deque()

    async def piece() -> Message:
        if not left:
            message = await receive()
            body = message.get("body", b"")
            starts = range(0, len(body), _PIECE)
            left.extend({**message, "body": body[at : at + _PIECE], "more_body": True} for at in starts[:-1])
            left.append({**message, "body": body[starts[-1] :]} if starts else message)
        await asyncio.sleep(0)
        return left.popleft()

    return piece
