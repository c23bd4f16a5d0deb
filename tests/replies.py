"""What a session's events say."""

from __future__ import annotations

from collections.abc import Iterable

from emova.events import Done, Reply, SessionEvent


def last_reply(events: Iterable[SessionEvent]) -> Reply:
    """The reply with which they end."""
    (*_, last) = events
    assert isinstance(last, Done), last
    return last.reply
