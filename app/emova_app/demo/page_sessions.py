"""Who is here: one visit an open page, with its conversation, its sound and its voice; all in memory, all bounded.

Shape letters: T samples.
"""

from __future__ import annotations

import base64
import io
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emova.core.errors import InputError
from emova.events import Reply, Speech

if TYPE_CHECKING:
    from PIL import Image

    from emova.assistant import Assistant
    from emova.session.scheduler import Scheduler
    from emova.session.session import Session
    from emova.speech.voice import Voice
    from emova_app.demo.hearing import Hearing, VoiceActivity

GONE = "this page's conversation has ended; reload the page"


@dataclass
class Tape:
    """The sound of one reply.

    Attributes:
        generation: counts the replies of a page.
        chunks: 16-bit little-endian PCM at ``rate`` Hz.
        ended: no more will come.
    """

    generation: int = 0
    chunks: list[bytes] = field(default_factory=list)
    rate: int = 24_000
    ended: bool = False


class Reel:
    """What the page's player shall play: the tape of the newest reply.

    The player asks for what it does not have yet; a new tape tells it that what it holds is out of date. Tapes are
    replaced whole, so a reader in another thread never sees parts of two.
    """

    def __init__(self) -> None:
        self.tape = Tape(ended=True)

    def begin(self) -> int:
        """A new reply; its generation."""
        self.tape = Tape(self.tape.generation + 1)
        return self.tape.generation

    def add(self, generation: int, samples: np.ndarray, rate: int) -> None:
        """Samples ``[T]`` of a reply; those of an earlier or a dropped one are not wanted."""
        tape = self.tape
        if generation == tape.generation and not tape.ended:
            tape.rate = rate
            tape.chunks.append(to_pcm(samples))

    def end(self, generation: int) -> None:
        """The reply has been told."""
        if generation == self.tape.generation:
            self.tape.ended = True

    def drop(self) -> None:
        """Nothing more of this reply shall sound."""
        self.tape = Tape(self.tape.generation, ended=True)


def to_pcm(samples: np.ndarray) -> bytes:
    """Samples ``[T]`` within -1 to 1 as 16-bit little-endian PCM."""
    return (np.asarray(samples).clip(-1, 1) * 32767).astype("<i2").tobytes()


def from_pcm(pcm: bytes) -> np.ndarray:
    """The inverse of ``to_pcm``: float32 ``[T]``."""
    return np.frombuffer(pcm[: len(pcm) // 2 * 2], dtype="<i2").astype(np.float32) / 32768


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
        role: "user" or "assistant".
        text: what was said or written, as far as it is known.
        spoken: whether the user spoke it.
        thumbnail: a data URL of the picture that was shown with it.
        labels: emotion, pitch and voice of an answer.
        state: "open" while it is written, "done", "cut" (interrupted), "failed".
    """

    role: str
    text: str = ""
    spoken: bool = False
    thumbnail: str = ""
    labels: tuple[str, ...] = ()
    state: str = "open"


@dataclass(frozen=True)
class Asked:
    """The last question, to ask it again: samples ``[T]`` at the ears' rate, or None."""

    samples: np.ndarray | None
    text: str | None


class Visit:
    """One open page. Its fields are used by one event at a time, but for ``reel`` and ``hearing``."""

    def __init__(self, ticket: str, scheduler: Scheduler[Assistant], activity: VoiceActivity) -> None:
        from emova_app.demo.hearing import Hearing

        self.ticket, self.scheduler = ticket, scheduler
        self.session: Session = scheduler.open()
        self.reel = Reel()
        self.hearing: Hearing = Hearing(self, activity)
        self.lines: list[Line] = []
        self.picture: Image.Image | None = None
        self.picture_file: str | None = None  # of the page's upload; deleted when another one comes
        self.shown = False  # the picture, in this conversation
        self.thumbnail_due = ""  # for the next question's bubble
        self.asked: Asked | None = None
        self.reply: Reply | None = None
        self.trace: Any = None
        self.own_voice: Voice | None = None
        self.styles: dict[str, Speech] = {}
        self.touched = time.monotonic()

    @property
    def assistant(self) -> Assistant:
        """Whom the visit talks to."""
        return self.scheduler.assistant

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
        self.reel.drop()
        if heard_seconds is not None or self.session.request is not None:
            self.session.cancel(heard_seconds)

    def restart(self) -> None:
        """A new conversation; the picture and the own voice stay."""
        self.reel.drop()
        self.hearing.drop()
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
        self.reel.drop()
        self.hearing.drop()
        self.session.close()
        self.drop_picture_file()
        self.picture = self.own_voice = self.reply = self.asked = None
        self.lines, self.styles = [], {}

    def drop_picture_file(self) -> None:
        """Delete the uploaded picture's file."""
        from emova_app.demo.uploads.files import delete

        if self.picture_file is not None:
            delete(self.picture_file)
        self.picture_file = None


class Visits:
    """All open pages, by their ticket: a secret that only the page knows.

    Args:
        scheduler: opens their sessions, and bounds them.
        activity: hears whether somebody speaks.
        idle_seconds: a visit that nobody touched for so long gives its place away.
    """

    def __init__(self, scheduler: Scheduler[Assistant], activity: VoiceActivity, idle_seconds: float = 1800.0) -> None:
        self.scheduler, self.activity, self.idle_seconds = scheduler, activity, idle_seconds
        self._visits: dict[str, Visit] = {}
        self._pages: dict[str, str] = {}  # tickets by the name under which gradio knows a page
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many pages are open."""
        return len(self._visits)

    def open(self, page: str = "") -> Visit:
        """A new visit of gradio's ``page``; an older one of the same page, if it has a name, ends first.

        Raises:
            InputError: all places are taken.
        """
        with self._lock:
            latest = time.monotonic() - self.idle_seconds
            over = [each.ticket for each in self._visits.values() if each.touched < latest]
            if page in self._pages:
                over.append(self._pages[page])
            for ticket in over:
                if visit := self._visits.pop(ticket, None):
                    visit.close()
            self._pages = {name: ticket for name, ticket in self._pages.items() if ticket in self._visits}
            visit = Visit(secrets.token_urlsafe(24), self.scheduler, self.activity)
            self._visits[visit.ticket] = visit
            if page:
                self._pages[page] = visit.ticket
            return visit

    def leave(self, page: str) -> None:
        """Gradio's ``page`` was closed."""
        with self._lock:
            ticket = self._pages.pop(page, None)
        self.close(ticket)

    def find(self, ticket: Any) -> Visit:
        """The visit of a ticket. Raises: InputError: there is none."""
        visit = self._visits.get(ticket) if isinstance(ticket, str) else None
        if visit is None:
            raise InputError(GONE)
        visit.touched = time.monotonic()
        return visit

    def close(self, ticket: Any) -> None:
        """The page was left."""
        with self._lock:
            visit = self._visits.pop(ticket, None) if isinstance(ticket, str) else None
        if visit is not None:
            visit.close()

    def close_all(self) -> None:
        """The demo ends."""
        for ticket in list(self._visits):
            self.close(ticket)
