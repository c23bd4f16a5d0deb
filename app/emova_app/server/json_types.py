"""JSON as it is sent and read."""

from __future__ import annotations

from typing import NotRequired, TypedDict, TypeGuard

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


class RealtimeCall(TypedDict):
    """A call of a tool in a realtime conversation, as OpenAI shows it."""

    id: str
    object: str
    type: str
    status: str
    call_id: str
    name: str
    arguments: str


class RealtimeOutput(TypedDict):
    """What a tool gave back in a realtime conversation, as OpenAI shows it."""

    id: str
    object: str
    type: str
    status: str
    call_id: str
    output: str


AnyItem = RealtimeItem | RealtimeCall | RealtimeOutput


def is_message(item: AnyItem) -> TypeGuard[RealtimeItem]:
    """Whether an item is a message."""
    return item["type"] == "message"


def is_call(item: AnyItem) -> TypeGuard[RealtimeCall]:
    """Whether an item is a call of a tool."""
    return item["type"] == "function_call"


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> RealtimeCall:
    """An item that is a call of a tool."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def output_item(item_id: str, call_id: str, output: str) -> RealtimeOutput:
    """An item that is what a tool gave back."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "function_call_output",
        "status": "completed",
        "call_id": call_id,
        "output": output,
    }
