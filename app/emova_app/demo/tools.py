"""The single tasks, for the page's scripts: write down, read aloud, say again in another style.

Shape letters: T samples.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TypedDict

import numpy as np
from anyio import CapacityLimiter

from emova.assistant import Assistant
from emova.cli.common import EXAMPLES
from emova.core.errors import BusyError, InputError
from emova.session.scheduler import Scheduler
from emova.speech.audio import load_audio
from emova.speech.style import Style
from emova.speech.vad import RATE
from emova_app.demo import render
from emova_app.demo.calls import Answer, Given, Refusal, ServerFunction, answered, refused, text_of
from emova_app.demo.draw import unit_strip
from emova_app.demo.recordings import MAX_SECONDS, LongRecordingError, sent_recording
from emova_app.demo.uploads.files import Store
from emova_app.demo.visitors import VISITOR
from emova_app.pcm import to_pcm
from emova_app.reading import read_aloud
from emova_app.transcribing import write_units_down

AT_ONCE = 2  # of the scheduler's places
WAIT_SECONDS = 30.0
MAX_STREAMS, STREAMS_OF_ONE = 16, 4
MAX_UNITS = 2000
HOLD_SECONDS, LOOK_SECONDS = 8.0, 0.02


class Html(TypedDict, total=False):
    """Something to show, and the units that were heard, to say them again in another style."""

    html: str
    units: list[int]


class TooLong(TypedDict):
    """Why there is no answer, and that there is one for the first ``first`` seconds."""

    error: str
    first: float


class Started(TypedDict):
    """Sound is being made; it is fetched by this name."""

    stream: str


class Piece(TypedDict, total=False):
    """Sound from a position on, as base64 of 16-bit PCM; ``html`` shows all of it once it has ended."""

    position: int
    pcm: str
    rate: int
    ended: bool
    html: str
    error: str


@dataclass
class _Stream:
    """Sound that is being made."""

    rate: int
    visitor: str
    chunks: list[np.ndarray] = field(default_factory=list)
    ended: bool = False
    html: str = ""
    error: str = ""


class ToolService:
    """The functions of ``gr.HTML(server_functions=...)`` on the tabs with one task each.

    They share the model with the conversations, so few run at once.
    """

    def __init__(self, scheduler: Scheduler[Assistant], uploads: Store) -> None:
        self.scheduler, self.assistant, self.uploads = scheduler, scheduler.assistant, uploads
        self._places = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    @property
    def functions(self) -> list[ServerFunction]:
        """For ``gr.HTML(server_functions=...)``."""

        async def listen(given: object) -> Piece | Refusal:
            return await self.listen(given)

        few = CapacityLimiter(MAX_STREAMS)
        return [listen, *(answered(call, few) for call in (self.transcribe, self.resynthesise, self.speak))]

    def _alone(self, work: Callable[[], Answer]) -> Answer:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise BusyError("many visitors are at work here; try again in a moment")
        try:
            return work()
        finally:
            self._places.release()

    def _recording(self, given: Given) -> np.ndarray:
        if given.get("example"):
            return load_audio(EXAMPLES / "question.wav", RATE)
        return sent_recording(given, self.uploads)

    def _style(self, given: Given) -> Style:
        words = (text_of(given, name, 64, name) for name in ("voice", "emotion", "pitch"))
        return self.assistant.styles.parse(*words)

    # --- write down ---------------------------------------------------------------------------------------------------
    def transcribe(self, given: Given) -> Html | TooLong:
        """What is said in a recording, and its units."""
        try:
            samples = self._recording(given)
        except LongRecordingError as error:
            return _too_long(error)

        def work() -> Html:
            units = self.assistant.listen(samples)
            text = "".join(write_units_down(self.scheduler, units)).strip()
            codec = self.assistant.voice.detokenizer
            strip = unit_strip(units, codec.codebook_size, codec.unit_rate)
            card = render.sound("What was heard", samples, RATE, f"{len(samples) / RATE:.1f} s")
            words = f'<p class="em-text" dir="auto">{escape(text) or "No words were found in it."}</p>'
            hood = f'<div class="em-hood"><h2>{len(units)} units, {codec.unit_rate:g} a second</h2>{strip}</div>'
            return {"html": words + render.sounds(card) + hood}

        return self._alone(work)

    # --- say again ----------------------------------------------------------------------------------------------------
    def resynthesise(self, given: Given) -> Html | TooLong:
        """The same words in another style: of a recording, or of ``units`` that were heard in one before."""
        style = self._style(given)
        if given.get("units") is not None:
            units = _units(given.get("units"))
            return self._alone(lambda: Html(html=self._card("After", units, style), units=units))
        try:
            samples = self._recording(given)
        except LongRecordingError as error:
            return _too_long(error)

        def work() -> Html:
            units = list(self.assistant.tokenize(samples))
            before = render.sound("Before", samples, RATE, f"{len(samples) / RATE:.1f} s")
            return {"html": before + self._card("After", units, style), "units": units}

        return self._alone(work)

    def _card(self, title: str, units: list[int], style: Style) -> str:
        speech = self.assistant.render(units, style)
        return render.sound(title, speech.audio, speech.sample_rate, _name(style))

    # --- read aloud ---------------------------------------------------------------------------------------------------
    def speak(self, given: Given) -> Started:
        """Begin to read a text aloud."""
        text = self.assistant.check_text(text_of(given, "text", self.assistant.config.max_text_characters, "the text"))
        style = self._style(given)
        name, stream = secrets.token_urlsafe(12), _Stream(self.assistant.voice.sample_rate, VISITOR.get())
        with self._lock:
            for old in [old for old, each in self._streams.items() if each.ended][: -(MAX_STREAMS // 2)]:
                del self._streams[old]  # nobody fetched its end
            made = [each for each in self._streams.values() if not each.ended]
            if len(made) >= MAX_STREAMS or sum(each.visitor == stream.visitor for each in made) >= STREAMS_OF_ONE:
                raise BusyError("many visitors are at work here; try again in a moment")
            self._streams[name] = stream
        threading.Thread(target=self._read, args=(stream, text, style), name="reading", daemon=True).start()
        return {"stream": name}

    def _read(self, stream: _Stream, text: str, style: Style) -> None:
        try:
            self._alone(lambda: self._collect(stream, read_aloud(self.scheduler, text, style)))
            samples = np.concatenate(stream.chunks)
            seconds = f"{len(samples) / stream.rate:.1f} s"
            stream.html = render.sounds(render.sound(_name(style), samples, stream.rate, seconds))
        except Exception as error:
            stream.error = refused(error)["error"]
        finally:
            stream.ended = True

    @staticmethod
    def _collect(stream: _Stream, chunks: Iterator[np.ndarray]) -> None:
        for chunk in chunks:
            if stream.ended:
                raise InputError("the reading was broken off")
            stream.chunks.append(chunk)

    async def listen(self, given: object) -> Piece | Refusal:
        """The sound of a reading from a position on; waits a while for some."""
        request: Given = given if isinstance(given, dict) else {}
        name, position = request.get("stream"), request.get("position")
        stream = self._streams.get(name) if isinstance(name, str) else None
        if stream is None or not isinstance(position, int) or position < 0:
            return refused(InputError("this reading is over; start it again"))
        if request.get("stop"):
            stream.ended = True
        until = time.monotonic() + HOLD_SECONDS
        while not stream.ended and len(stream.chunks) <= position and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
        ended = stream.ended  # before the chunks are looked at: if it has ended, all of them are there
        chunks = stream.chunks[position:]
        pcm = base64.b64encode(b"".join(map(to_pcm, chunks))).decode()
        piece: Piece = {"position": position + len(chunks), "pcm": pcm, "rate": stream.rate, "ended": ended}
        if ended:
            self._streams.pop(str(name), None)
            piece["html"] = stream.html
            if stream.error:
                piece["error"] = stream.error
        return piece


def _name(style: Style) -> str:
    return f"{style.gender}, {style.emotion}, {style.pitch} pitch"


def _too_long(error: LongRecordingError) -> TooLong:
    return {"error": refused(error)["error"], "first": MAX_SECONDS}


def _units(value: object) -> list[int]:
    """Units that a page sent back. Raises: InputError: they are none."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_UNITS or not all(type(unit) is int for unit in value):
        raise InputError("what was heard is not known any more; give the recording again")
    return value
