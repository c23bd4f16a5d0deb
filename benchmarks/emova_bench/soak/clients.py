"""Clients of the soak: honest ones, whose every request must be answered, and those that misbehave.

Each has an address of its own in the loopback range, as clients of a network have.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from emova.speech.audio import load_audio
from emova_bench.common import EXAMPLES

BUSY = (429, 503)
LATE = 150.0  # s, more than the server's own deadline
REALTIME_RATE = 24_000  # Hz
TEXTS = ("Hi.", "What is the time?", "Tell me about the sea.", "I passed my exam!", "Say this: one, two, three.")


class Busy(Exception):
    """The server asks to come again, after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Failure(Exception):
    """An honest request was not answered as it should have been; the message says how in a few words."""


@dataclass
class Tally:
    """What became of the requests of one kind: s of those that were answered, and how often each thing went wrong."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class Place:
    """Where a client is, and whom it asks."""

    port: int
    model: str
    address: str
    random: random.Random

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def question(self) -> dict:
        """A request for a spoken answer that comes while it is made."""
        asked = [{"role": "user", "content": self.random.choice(TEXTS)}]
        sound = {"voice": "female", "format": "pcm16"}
        return {"model": self.model, "messages": asked, "stream": True, "modalities": ["text", "audio"], "audio": sound}


class Client(ABC):
    """One client, which does the same again and again."""

    kind: str
    honest = True

    def __init__(self, place: Place, tally: Tally) -> None:
        self.place, self.tally = place, tally

    @abstractmethod
    async def ask(self) -> None:
        """One request. Raises: Busy, Failure."""

    async def run(self, until: float) -> None:
        """Ask until the time ``until`` of the event loop."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            started, pause = time.perf_counter(), 0.05
            try:
                await asyncio.wait_for(self.ask(), LATE)
                self.tally.seconds.append(time.perf_counter() - started)
            except Busy as busy:
                self.tally.busy += 1
                pause = busy.seconds
            except Failure as failure:
                self.tally.failures[str(failure)] += 1
            except (OSError, TimeoutError, httpx.HTTPError, WebSocketException) as error:
                self.tally.failures[type(error).__name__] += 1
            await asyncio.sleep(pause * self.place.random.uniform(0.8, 1.2))


# --- honest -----------------------------------------------------------------------------------------------------------
class _Http(Client):
    async def send(self, path: str, **body: object) -> httpx.Response:
        """The whole answer. Raises: Busy, Failure."""
        transport = httpx.AsyncHTTPTransport(local_address=self.place.address)
        async with httpx.AsyncClient(transport=transport, timeout=LATE, trust_env=False) as client:
            answer = await client.post(f"{self.place.base}{path}", **body)  # type: ignore[arg-type]
        if answer.status_code in BUSY and answer.headers.get("retry-after", "").isdigit():
            raise Busy(float(answer.headers["retry-after"]))
        if answer.status_code != 200:
            raise Failure(f"status {answer.status_code}")
        return answer


class Chat(_Http):
    kind = "chat"

    async def ask(self) -> None:
        answer = await self.send("/v1/chat/completions", json=self.place.question)
        lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        if len(lines) < 3 or lines[-1] != "data: [DONE]" or '"error"' in lines[-2]:
            raise Failure("a stream without its end")
        if not json.loads(lines[-2][6:])["choices"][0]["finish_reason"]:
            raise Failure("no reason for the end")


class Speech(_Http):
    kind = "speech"

    async def ask(self) -> None:
        form = self.place.random.choice(("mp3", "wav", "opus", "pcm"))
        wish = {"model": self.place.model, "input": self.place.random.choice(TEXTS), "response_format": form}
        if len((await self.send("/v1/audio/speech", json=wish)).content) < 1000:
            raise Failure("no sound")


class Transcription(_Http):
    kind = "transcription"
    sound = (EXAMPLES / "question.wav").read_bytes()

    async def ask(self) -> None:
        files = {"file": ("question.wav", self.sound)}
        if not (await self.send("/v1/audio/transcriptions", data={"model": self.place.model}, files=files)).json()[
            "text"
        ]:
            raise Failure("no text")


class Realtime(Client):
    kind = "realtime"
    sound = (load_audio(EXAMPLES / "question.wav", REALTIME_RATE) * 32767).astype("<i2")

    async def ask(self) -> None:
        """A session of one spoken question and its spoken answer."""
        async with self.session() as talk:
            for piece in np.array_split(self.sound, 8):
                sound = base64.b64encode(piece.tobytes()).decode()
                await talk.send(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
            await talk.send('{"type": "input_audio_buffer.commit"}')
            await talk.send('{"type": "response.create"}')
            await self.end(talk)

    async def end(self, talk: ClientConnection) -> None:
        """Read to the end of the answer. Raises: Failure."""
        async for text in talk:
            event = json.loads(text)
            if event["type"] == "error":
                raise Failure(f"error {event['error'].get('code') or event['error'].get('type')}")
            if event["type"] == "response.done":
                if event["response"]["status"] != "completed":
                    raise Failure(f"response {event['response']['status']}")
                return
        raise Failure("closed before the end")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ClientConnection]:
        """A session whose turns the client ends. Raises: Busy."""
        url = f"ws://127.0.0.1:{self.place.port}/v1/realtime?model={self.place.model}"
        manual = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        try:
            async with connect(
                url, local_addr=(self.place.address, 0), proxy=None, open_timeout=LATE, max_size=64 << 20
            ) as talk:
                await talk.send(json.dumps({"type": "session.update", "session": manual}))
                yield talk
        except InvalidStatus as refused:
            after = refused.response.headers.get("retry-after", "")
            if refused.response.status_code in BUSY and after.isdigit():
                raise Busy(float(after)) from None
            raise Failure(f"status {refused.response.status_code}") from None


class Health(_Http):
    """Asks whether the server is well: that is answered always."""

    kind = "health"

    async def ask(self) -> None:
        transport = httpx.AsyncHTTPTransport(local_address=self.place.address)
        async with httpx.AsyncClient(transport=transport, timeout=20, trust_env=False) as client:
            answer = await client.get(f"{self.place.base}/healthz")
        if answer.status_code != 200:
            raise Failure(f"status {answer.status_code}")
        await asyncio.sleep(0.5)


# --- the others -------------------------------------------------------------------------------------------------------
class _Rude(Client):
    honest = False

    @asynccontextmanager
    async def link(self, head: bytes, receive_buffer: int = 0) -> AsyncIterator[socket.socket]:
        """A connection on which ``head`` was sent; it ends without a farewell."""
        loop, link = asyncio.get_running_loop(), socket.socket()
        try:
            link.setblocking(False)
            if receive_buffer:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            link.bind((self.place.address, 0))
            await loop.sock_connect(link, ("127.0.0.1", self.place.port))
            await loop.sock_sendall(link, head)
            yield link
        finally:
            # The other side is told by a reset, not by an end.
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

    async def read(self, link: socket.socket, most: int, seconds: float) -> bytes:
        """What comes within a time."""
        with contextlib.suppress(TimeoutError, OSError):
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(link, most), seconds)
        return b""

    def request(self, cut: int = 0) -> bytes:
        """A chat request, without its last ``cut`` bytes."""
        body = json.dumps(self.place.question).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        whole = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        return whole[: len(whole) - cut]


class SlowReader(_Rude):
    """Takes its answer some bytes at a time."""

    kind = "slow reader"

    async def ask(self) -> None:
        async with self.link(self.request(), receive_buffer=2048) as link:
            for _ in range(20):
                if not await self.read(link, 64, 2.0):
                    return
                await asyncio.sleep(0.5)


class Leaver(_Rude):
    """Leaves while its answer comes."""

    kind = "disconnect"

    async def ask(self) -> None:
        async with self.link(self.request()) as link:
            for _ in range(self.place.random.randint(1, 6)):
                await self.read(link, 4096, 30.0)


class HalfOpen(_Rude):
    """Begins a head or a body and says no more."""

    kind = "half-open"

    async def ask(self) -> None:
        whole = self.request()
        cut = self.place.random.choice((len(whole), len(whole) - 1, len(whole) // 2, 10, 1))
        async with self.link(whole[: len(whole) - cut]) as link:
            await self.read(link, 4096, self.place.random.uniform(5, 40))


class Canceller(_Rude, Realtime):
    """Asks and takes it back: a request before it is answered, an answer of a session while it is given."""

    kind = "cancel"

    async def ask(self) -> None:
        async with self.link(self.request()):
            await asyncio.sleep(self.place.random.uniform(0, 0.3))
        async with self.session() as talk:
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXTS[2]}]}
            await talk.send(json.dumps({"type": "conversation.item.create", "item": item}))
            await talk.send('{"type": "response.create"}')
            await asyncio.sleep(self.place.random.uniform(0, 0.3))
            await talk.send('{"type": "response.cancel"}')


HONEST: tuple[type[Client], ...] = (Chat, Speech, Transcription, Realtime)
MIX: tuple[type[Client], ...] = (
    Chat, Speech, SlowReader, Transcription, Realtime, Leaver, Chat, HalfOpen,
    Speech, Canceller, Transcription, SlowReader, Chat, Leaver, Speech, HalfOpen,
)  # fmt: skip
