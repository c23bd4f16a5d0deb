"""Refusing a request of which more is on its way, so that its client reads why."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENCE = 2.0  # s in which nothing more of the body comes


async def refuse_unread(response: ASGIApp, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
    """Send ``response``, then let the rest of the body come, unkept, before the connection is closed.

    A connection that is closed with something unread in it is reset, and what its client had not read yet is lost: a
    client that sends all before it reads would see that alone (RFC 9112, 9.6).

    Args:
        response: with ``connection: close``.
        seconds: how long the rest may come at most.
    """

    async def send_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, send_open)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await asyncio.wait_for(receive(), SILENCE)).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class UnreadRefusal(PlainTextResponse):
    """One line for a page that still sends (``refuse_unread``)."""

    def __init__(self, status: int, reason: str, seconds: float) -> None:
        super().__init__(reason, status, headers={"connection": "close"})
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_unread(super().__call__, scope, receive, send, self._seconds)
