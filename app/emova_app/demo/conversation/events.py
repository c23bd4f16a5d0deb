"""What a page is told: OpenAI's Realtime events, numbered, so that a page that was reloaded can go on where it was."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Callable

import numpy as np

from emova_app.pcm import to_pcm

Event = dict[str, object]
"""An event as JSON; its ``type`` is the name that OpenAI's Realtime protocol has for it."""
MAX_EVENTS = 2000
AUDIO = "response.output_audio.delta"


def new_id(prefix: str) -> str:
    """An id that no other item has."""
    return f"{prefix}_{secrets.token_hex(8)}"


class EventLog:
    """The events of one page, from its conversation's beginning on.

    Pieces of what is complete by now are dropped: the item that holds the whole follows them. So a conversation's log
    is about as long as what was said in it.
    """

    def __init__(self) -> None:
        self._events: list[tuple[int, Event]] = []
        self._last = 0
        self._lock = threading.Lock()

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._last

    def add(self, kind: str, **fields: object) -> None:
        """Tell an event: its type, then its fields."""
        with self._lock:
            self._last += 1
            self._events.append((self._last, {"type": kind, "event_id": f"event_{self._last}", **fields}))
            del self._events[:-MAX_EVENTS]

    def add_sound(self, response: str, item: str, samples: np.ndarray, rate: int) -> None:
        """Tell the next samples ``[T]`` of an answer, at ``rate`` Hz."""
        delta = base64.b64encode(to_pcm(samples)).decode()
        self.add(AUDIO, response_id=response, item_id=item, delta=delta, rate=rate)

    def after(self, number: int) -> tuple[list[Event], int]:
        """The events that follow the one of this number, oldest first, and the number of the last of them."""
        with self._lock:
            return [event for each, event in self._events if each > number], self._last

    def finish(self, item: str) -> None:
        """The item is complete, and was told as a whole: its words are dropped, its sound may still be fetched."""
        self._keep(lambda event: event.get("item_id") != item or event["type"] == AUDIO)

    def drop_sound(self) -> None:
        """Nobody will fetch the sound that was told."""
        self._keep(lambda event: event["type"] != AUDIO)

    def remove(self, *items: str) -> None:
        """These items shall not have been; the page is told to take them off."""
        self._keep(lambda event: event.get("item_id") not in items and _item(event) not in items)
        for item in items:
            self.add("conversation.item.deleted", item_id=item)

    def clear(self) -> None:
        """Forget all of them; the numbers go on."""
        self._keep(lambda event: False)

    def _keep(self, wanted: Callable[[Event], bool]) -> None:
        with self._lock:
            self._events = [(number, event) for number, event in self._events if wanted(event)]


def _item(event: Event) -> object:
    item = event.get("item")
    return item.get("id") if isinstance(item, dict) else None
