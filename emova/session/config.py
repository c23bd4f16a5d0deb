"""The bounds of the sessions on one engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from emova.speech.voice import ChunkPlan


@dataclass(frozen=True)
class SchedulerConfig:
    """Bounds of the sessions.

    Attributes:
        max_sessions: open at once; each holds one cache of the model's context, and behind a turn perhaps a second.
        max_events: events that wait for a slow reader before its reply pauses.
        idle_seconds: a session that nobody touched for so long is closed as soon as anybody else does something.
        chunks: how the voice is cut.
    """

    max_sessions: int = 8
    max_events: int = 64
    idle_seconds: float = 300.0
    chunks: ChunkPlan = field(default_factory=ChunkPlan)
