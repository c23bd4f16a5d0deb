"""What a session tells beside the events of a reply."""

from __future__ import annotations

from dataclasses import dataclass

from emova.events import Event


@dataclass(frozen=True)
class Cancelled:
    """The reply was broken off: the player drops what it has buffered.

    Attributes:
        generation: of the session from now on; sound of an earlier one is out of date.
        heard_units: units of the reply that stay in the conversation, because they were heard.
    """

    generation: int
    heard_units: int


@dataclass(frozen=True)
class Failed:
    """The turn failed and left no trace; the session goes on. ``message`` says what to do."""

    message: str


SessionEvent = Event | Cancelled | Failed
