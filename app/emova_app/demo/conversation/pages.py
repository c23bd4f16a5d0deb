"""All open pages, and the line of those who wait for a place."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emova.core.errors import ClosedError, InputError
from emova_app.demo.conversation.page_session import PageSession

if TYPE_CHECKING:
    from emova.assistant import Assistant
    from emova.session.scheduler import Scheduler

GONE = "this conversation has ended; a new one begins when the page is loaded again"


class MovedError(InputError):
    """The conversation was opened in another tab, where it goes on."""


@dataclass(frozen=True)
class PlaceLimits:
    """How long a place is kept, in s.

    Attributes:
        kept_seconds: for a page that was left, so that a reload and the back button find it again.
        away_seconds: a page that was left for so long gives way to whoever waits.
        idle_seconds: for a page whose visitor does nothing.
        patience_seconds: in the line, for one who does not ask.
        max_waiting: in the line.
    """

    kept_seconds: float = 600.0
    away_seconds: float = 20.0
    idle_seconds: float = 1800.0
    patience_seconds: float = 15.0
    max_waiting: int = 64


@dataclass(frozen=True)
class Waiting:
    """A place in the line: ``name`` is to be shown again, ``number`` counts from 1."""

    name: str
    number: int


@dataclass
class _Place:
    """In the line: whose it is, and when it was last asked for."""

    visitor: str
    asked: float


class Pages:
    """All open pages, by their tickets.

    Args:
        scheduler: opens their sessions.
        most: how many pages may be open; no more than the scheduler has sessions.
        most_of_one: how many places one visitor may have, open and in the line; no fewer than all if None.
    """

    def __init__(
        self,
        scheduler: Scheduler[Assistant],
        most: int,
        limits: PlaceLimits = PlaceLimits(),
        most_of_one: int | None = None,
    ) -> None:
        assert 0 < most <= scheduler.config.max_sessions
        self.scheduler, self.most, self.limits, self.most_of_one = scheduler, most, limits, most_of_one
        self._open: dict[str, PageSession] = {}
        self._line: OrderedDict[str, _Place] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many pages are open."""
        return len(self._open)

    @property
    def all(self) -> list[PageSession]:
        """The open pages, oldest first."""
        with self._lock:
            return list(self._open.values())

    def enter(self, ticket: object = None, name: object = None, visitor: str = "") -> PageSession | Waiting:
        """The page of a ticket, or a new one, or a place in the line.

        Args:
            ticket: of a page that was loaded before.
            name: of a place in the line.
            visitor: who asks, by address.

        Raises:
            InputError: the line is full too, or the visitor has as many places as one may have.
        """
        with self._lock:
            now = time.monotonic()
            self._tidy(now)
            page = self._open.get(ticket) if isinstance(ticket, str) else None
            if page is None:
                self._check_share(name, visitor, now)
                waiting = self._line_up(name if isinstance(name, str) else "", visitor, now)
                if waiting.number > 1 or not self._room(now):
                    return waiting
                del self._line[waiting.name]
                page = PageSession(secrets.token_urlsafe(24), self.scheduler, visitor)
                self._open[page.ticket] = page
            page.owner, page.seen, page.touched = secrets.token_urlsafe(8), now, now
            return page

    def _check_share(self, name: object, visitor: str, now: float) -> None:
        """See that there is a place for this visitor; of its own pages, the one that was left first gives way."""
        if self.most_of_one is None:
            return
        own = [page for page in self._open.values() if page.visitor == visitor]
        waiting = sum(place.visitor == visitor for each, place in self._line.items() if each != name)
        if len(own) + waiting < self.most_of_one:
            return
        left = [page for page in own if now - page.seen > self.limits.away_seconds]
        if left:
            self._end(min(left, key=lambda page: page.seen))
            return
        if isinstance(name, str):
            self._line.pop(name, None)
        raise InputError(
            f"from your address {self.most_of_one} conversations are open or wait already; close one of them, or wait"
        )

    def _line_up(self, name: str, visitor: str, now: float) -> Waiting:
        if name not in self._line:
            if len(self._line) >= self.limits.max_waiting:
                raise InputError("all places are taken, and many wait already; come back in a few minutes")
            name = secrets.token_urlsafe(8)
            self._line[name] = _Place(visitor, now)
        self._line[name].asked = now
        return Waiting(name, list(self._line).index(name) + 1)

    def _room(self, now: float) -> bool:
        """Whether there is a place; of the pages that were left, the one that was left first gives way."""
        if len(self._open) < self.most:
            return True
        left = [page for page in self._open.values() if now - page.seen > self.limits.away_seconds]
        if left:
            self._end(min(left, key=lambda page: page.seen))
        return bool(left)

    def _tidy(self, now: float) -> None:
        limits = self.limits
        for page in list(self._open.values()):
            if now - page.seen > limits.kept_seconds or now - page.touched > limits.idle_seconds:
                self._end(page)
        for name in [name for name, place in self._line.items() if now - place.asked > limits.patience_seconds]:
            del self._line[name]

    def _end(self, page: PageSession) -> None:
        del self._open[page.ticket]
        page.close()

    def tidy(self) -> None:
        """Close the pages that were left for long."""
        with self._lock:
            self._tidy(time.monotonic())

    def find(self, ticket: object) -> PageSession:
        """The page of a ticket, whose visitor does something. Raises: ClosedError: there is none."""
        page = self._open.get(ticket) if isinstance(ticket, str) else None
        if page is None:
            raise ClosedError(GONE)
        page.touched = time.monotonic()
        return page

    def watch(self, ticket: object, owner: object) -> PageSession:
        """The page of a ticket, for the tab that was opened last.

        Raises:
            ClosedError: there is none.
            MovedError: another tab has it now.
        """
        page = self._open.get(ticket) if isinstance(ticket, str) else None
        if page is None:
            raise ClosedError(GONE)
        if owner != page.owner:
            raise MovedError("this conversation goes on in another tab")
        page.seen = time.monotonic()
        return page

    def close_all(self) -> None:
        """The demo ends."""
        with self._lock:
            for page in list(self._open.values()):
                self._end(page)
