"""Answers that are sent while they are made."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Stream(StreamingResponse):
    """Sends what a generator gives, and closes it whatever happens: so the model stops when the client leaves."""

    def __init__(self, body: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(body, media_type=media_type)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()


def event_stream(body: AsyncGenerator[bytes, None]) -> Stream:
    """Server-sent events."""
    return Stream(body, "text/event-stream")


def event(content: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"
