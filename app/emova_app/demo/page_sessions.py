"""One session for each open page, with its conversation, its sound and its voice; all in memory, all bounded.

Shape letters: T samples.
"""

from __future__ import annotations

import base64
import io
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from emova.core.errors import InputError
from emova.events import Reply, Speech
from emova_app.demo.microphone import Microphone
from emova_app.demo.playback import PlaybackBuffer
from emova_app.demo.trace import Trace
from emova_app.demo.uploads.files import delete

if TYPE_CHECKING:
    from PIL import Image

    from emova.assistant import Assistant
    from emova.session.scheduler import Scheduler
    from emova.session.session import Session
    from emova.speech.voice import Voice

GONE = "this page's conversation has ended; reload the page"


def thumbnail(picture: Image.Image) -> str:
    """A small copy as a data URL."""
    small = picture.copy()
    small.thumbnail((320, 200))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Line:
    """One speech bubble of the conversation.

    Attributes:
        role: who said it.
        text: what was said or written, as far as it is known.
        spoken: whether the user spoke it.
        thumbnail: a data URL of the picture that was shown with it.
        labels: emotion, pitch and voice of an answer.
        state: "open" while it is written, "cut" when it was interrupted.
    """

    role: Literal["user", "assistant"]
    text: str = ""
    spoken: bool = False
    thumbnail: str = ""
    labels: tuple[str, ...] = ()
    state: Literal["open", "done", "cut", "failed"] = "open"


@dataclass(frozen=True)
class Asked:
    """The last question, to ask it again: samples ``[T]`` at the session's rate, or None."""

    samples: np.ndarray | None
    text: str | None


class BarValue(TypedDict, total=False):
    """What the voice bar knows: who it is, and the newest reply's number. Empty if all places were taken."""

    ticket: str
    generation: int


class PageSession:
    """One open page. Its fields are used by one event at a time, but for ``playback`` and ``microphone``.

    Attributes:
        ticket: a secret that only the page knows.
        picture_file: of the page's upload; deleted when another one comes.
        shown: whether this conversation has seen the picture.
        thumbnail_due: of the picture, for the next question's bubble.
        reply, trace: the last whole reply, and when its parts came.
        styles: the last reply's words in other styles, by the style's key.
    """

    def __init__(self, ticket: str, scheduler: Scheduler[Assistant]) -> None:
        self.ticket, self.scheduler = ticket, scheduler
        self.session: Session = scheduler.open()
        self.playback = PlaybackBuffer()
        self.microphone = Microphone(self)
        self.lines: list[Line] = []
        self.picture: Image.Image | None = None
        self.picture_file: str | None = None
        self.shown = False
        self.thumbnail_due = ""
        self.asked: Asked | None = None
        self.reply: Reply | None = None
        self.trace: Trace | None = None
        self.own_voice: Voice | None = None
        self.styles: dict[str, Speech] = {}
        self.touched = time.monotonic()

    @property
    def assistant(self) -> Assistant:
        """Whom the page talks to."""
        return self.scheduler.assistant

    @property
    def bar_value(self) -> BarValue:
        """For the voice bar."""
        return {"ticket": self.ticket, "generation": self.playback.sound.generation}

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
        self.playback.drop()
        if heard_seconds is not None or self.session.request is not None:
            self.session.cancel(heard_seconds)

    def restart(self) -> None:
        """A new conversation; the picture and the own voice stay."""
        self.playback.drop()
        self.microphone.drop()
        self.session.close()
        self.session = self.scheduler.open()
        self.lines, self.asked, self.reply, self.trace, self.styles = [], None, None, None, {}
        self.shown, self.thumbnail_due = False, ""

    def alive(self) -> bool:
        """Whether the session is still open; if it was closed for idleness, a new one begins. Raises: InputError."""
        self.touched = time.monotonic()
        if self.session.closed:
            self.restart()
            return False
        return True

    def close(self) -> None:
        """Forget everything."""
        self.playback.drop()
        self.microphone.drop()
        self.session.close()
        self.drop_picture_file()
        self.picture = self.own_voice = self.reply = self.asked = None
        self.lines, self.styles = [], {}

    def drop_picture_file(self) -> None:
        """Delete the uploaded picture's file."""
        if self.picture_file is not None:
            delete(self.picture_file)
        self.picture_file = None


class PageSessions:
    """All open pages, by their tickets.

    Args:
        scheduler: opens their sessions, and bounds them.
        idle_seconds: a page that nobody touched for so long gives its place away.
    """

    def __init__(self, scheduler: Scheduler[Assistant], idle_seconds: float = 1800.0) -> None:
        self.scheduler, self.idle_seconds = scheduler, idle_seconds
        self._open: dict[str, PageSession] = {}
        self._tickets: dict[str, str] = {}  # by the name under which gradio knows a page
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many pages are open."""
        return len(self._open)

    @property
    def all(self) -> list[PageSession]:
        """The open pages, oldest first."""
        with self._lock:
            return list(self._open.values())

    @property
    def names(self) -> list[str]:
        """The names under which gradio knows them."""
        with self._lock:
            return list(self._tickets)

    def open(self, name: str = "") -> PageSession:
        """A page that gradio calls ``name``; an older session of the same page, if it has a name, ends first.

        Raises:
            InputError: all places are taken.
        """
        with self._lock:
            latest = time.monotonic() - self.idle_seconds
            over = [each.ticket for each in self._open.values() if each.touched < latest]
            if name in self._tickets:
                over.append(self._tickets[name])
            for ticket in over:
                if old := self._open.pop(ticket, None):
                    old.close()
            self._tickets = {each: ticket for each, ticket in self._tickets.items() if ticket in self._open}
            page = PageSession(secrets.token_urlsafe(24), self.scheduler)
            self._open[page.ticket] = page
            if name:
                self._tickets[name] = page.ticket
            return page

    def leave(self, name: str) -> None:
        """The page that gradio calls ``name`` was closed."""
        with self._lock:
            ticket = self._tickets.pop(name, None)
        self.close(ticket)

    def find(self, ticket: object) -> PageSession:
        """The page of a ticket. Raises: InputError: there is none."""
        page = self._open.get(ticket) if isinstance(ticket, str) else None
        if page is None:
            raise InputError(GONE)
        page.touched = time.monotonic()
        return page

    def close(self, ticket: object) -> None:
        """The page was left."""
        with self._lock:
            page = self._open.pop(ticket, None) if isinstance(ticket, str) else None
        if page is not None:
            page.close()

    def close_all(self) -> None:
        """The demo ends."""
        for page in self.all:
            self.close(page.ticket)
