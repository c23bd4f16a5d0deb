"""Many sessions on one engine, without a thread of its own: whoever waits for an event moves all replies on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from emova.core.errors import BusyError, InternalFault, UnsupportedModelError
from emova.decoding.protocol import Context, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine
from emova.engine.protocol import SequenceCache
from emova.reply.grammar import Grammar
from emova.session.config import SchedulerConfig
from emova.session.generation import GenerationTask
from emova.session.protocol import DialogueModel, Participant
from emova.session.session import Session

ModelT = TypeVar("ModelT", bound=DialogueModel)
log = logging.getLogger(__name__)
_SWEEPS = 10
"""How often in the time that makes a session idle the others look for such."""


class Scheduler(Generic[ModelT]):
    """Opens sessions and writes all their replies together.

    Readers may come from several threads; each round is made by one of them, under ``lock``. No thread is started, so
    none is left behind, and a reader that stops stops its own reply only.

    Args:
        assistant: its parts, limits and reply format.
        clock: seconds; for tests.

    Raises:
        UnsupportedModelError: the engine cannot run the assistant's model.
    """

    def __init__(
        self,
        assistant: ModelT,
        config: SchedulerConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(assistant.decoder, EngineDecoder):
            raise UnsupportedModelError("sessions need the streaming engine, and it does not run this language model")
        self.assistant, self.config, self.clock = assistant, config or SchedulerConfig(), clock
        self.engine = assistant.decoder.engine
        reading = assistant.reading_decoder
        assert isinstance(reading, EngineDecoder), "it runs the same layers with other weights"
        self.reading_engine = reading.engine
        self.lock = threading.RLock()
        self._participants: list[Participant] = []
        self._swept = clock()

    def __len__(self) -> int:
        """How many sessions are open."""
        return len(self._participants)

    def open(self, voice: str | None = None, instructions: str = "") -> Session:
        """A new session, with a system message if ``instructions`` has one.

        Raises:
            InputError: the voice is unknown, or (BusyError) all places are taken.
        """
        voice = self.assistant.styles.parse(voice).gender
        with self.lock:
            self._check_room()
            session = Session(self, voice, instructions)
            self._participants.append(session)
            return session

    def write(self, prompt: Prompt, grammar: Grammar) -> Iterator[int]:
        """The tokens of a single task, written in the same rounds as the sessions' replies.

        Raises:
            InputError: the weights are damaged, or (BusyError) all places are taken.
            InternalFault: a round failed.
        """
        sampling = self.assistant.config.sampling
        return self._write(self.engine, self.engine.new_context(), prompt, grammar, sampling)

    def write_aloud(
        self, prompt: Prompt, grammar: Grammar, sampling: Sampling, context: Context[SequenceCache]
    ) -> Iterator[int]:
        """``write`` by the language model that reads aloud, after what was read in a context of its decoder."""
        return self._write(self.reading_engine, context, prompt, grammar, sampling)

    def _write(
        self, engine: Engine, context: Context[SequenceCache], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> Iterator[int]:
        with self.lock:
            self._check_room()
            task = GenerationTask(self, engine, context, prompt, grammar, sampling)
            self._participants.append(task)
        try:
            yield from task.tokens()
        finally:
            task.close()

    def _check_room(self) -> None:
        self.sweep()
        if len(self._participants) >= self.config.max_sessions:
            raise BusyError(f"all {self.config.max_sessions} sessions are in use; try again in a moment")

    def sweep(self) -> None:
        """Close the sessions that nobody touched for a while."""
        with self.lock:
            self._swept = self.clock()
            latest = self._swept - self.config.idle_seconds
            for idle in [each for each in self._participants if each.touched < latest]:
                idle.close()

    def close(self) -> None:
        """Close all sessions and tasks; their readers get an error."""
        with self.lock:
            for each in list(self._participants):
                each.close()

    def pump(self) -> bool:
        """One round: each reply whose reader keeps up gets its next token. Whether there was one to move on."""
        with self.lock:
            if self.clock() - self._swept > self.config.idle_seconds / _SWEEPS:
                self.sweep()
            moving = [each for each in self._participants if each.wants_tokens]
            if not moving:
                return False
            try:
                for engine in dict.fromkeys((self.engine, self.reading_engine)):
                    engine.step([each.request for each in moving if each.engine is engine and each.request is not None])
            except Exception:
                # The fault may be anybody's: none of them has a cache that can be trusted.
                log.exception("a round failed")
                for each in moving:
                    each.fail(InternalFault())
                return True
            for each in moving:
                each.advance()
            return True

    def leave(self, participant: Participant) -> None:
        """Forget a closed session or a task that has ended."""
        if participant in self._participants:
            self._participants.remove(participant)
