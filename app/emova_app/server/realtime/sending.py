"""What a realtime client is told: events, errors, and the items of the conversation."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict

from fastapi import WebSocket

from emova_app.server.errors import ApiError
from emova_app.server.http.front import new_id
from emova_app.server.json_types import ContentPart, RealtimeItem, message_item
from emova_app.server.metrics import Metrics

MAX_ITEMS = 256


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


class Items:
    """The last 256 items of a conversation, as the client may ask for them.

    Attributes:
        last: the id of the newest.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._items: OrderedDict[str, RealtimeItem] = OrderedDict()
        self.last: str | None = None

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    def __getitem__(self, item_id: str) -> RealtimeItem:
        return self._items[item_id]

    def remember(self, item: RealtimeItem) -> None:
        """Take an item that the client knows."""
        self._items[item["id"]] = item
        self.last = item["id"]
        while len(self._items) > MAX_ITEMS:
            self._items.popitem(last=False)

    async def add(self, item_id: str, role: str, content: list[ContentPart]) -> None:
        """Make an item, and tell the client. Raises: WebSocketDisconnect."""
        item = message_item(item_id, role, content)
        previous = self.last
        self.remember(item)
        await self._sender.emit("conversation.item.added", previous_item_id=previous, item=item)
        await self._sender.emit("conversation.item.done", previous_item_id=previous, item=item)
