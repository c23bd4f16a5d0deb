"""JSON as it is sent and read."""

from __future__ import annotations

from typing import NotRequired, TypedDict

JsonObject = dict[str, object]


class ContentPart(TypedDict):
    """A part of an item of a realtime conversation."""

    type: str
    text: NotRequired[str]
    transcript: NotRequired[str | None]


class RealtimeItem(TypedDict):
    """A message of a realtime conversation, as OpenAI shows it."""

    id: str
    object: str
    type: str
    status: str
    role: str
    content: list[ContentPart]


def message_item(item_id: str, role: str, content: list[ContentPart], status: str = "completed") -> RealtimeItem:
    """An item that is a message."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }
