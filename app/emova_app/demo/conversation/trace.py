"""When the parts of a reply came."""

from __future__ import annotations

from dataclasses import dataclass, field

from emova.events import AudioChunk, Done, SessionEvent, Timings
from emova.reply.parser import TextDelta, TranscriptDelta


@dataclass
class Trace:
    """Times of one reply's parts, in s after its question was asked; those of sound are spans."""

    transcript: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    sound: list[tuple[float, float]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)

    def take(self, event: SessionEvent, before: float, now: float) -> None:
        """An event that came at ``now``; the one before it came at ``before``."""
        if isinstance(event, TranscriptDelta):
            self.transcript.append(now)
        elif isinstance(event, TextDelta):
            self.text.append(now)
        elif isinstance(event, AudioChunk):
            self.sound.append((before, now))
        elif isinstance(event, Done):
            self.timings = event.reply.timings
