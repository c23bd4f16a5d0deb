"""A realtime client that is none of the libraries: events to and fro, and what the shipped example says."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect
from websockets.sync.connection import Connection

import emova
from emova.speech.audio import load_audio

MODEL, KEY = "emova-nano", "secret-of-tests"
RATE = 24_000
CASES = Path(__file__).parents[1] / "fixtures" / "cases"
QUESTION = load_audio(Path(emova.__file__).parent / "checkpoints" / "examples" / "question.wav", RATE)
MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
Event = dict[str, Any]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), dtype=np.float32)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


class Caller:
    """A connection, and all events that it gave."""

    def __init__(self, socket: Connection) -> None:
        self.socket = socket
        self.events: list[Event] = []

    def send(self, kind: str, **fields: object) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def recv(self) -> Event:
        event: Event = json.loads(self.socket.recv(timeout=60))
        self.events.append(event)
        return event

    def until(self, kind: str) -> Event:
        """The next event of a kind; no error comes before it."""
        while (event := self.recv())["type"] != kind:
            assert event["type"] != "error", event
        return event

    def update(self, **session: object) -> Event:
        self.send("session.update", session=session)
        return self.until("session.updated")

    def manual(self) -> None:
        self.update(**MANUAL)

    def play(self, *sounds: np.ndarray, pieces: int = 12) -> None:
        for piece in np.array_split(np.concatenate(sounds), pieces):
            self.send("input_audio_buffer.append", audio=base64.b64encode(pcm(piece)).decode())

    def item(self, role: str, text: str, previous: str | None = None, **fields: object) -> Event:
        kind = "output_text" if role == "assistant" else "input_text"
        item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}
        self.send("conversation.item.create", item=item, **({"previous_item_id": previous} if previous else {}))
        return self.until("conversation.item.done")

    def answer(self, **options: object) -> Event:
        """A response; its ``response.done``."""
        self.send("response.create", response={"output_modalities": ["text"], **options})
        response: Event = self.until("response.done")["response"]
        return response

    def rest(self, seconds: float = 1.0) -> list[Event]:
        """What comes until it is silent for a while."""
        found = []
        with_time = time.monotonic() + 30
        while time.monotonic() < with_time:
            try:
                found.append(json.loads(self.socket.recv(timeout=seconds)))
            except TimeoutError:
                break
        self.events += found
        return found


@contextmanager
def calling(url: str, key: str = KEY, **options: Any) -> Iterator[Caller]:
    """A connection whose session has been created."""
    address = f"{url.replace('http', 'ws', 1)}/realtime?model={MODEL}"
    options.setdefault("additional_headers", {"Authorization": f"Bearer {key}"} if key else {})
    with connect(address, proxy=None, max_size=1 << 24, **options) as socket:
        caller = Caller(socket)
        caller.until("session.created")
        yield caller
