"""What the page's scripts ask for between its events: sound to play, sound that was heard, silence.

Each function takes what a browser sent, trusts nothing in it, and answers ``{"error": one line}`` for bad input.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypedDict, TypeVar

import anyio.to_thread

from emova.core.errors import InputError
from emova_app.demo.microphone import Mode, decode_chunk
from emova_app.demo.page_sessions import PageSessions
from emova_app.pcm import to_pcm

log = logging.getLogger(__name__)
HOLD_SECONDS = 8.0  # how long a request for sound waits for some
LOOK_SECONDS = 0.02
FAULT = "something went wrong inside; reload the page"
Request = Mapping[str, object]
"""What a page sent, of which only this is known: it is an object of JSON."""
Answer = TypeVar("Answer")


class Refusal(TypedDict):
    """Why there is no answer, in one line."""

    error: str


class SoundAnswer(TypedDict):
    """Sound from ``position`` on, as base64 of 16-bit PCM at ``rate`` Hz."""

    generation: int
    position: int
    pcm: str
    rate: int
    ended: bool


class HeardAnswer(TypedDict):
    """Whether a question began (what sounds must stop) and whether it is over (it can be asked)."""

    began: bool
    ended: bool


class InterruptAnswer(TypedDict):
    """Nothing but that it was done."""


class StyleAnswer(TypedDict):
    """Sound as base64 of 16-bit PCM at ``rate`` Hz."""

    pcm: str
    rate: int


def _safe(function: Callable[[Service, Request], Answer]) -> Callable[[Service, object], Answer | Refusal]:
    @functools.wraps(function)
    def safe(self: Service, request: object) -> Answer | Refusal:
        try:
            return function(self, request if isinstance(request, dict) else {})
        except InputError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a request of the page failed")
            return {"error": FAULT}

    return safe


def _seconds(value: object) -> float | None:
    """A number of seconds that a page sent; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 3600:
        return None
    return float(value)


class Service:
    """The functions that ``bar.js`` calls."""

    def __init__(self, pages: PageSessions) -> None:
        self._pages = pages

    @property
    def functions(self) -> list[Callable[[object], object | Awaitable[object]]]:
        """For ``gr.HTML(server_functions=...)``, which wants plain functions with names."""

        async def feed(request: object) -> SoundAnswer | Refusal:
            return await self.feed(request)

        async def hear(request: object) -> HeardAnswer | Refusal:
            return await anyio.to_thread.run_sync(self.hear, request)

        async def interrupt(request: object) -> InterruptAnswer | Refusal:
            return await anyio.to_thread.run_sync(self.interrupt, request)

        def style(request: object) -> StyleAnswer | Refusal:
            return self.style(request)

        return [feed, hear, interrupt, style]

    async def feed(self, request: object) -> SoundAnswer | Refusal:
        """The sound of the newest reply from a position on; waits a while for some.

        ``fresh``: only that of a reply after ``generation`` is wanted.
        """
        given: Request = request if isinstance(request, dict) else {}
        try:
            playback = self._pages.find(given.get("ticket")).playback
        except InputError as error:
            return {"error": str(error)}
        generation, position, fresh = given.get("generation"), given.get("position"), bool(given.get("fresh"))
        if not isinstance(generation, int) or not isinstance(position, int) or position < 0:
            return {"error": FAULT}
        until = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < until:
            sound = playback.sound
            if sound.generation != generation or (not fresh and (sound.ended or len(sound.chunks) > position)):
                break
            await asyncio.sleep(LOOK_SECONDS)
        sound = playback.sound
        ended = sound.ended  # before the chunks are looked at: if it has ended, all of them are there
        chunks = sound.chunks[0 if sound.generation != generation else position :]
        if fresh and sound.generation == generation:
            chunks, ended = [], False
        return {
            "generation": sound.generation,
            "position": len(chunks) + (position if sound.generation == generation else 0),
            "pcm": base64.b64encode(b"".join(chunks)).decode(),
            "rate": sound.rate,
            "ended": ended,
        }

    @_safe
    def hear(self, request: Request) -> HeardAnswer:
        """The next block of the microphone."""
        page = self._pages.find(request.get("ticket"))
        samples, rate = decode_chunk(request.get("pcm"), request.get("rate"))
        mode: Mode = "free" if request.get("mode") == "free" else "push"
        heard = page.microphone.step(mode, rate, samples, _seconds(request.get("heard")))
        return {"began": heard.began, "ended": heard.ended}

    @_safe
    def interrupt(self, request: Request) -> InterruptAnswer:
        """Stop telling; with ``hush``, close the microphone."""
        page = self._pages.find(request.get("ticket"))
        if request.get("hush"):
            page.microphone.drop()
        else:
            page.interrupt(_seconds(request.get("heard")))
        return {}

    @_safe
    def style(self, request: Request) -> StyleAnswer:
        """The last reply's sound in another style, if the panel has made it."""
        page = self._pages.find(request.get("ticket"))
        speech = page.styles.get(str(request.get("style")))
        if speech is None:
            raise InputError("this style has not been spoken yet; press the button above")
        return {"pcm": base64.b64encode(to_pcm(speech.audio)).decode(), "rate": speech.sample_rate}
