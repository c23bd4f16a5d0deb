"""One single task beside the sessions: reading a text aloud, or writing down what is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from emova.core.errors import ClosedError
from emova.decoding.protocol import Context, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.engine import Engine
from emova.engine.protocol import SequenceCache
from emova.reply.grammar import Grammar
from emova.session.protocol import Rounds


class GenerationTask:
    """Opened by ``Scheduler.write`` and ``write_aloud``; for its rounds it is like a session that answers once.

    Args:
        engine: of the language model that does it.
        context: of that engine.
    """

    def __init__(
        self,
        scheduler: Rounds,
        engine: Engine,
        context: Context[SequenceCache],
        prompt: Prompt,
        grammar: Grammar,
        sampling: Sampling,
    ) -> None:
        self.scheduler = scheduler
        self.touched = scheduler.clock()
        self.closed = False
        self.engine = engine
        self.request = engine.start(context, prompt, grammar, sampling)
        self._queue: deque[int] = deque(self.request.take_written())

    @property
    def wants_tokens(self) -> bool:
        """Whether the next round should move this task on."""
        return not self.closed and not self.request.done and len(self._queue) < self.scheduler.config.max_events

    def advance(self) -> None:
        """Take what a round wrote."""
        self._queue.extend(self.request.take_written())

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.request.error = error

    def tokens(self) -> Iterator[int]:
        """The tokens as they are written.

        Raises:
            InputError: the weights are damaged, or (ClosedError) the task was closed.
            InternalFault: a round failed.
        """
        while True:
            with self.scheduler.lock:
                self.touched = self.scheduler.clock()
                if not self._queue and not self.closed and not self.request.done:
                    moved = self.scheduler.pump()
                    assert moved or self._queue or self.request.done, "a task that neither moves nor ends"
                    continue
                if self.closed:
                    raise ClosedError("the server stopped this task; try again later")
                if not self._queue:
                    if self.request.error is not None:
                        raise self.request.error
                    return
                token = self._queue.popleft()
            yield token

    def close(self) -> None:
        """Stop, and free the memory."""
        with self.scheduler.lock:
            self.closed = True
            self.scheduler.leave(self)
