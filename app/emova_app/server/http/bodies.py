"""Reading the bodies of requests: each bounded in size and time, all of them together in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import Receive

from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError, busy

_SMALL = 64 << 10  # bytes; a smaller body is not counted: connections are few
# What is still on its way is not kept, so the connection cannot serve another request.
_CLOSE = {"connection": "close"}


class Gone(Exception):
    """The client has left."""


class UnreadError(ApiError):
    """Told while the client still sends."""


def too_large(most: int) -> UnreadError:
    """413 for a body of more than ``most`` bytes."""
    return UnreadError(413, f"the request: larger than {most >> 20} MiB", code="request_too_large", headers=_CLOSE)


@dataclass(eq=False)
class _Body:
    limit: asyncio.Timeout
    counted: int = 0
    complete: bool = False


class Bodies:
    """All bodies that are being read or worked on.

    When they take too much together, the one that has been sent for longest is broken off, so that slow senders do not
    keep out others.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._most = max(config.max_bodies_bytes, config.max_body_bytes)
        self._open: dict[_Body, None] = {}  # in the order of their beginning
        self.held = 0

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def read(self, receive: Receive) -> AsyncIterator[bytes]:
        """The body, which counts until the block ends.

        Raises:
            Gone: the client has left.
            ApiError: it is too large (413), too slow (408), or there is no room for it (429).
        """
        body = _Body(asyncio.timeout(self._config.body_seconds))
        self._open[body] = None
        try:
            data = await self._all(receive, body)
            body.complete = True
            yield data
        finally:
            self._let_go(body)
            del self._open[body]

    async def _all(self, receive: Receive, body: _Body) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        try:
            async with body.limit as limit:
                end = limit.when()
                assert end is not None
                while True:
                    message = await receive()
                    if limit.expired():
                        raise TimeoutError  # while what it had sent was taken
                    if message["type"] == "http.disconnect":
                        raise Gone
                    data += message.get("body", b"")
                    if len(data) > self._config.max_body_bytes:
                        raise too_large(self._config.max_body_bytes)
                    if len(data) > _SMALL:
                        self._count(body, len(data))
                    if not message.get("more_body", False):
                        return bytes(data)
                    limit.reschedule(min(end, loop.time() + self._config.body_stall_seconds))
        except TimeoutError:
            raise ApiError(408, "the request: its body came too slowly", code="timeout", headers=_CLOSE) from None

    def _count(self, body: _Body, size: int) -> None:
        while self.held + size - body.counted > self._most:
            slowest = next((each for each in self._open if each.counted and not each.complete and each != body), None)
            if slowest is None:
                full = busy("the server holds as much as it can; try again in a moment")
                raise UnreadError(
                    full.status, full.message, kind=full.kind, code=full.code, headers={**full.headers, **_CLOSE}
                )
            self._let_go(slowest)
            slowest.limit.reschedule(0.0)
        self.held += size - body.counted
        body.counted = size

    def _let_go(self, body: _Body) -> None:
        self.held -= body.counted
        body.counted = 0
