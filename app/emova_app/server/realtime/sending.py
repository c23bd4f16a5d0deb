"""What a realtime client is told: events, and errors."""

from __future__ import annotations

import asyncio
import json

from fastapi import WebSocket

from emova_app.server.errors import ApiError
from emova_app.server.http.front import new_id
from emova_app.server.metrics import Metrics


class Sender:
    """Sends events, one after the other."""

    def __init__(self, socket: WebSocket, metrics: Metrics) -> None:
        self._socket, self._metrics = socket, metrics
        self._sending = asyncio.Lock()

    async def emit(self, kind: str, **fields: object) -> None:
        """Send an event: its type, then its fields. Raises: WebSocketDisconnect."""
        text = json.dumps({"type": kind, "event_id": new_id("event"), **fields}, ensure_ascii=False)
        async with self._sending:
            await self._socket.send_text(text)

    async def error(self, error: ApiError, event_id: str | None = None) -> None:
        """Tell what was wrong with the client's event ``event_id``, or with none. Raises: WebSocketDisconnect."""
        self._metrics.errors.labels(str(error.status)).inc()
        fields = error.body["error"]
        details = {**fields, "code": fields["code"] or "invalid_value", "event_id": event_id}
        await self.emit("error", error=details)
