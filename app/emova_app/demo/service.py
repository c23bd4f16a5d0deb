"""What the page's scripts ask for between its events: sound to play, sound that was heard, silence.

Each function takes what a browser sent, trusts nothing in it, and answers ``{"error": one line}`` for bad input.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from emova.core.errors import InputError
from emova_app.demo.hearing import decode_chunk
from emova_app.demo.page_sessions import Visits, to_pcm

log = logging.getLogger(__name__)
HOLD_SECONDS = 8.0  # how long a request for sound waits for some
LOOK_SECONDS = 0.02
FAULT = "something went wrong inside; reload the page"


def _guarded(function: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(function)
    def guarded(self: Any, request: Any) -> dict[str, Any]:
        try:
            return function(self, request if isinstance(request, dict) else {})
        except InputError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a request of the page failed")
            return {"error": FAULT}

    return guarded


def _seconds(value: Any) -> float | None:
    """A number of seconds that a page sent; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 3600:
        return None
    return float(value)


class Service:
    """The functions that ``bar.js`` calls."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """For ``gr.HTML(server_functions=...)``, which wants plain functions with names."""

        async def feed(request: Any) -> dict[str, Any]:
            return await self.feed(request)

        async def hear(request: Any) -> dict[str, Any]:
            return await anyio.to_thread.run_sync(self.hear, request)

        async def interrupt(request: Any) -> dict[str, Any]:
            return await anyio.to_thread.run_sync(self.interrupt, request)

        def style(request: Any) -> dict[str, Any]:
            return self.style(request)

        return [feed, hear, interrupt, style]

    async def feed(self, request: Any) -> dict[str, Any]:
        """The sound of the newest reply from a position on; waits a while for some.

        ``fresh``: only that of a reply after ``generation`` is wanted.
        """
        request = request if isinstance(request, dict) else {}
        try:
            reel = self._visits.find(request.get("ticket")).reel
        except InputError as error:
            return {"error": str(error)}
        generation, position = request.get("generation"), request.get("position")
        fresh = bool(request.get("fresh"))
        if not isinstance(generation, int) or not isinstance(position, int) or position < 0:
            return {"error": FAULT}
        until = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < until:
            tape = reel.tape
            if tape.generation != generation or (not fresh and (tape.ended or len(tape.chunks) > position)):
                break
            await asyncio.sleep(LOOK_SECONDS)
        tape = reel.tape
        ended = tape.ended  # before the chunks are looked at: if it has ended, all of them are there
        chunks = tape.chunks[0 if tape.generation != generation else position :]
        if fresh and tape.generation == generation:
            chunks, ended = [], False
        return {
            "generation": tape.generation,
            "position": len(chunks) + (position if tape.generation == generation else 0),
            "pcm": base64.b64encode(b"".join(chunks)).decode(),
            "rate": tape.rate,
            "ended": ended,
        }

    @_guarded
    def hear(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next block of the microphone."""
        visit = self._visits.find(request.get("ticket"))
        samples, rate = decode_chunk(request.get("pcm"), request.get("rate"))
        mode = "free" if request.get("mode") == "free" else "push"
        return dict(visit.hearing.step(mode, rate, samples, _seconds(request.get("heard"))))

    @_guarded
    def interrupt(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stop telling; with ``hush``, close the microphone."""
        visit = self._visits.find(request.get("ticket"))
        if request.get("hush"):
            visit.hearing.drop()
        else:
            visit.interrupt(_seconds(request.get("heard")))
        return {}

    @_guarded
    def style(self, request: dict[str, Any]) -> dict[str, Any]:
        """The last reply's sound in another style, if the panel has made it."""
        visit = self._visits.find(request.get("ticket"))
        speech = visit.styles.get(str(request.get("style")))
        if speech is None:
            raise InputError("this style has not been spoken yet; press the button above")
        return {"pcm": base64.b64encode(to_pcm(speech.audio)).decode(), "rate": speech.sample_rate}
