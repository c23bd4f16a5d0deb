"""Many sessions on one engine, without a thread of its own: whoever waits for an event moves all replies on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.engine.engine import EngineDecoder
from emova.session.generation import GenerationTask
from emova.session.session import Session
from emova.speech.voice import ChunkPlan

if TYPE_CHECKING:
    from emova.assistant import Assistant
    from emova.decoding.protocol import Prompt
    from emova.reply.grammar import Grammar

log = logging.getLogger(__name__)
_SWEEPS = 10
"""How often in the time that makes a session idle the others look for such."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Bounds of the sessions.

    Attributes:
        max_sessions: open at once; each holds one cache of the model's context.
        max_events: events that wait for a slow reader before its reply pauses.
        idle_seconds: a session that nobody touched for so long is closed as soon as anybody else does something.
        chunks: how the voice is cut.
    """

    max_sessions: int = 8
    max_events: int = 64
    idle_seconds: float = 300.0
    chunks: ChunkPlan = field(default_factory=ChunkPlan)


class Scheduler:
    """Opens sessions and writes all their replies together.

    Readers may come from several threads; each round is made by one of them, under ``lock``. No thread is started, so
    none is left behind, and a reader that stops stops its own reply only.

    Args:
        assistant: its parts, limits and reply format.
        clock: seconds; for tests.

    Raises:
        InputError: the engine cannot run the assistant's model.
    """

    def __init__(
        self,
        assistant: Assistant,
        config: SchedulerConfig = SchedulerConfig(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(assistant.decoder, EngineDecoder):
            raise InputError("sessions need the streaming engine: a plain LLaMA on a CPU or a CUDA GPU")
        self.assistant, self.config, self.clock = assistant, config, clock
        self.engine = assistant.decoder.engine
        self.lock = threading.RLock()
        self._sessions: list[Session | GenerationTask] = []
        self._swept = clock()

    def __len__(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    def open(self, voice: str | None = None, instructions: str = "") -> Session:
        """A new session, with a system message if ``instructions`` has one.

        Raises:
            InputError: the voice is unknown, or all places are taken.
        """
        voice = self.assistant.styles.parse(voice).gender
        with self.lock:
            self._check_room()
            session = Session(self, voice, instructions)
            self._sessions.append(session)
            return session

    def write(self, prompt: Prompt, grammar: Grammar) -> Iterator[int]:
        """The tokens of a single task, written in the same rounds as the sessions' replies.

        Raises:
            InputError: all places are taken, or the weights are damaged.
        """
        with self.lock:
            self._check_room()
            task = GenerationTask(self, prompt, grammar)
            self._sessions.append(task)
        try:
            yield from task.tokens()
        finally:
            task.close()

    def _check_room(self) -> None:
        self.sweep()
        if len(self._sessions) >= self.config.max_sessions:
            raise InputError(f"all {self.config.max_sessions} sessions are in use; try again in a moment")

    def sweep(self) -> None:
        """Close the sessions that nobody touched for a while."""
        with self.lock:
            self._swept = self.clock()
            latest = self._swept - self.config.idle_seconds
            for session in [each for each in self._sessions if each.touched < latest]:
                session.close()

    def close(self) -> None:
        """Close all sessions and tasks; their readers get an error."""
        with self.lock:
            for each in list(self._sessions):
                each.close()

    def pump(self) -> bool:
        """One round: each reply whose reader keeps up gets its next token. Whether there was one to move on."""
        with self.lock:
            if self.clock() - self._swept > self.config.idle_seconds / _SWEEPS:
                self.sweep()
            moving = [session for session in self._sessions if session.wants_tokens]
            if not moving:
                return False
            try:
                self.engine.step([session.request for session in moving if session.request is not None])
            except Exception:
                # The fault may be any session's: none of them has a cache that can be trusted.
                log.exception("a round failed")
                for session in moving:
                    session.fail("the reply broke off by a fault inside; ask again")
                return True
            for session in moving:
                session.advance()
            return True

    def leave(self, session: Session | GenerationTask) -> None:
        """Forget a closed session or a task that has ended."""
        if session in self._sessions:
            self._sessions.remove(session)
