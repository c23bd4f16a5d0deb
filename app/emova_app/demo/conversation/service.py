"""What the page's scripts call to talk: a place, the events, the microphone, questions, answers in other styles.

Each function takes what a browser sent, trusts nothing in it, and answers ``{"error": one line}`` for bad input.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TypedDict

import numpy as np
import soxr
from anyio import CapacityLimiter

from emova.core.errors import ClosedError, InputError
from emova.speech.audio import is_silent
from emova.speech.vad import RATE, speech_share
from emova.vision.image import ImageLimits, load_image
from emova_app.demo.calls import Given, Refusal, ServerFunction, answered, refused, text_of
from emova_app.demo.conversation.asking import ask, ask_again
from emova_app.demo.conversation.events import Event
from emova_app.demo.conversation.examples import example
from emova_app.demo.conversation.microphone import Mode, decode_chunk
from emova_app.demo.conversation.page_session import FREE, OWN, Asked, PageSession, PageState, Wish, thumbnail
from emova_app.demo.conversation.pages import GONE, MovedError, Pages, Waiting
from emova_app.demo.conversation.speaker import voice_from_recording
from emova_app.demo.recordings import sent_recording
from emova_app.demo.render import figure, hood
from emova_app.demo.uploads.files import Store
from emova_app.demo.visitors import VISITOR
from emova_app.pcm import to_pcm

HOLD_SECONDS = 8.0  # how long a request for events waits for some
LOOK_SECONDS = 0.02
MIN_SECONDS = 0.3  # of a recording; a shorter one was a slip of the finger
MAX_SECONDS = 30.0  # of a question
MAX_TEXT = 2000
SOUNDS_AT_ONCE = 4  # made outside of a conversation
PICTURES = ImageLimits(max_bytes=16 << 20)
HELLO = "Hello, how are you?"


class Entered(TypedDict):
    """A place: ``last`` is the number of the newest event."""

    ticket: str
    owner: str
    last: int
    state: PageState


class Line(TypedDict):
    """A place in the line, counted from 1, and by which name it is asked for again."""

    waiting: int
    name: str
    open: int


class Told(TypedDict):
    """Events, and the number of the last of them."""

    events: list[Event]
    last: int


class Ended(TypedDict):
    """There are no events any more: the conversation has ended, or goes on in another tab."""

    ended: str
    error: str


class HeardAnswer(TypedDict):
    """Whether a question began (what sounds must stop), whether it is over (it can be asked), and its words so far:
    those that were said, and the one that may not be over."""

    began: bool
    ended: bool
    said: str
    draft: str


class Done(TypedDict):
    """Nothing but that it was done."""


class Shown(TypedDict):
    """The picture, small, as a data URL."""

    picture: str


class Sound(TypedDict):
    """Sound as base64 of 16-bit PCM at ``rate`` Hz."""

    pcm: str
    rate: int


class Card(Sound):
    """A style's sound and its figure."""

    html: str


class Html(TypedDict):
    """Something to show."""

    html: str


class TalkService:
    """The functions of ``gr.HTML(server_functions=...)`` on the page's talk."""

    def __init__(self, pages: Pages, uploads: Store) -> None:
        self._pages, self._uploads = pages, uploads

    @property
    def functions(self) -> list[ServerFunction]:
        """For ``gr.HTML(server_functions=...)``."""
        calls = (
            self.enter, self.hear, self.ask, self.settle, self.show, self.interrupt, self.restart, self.forget_voice,
            self.hood,
        )  # fmt: skip
        few = CapacityLimiter(SOUNDS_AT_ONCE)
        sounds = (answered(call, few) for call in (self.own_voice, self.sound, self.card))

        async def receive(given: object) -> Told | Ended | Refusal:
            return await self.receive(given)

        return [receive, *(answered(call) for call in calls), *sounds]

    # --- a place ------------------------------------------------------------------------------------------------------
    def enter(self, given: Given) -> Entered | Line:
        """A place, as ``Pages.enter``."""
        found = self._pages.enter(given.get("ticket"), given.get("name"), VISITOR.get())
        if isinstance(found, Waiting):
            return {"waiting": found.number, "name": found.name, "open": len(self._pages)}
        with found.lock:
            found.microphone.drop()  # it was open on a page that is no more
        return {"ticket": found.ticket, "owner": found.owner, "last": found.log.last, "state": found.state}

    async def receive(self, given: object) -> Told | Ended | Refusal:
        """The events after a number; waits a while for some."""
        request: Given = given if isinstance(given, dict) else {}
        after = request.get("after")
        if not isinstance(after, int) or after < 0:
            return refused()
        until = time.monotonic() + HOLD_SECONDS
        while True:
            try:
                log = self._pages.watch(request.get("ticket"), request.get("owner")).log
            except ClosedError as error:
                return {"ended": "closed", "error": str(error)}
            except MovedError as error:
                return {"ended": "moved", "error": str(error)}
            if log.last > after or time.monotonic() > until:
                events, last = log.after(after)
                return {"events": events, "last": last}
            try:
                await asyncio.sleep(LOOK_SECONDS)
            except asyncio.CancelledError:  # the demo ends; that is no fault to be logged
                return {"ended": "closed", "error": GONE}

    # --- asking -------------------------------------------------------------------------------------------------------
    def hear(self, given: Given) -> HeardAnswer:
        """The next block of the microphone; with ``drop``, it was closed and what was heard is forgotten."""
        page = self._pages.find(given.get("ticket"))
        if given.get("drop"):
            with page.lock:
                page.microphone.drop()
            return {"began": False, "ended": False, "said": "", "draft": ""}
        samples, rate = decode_chunk(given.get("pcm"), given.get("rate"))
        mode: Mode = "free" if given.get("mode") == "free" else "push"
        with page.lock:
            heard = page.microphone.step(mode, rate, samples, _seconds(given.get("heard")))
        caption = heard.caption
        return {"began": heard.began, "ended": heard.ended, "said": caption.said, "draft": caption.draft}

    def ask(self, given: Given) -> Done:
        """Ask: ``how`` is spoken, written, file, example or again."""
        page = self._pages.find(given.get("ticket"))
        how = given.get("how")
        with page.lock:
            if how == "spoken":
                ask(page, Asked(_spoken(page), None), heard=True)
                return {}
            if how == "again":
                self._hush(page, given)
                ask_again(page)
            elif how == "file":
                samples = sent_recording(given, self._uploads, MAX_SECONDS)
                self._hush(page, given)
                ask(page, Asked(samples, None))
            elif how == "example":
                chosen = example(given.get("name"))
                self._hush(page, given)
                # A small model mixes up pictures that follow each other, so an example opens a topic of its own.
                page.restart(topic=True)
                page.new_picture(chosen.image)
                ask(page, Asked(chosen.samples(RATE), None if chosen.sound else chosen.asks))
            else:
                text = text_of(given, "text", MAX_TEXT, "the question").strip()
                if not text:
                    raise InputError("there is no question yet; write one, or press Talk")
                self._hush(page, given)
                ask(page, Asked(None, text))
        return {}

    def _hush(self, page: PageSession, given: Given) -> None:
        """The page is silent and ready to be asked."""
        page.alive()
        page.microphone.drop()
        page.interrupt(_seconds(given.get("heard")))

    def show(self, given: Given) -> Shown:
        """Show an uploaded picture from the next question on; without a ``path``, none."""
        page = self._pages.find(given.get("ticket"))
        if given.get("path") is None:
            with page.lock:
                page.new_picture(None)
            return {"picture": ""}
        picture = load_image(self._uploads.take(given["path"], "the picture"), PICTURES)
        with page.lock:
            page.new_picture(picture)
        return {"picture": thumbnail(picture)}

    def settle(self, given: Given) -> Done:
        """How to be answered from the next question on."""
        page = self._pages.find(given.get("ticket"))
        styles = page.assistant.styles
        voice, emotion, pitch = (text_of(given, name, 64, name) for name in ("voice", "emotion", "pitch"))
        with page.lock:
            page.wish = Wish(
                voice if voice == OWN else styles.check_voice(voice),
                emotion if emotion == FREE else styles.check_emotion(emotion),
                pitch if pitch == FREE else styles.check_pitch(pitch),
            )
        return {}

    def interrupt(self, given: Given) -> Done:
        """Stop telling."""
        page = self._pages.find(given.get("ticket"))
        with page.lock:
            page.interrupt(_seconds(given.get("heard")))
        return {}

    def restart(self, given: Given) -> Done:
        """A new conversation."""
        page = self._pages.find(given.get("ticket"))
        with page.lock:
            page.interrupt(None)
            page.restart()
        return {}

    # --- voices -------------------------------------------------------------------------------------------------------
    def own_voice(self, given: Given) -> Sound:
        """Make a voice of five seconds of sound; something said in it."""
        page = self._pages.find(given.get("ticket"))
        samples, rate = decode_chunk(given.get("pcm"), given.get("rate"))
        voice = page.assistant.voice
        share = speech_share(soxr.resample(samples, rate, RATE))
        own = voice_from_recording(voice, soxr.resample(samples, rate, voice.sample_rate), share)
        latest = next(reversed(page.answers.values()), None)
        units = latest.reply.units if latest is not None else page.assistant.pronounce(HELLO)
        with page.lock:
            page.own_voice = own
            page.wish = Wish(OWN, page.wish.emotion, page.wish.pitch)
        return _sound(own.synthesize(units, own.styles.default), own.sample_rate)

    def forget_voice(self, given: Given) -> Done:
        """Forget the own voice."""
        page = self._pages.find(given.get("ticket"))
        with page.lock:
            page.own_voice = None
            if page.wish.voice == OWN:
                page.wish = Wish(page.assistant.styles.voices[0], page.wish.emotion, page.wish.pitch)
        return {}

    # --- answers again ------------------------------------------------------------------------------------------------
    def sound(self, given: Given) -> Sound:
        """An answer's sound, as it was heard or with another ``emotion``."""
        answer = self._pages.find(given.get("ticket")).answer(given.get("item"))
        emotion = given.get("emotion")
        return _sound(answer.sound(emotion if isinstance(emotion, str) else None), answer.speaker.sample_rate)

    def card(self, given: Given) -> Card:
        """An answer's words in the style that is called ``style``: its sound and its figure."""
        page = self._pages.find(given.get("ticket"))
        answer = page.answer(given.get("item"))
        for style in page.assistant.styles:
            if style.key == given.get("style"):
                speech = page.assistant.render(answer.reply.units, style)
                name = f"{style.gender}, {style.emotion}, {style.pitch}"
                html = figure(speech.audio, speech.sample_rate, name)
                return {"html": html, **_sound(speech.audio, speech.sample_rate)}
        raise InputError("there is no such style")

    def hood(self, given: Given) -> Html:
        """What is under the hood of an answer."""
        page = self._pages.find(given.get("ticket"))
        return {"html": hood(page.answer(given.get("item")), page.assistant)}


def _spoken(page: PageSession) -> np.ndarray:
    """The question that the microphone heard. Raises: InputError: it heard none; then nothing is left of it."""
    heard = len(page.microphone)
    free = page.microphone.mode == "free"
    if heard < MIN_SECONDS * RATE and not free:
        page.microphone.drop()
        raise InputError("that was too short to hear anything; hold the button while you speak, or press it twice")
    samples = page.microphone.take()
    if samples is None or is_silent(samples, RATE):
        if not page.session.closed and page.session.request is None:
            page.session.unhear()
        raise InputError("nothing was heard; check the microphone and speak again")
    return samples


def _seconds(value: object) -> float | None:
    """A number of seconds that a page sent; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 3600:
        return None
    return float(value)


def _sound(samples: np.ndarray, rate: int) -> Sound:
    return {"pcm": base64.b64encode(to_pcm(samples)).decode(), "rate": rate}
