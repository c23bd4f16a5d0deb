"""One visitor's talk: the session with the model, its picture, its answers and its voice; in memory, and bounded.

Shape letters: T samples.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from emova.core.errors import InputError
from emova.events import Reply
from emova.speech.style import Style
from emova_app.demo.conversation.events import EventLog
from emova_app.demo.conversation.microphone import Microphone
from emova_app.demo.conversation.trace import Trace

if TYPE_CHECKING:
    from PIL import Image

    from emova.assistant import Assistant
    from emova.session.scheduler import Scheduler
    from emova.session.session import Session
    from emova.speech.voice import Voice

MAX_ANSWERS = 64
OWN = "mine"
FREE = "auto"
NO_SOUND = np.zeros(0, np.float32)


def thumbnail(picture: Image.Image) -> str:
    """A small copy as a data URL."""
    small = picture.copy()
    small.thumbnail((320, 240))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Wish:
    """How to answer the visitor; ``auto`` leaves it to the assistant, ``mine`` is the visitor's own voice."""

    voice: str
    emotion: str = FREE
    pitch: str = FREE


@dataclass(frozen=True)
class Asked:
    """What was asked last, to ask it again: samples ``[T]`` at the session's rate, a text, or both."""

    samples: np.ndarray | None
    text: str | None
    thumbnail: str = ""
    item: str = ""
    answer: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """A complete answer. Its sound is made again when it is wanted: the same units give the same sound.

    Attributes:
        reply: without its sound.
        seconds: how long that is, in s.
        speaker: whose voice it was.
    """

    reply: Reply
    seconds: float
    trace: Trace
    speaker: Voice

    def sound(self, emotion: str | None = None) -> np.ndarray:
        """Its samples ``[T]``, as they were heard or with another emotion. Raises: InputError: no such emotion."""
        return self.speaker.synthesize(self.reply.units, self.style(emotion))

    def style(self, emotion: str | None = None) -> Style:
        """How it is spoken. Raises: InputError: no such emotion."""
        reply, styles = self.reply, self.speaker.styles
        return styles.parse(reply.voice, emotion or reply.emotion, reply.pitch)


class WishState(TypedDict):
    """A ``Wish`` as JSON."""

    voice: str
    emotion: str
    pitch: str


class PageState(TypedDict):
    """What a page that is opened, or loaded again, has to know beside its events."""

    wish: WishState
    picture: str
    own: bool


class PageSession:
    """One open page. What changes it holds ``lock``; the answer that is being told has a thread of its own.

    Attributes:
        ticket: a secret that only the page knows.
        visitor: whose it is, by address.
        owner: which of the tabs that know it was opened last; only that one is told what happens.
        seen, touched: when a page last asked for events, and when its visitor last did anything (monotonic, in s).
        shown: whether this conversation has seen the picture.
        thumbnail_due: of the picture, for the next question's bubble.
        answers: by the id of their item; the oldest go.
        telling: the thread that tells the newest answer.
        seeds: how often an answer was asked for again.
        stops: how often an answer was broken off.
    """

    def __init__(self, ticket: str, scheduler: Scheduler[Assistant], visitor: str = "") -> None:
        self.ticket, self.scheduler, self.visitor = ticket, scheduler, visitor
        self.lock = threading.RLock()
        self.owner = ""
        self.session: Session = scheduler.open()
        self.log = EventLog()
        self.microphone = Microphone(self)
        self.wish = Wish(self.assistant.styles.voices[0])
        self.picture: Image.Image | None = None
        self.shown = False
        self.thumbnail_due = ""
        self.asked: Asked | None = None
        self.answers: OrderedDict[str, Answer] = OrderedDict()
        self.own_voice: Voice | None = None
        self.telling: threading.Thread | None = None
        self.seeds = self.stops = 0
        self.seen = self.touched = time.monotonic()

    @property
    def assistant(self) -> Assistant:
        """Whom the page talks to."""
        return self.scheduler.assistant

    @property
    def state(self) -> PageState:
        """For a page that is opened or loaded again."""
        wish: WishState = {"voice": self.wish.voice, "emotion": self.wish.emotion, "pitch": self.wish.pitch}
        picture = thumbnail(self.picture) if self.picture is not None else ""
        return {"wish": wish, "picture": picture, "own": self.own_voice is not None}

    def answer(self, item: object) -> Answer:
        """The answer of an item. Raises: InputError: it is not kept."""
        found = self.answers.get(item) if isinstance(item, str) else None
        if found is None:
            raise InputError("this answer is not kept any more; ask again")
        return found

    def keep(self, item: str, reply: Reply, trace: Trace) -> None:
        """Keep a complete answer, without its sound."""
        seconds = len(reply.audio) / reply.sample_rate
        self.answers[item] = Answer(replace(reply, audio=NO_SOUND), seconds, trace, self.session.speaker)
        while len(self.answers) > MAX_ANSWERS:
            self.answers.popitem(last=False)

    # --- the picture --------------------------------------------------------------------------------------------------
    def new_picture(self, picture: Image.Image | None) -> None:
        """From the next question on, this one is meant."""
        self.picture, self.shown = picture, False

    def show_picture(self) -> bool:
        """Show the picture with the next question unless the conversation still holds it. Raises: InputError."""
        # The session forgets its oldest turns when its context is full; the picture may have been in one of them.
        if self.picture is None or (self.shown and self.session.sees):
            return False
        self.session.show(self.picture)
        self.shown, self.thumbnail_due = True, thumbnail(self.picture)
        return True

    def take_thumbnail(self) -> str:
        """The picture that was shown since the last question, as a data URL, or nothing."""
        due, self.thumbnail_due = self.thumbnail_due, ""
        return due

    # --- the conversation ---------------------------------------------------------------------------------------------
    def interrupt(self, heard_seconds: float | None) -> None:
        """Break off what is being told. ``heard_seconds`` is what the page has played, None if it played nothing."""
        self.stops += 1
        self.log.drop_sound()
        if heard_seconds is not None or self.session.request is not None:
            self.session.cancel(heard_seconds)

    def wait_until_told(self, seconds: float = 20.0) -> None:
        """Until the newest answer is told, which an interruption makes soon."""
        telling = self.telling
        if telling is not None and telling is not threading.current_thread():
            telling.join(seconds)

    def restart(self, *, topic: bool = False) -> None:
        """A new conversation; the picture and the own voice stay. ``topic``: what was said stays to be read."""
        self.microphone.drop()
        self.session.close()
        self.wait_until_told()
        self.session = self.scheduler.open()
        self.shown, self.thumbnail_due, self.asked = False, "", None
        if topic:
            self.log.drop_sound()
        else:
            self.answers.clear()
            self.log.clear()
        self.log.add("session.created", session={"topic": topic})

    def alive(self) -> bool:
        """Whether the session is still open; if it was closed for idleness, a new one begins. Raises: InputError."""
        self.touched = time.monotonic()
        if self.session.closed:
            self.restart(topic=True)
            return False
        return True

    def close(self) -> None:
        """Forget everything."""
        self.microphone.drop()
        self.session.close()
        self.picture = self.own_voice = self.asked = None
        self.answers.clear()
        self.log.clear()
