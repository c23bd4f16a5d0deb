"""One single task beside the sessions: reading a text aloud, or writing down what is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.decoding.loop import Prompt
from emova.engine.engine import Writer
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from emova.session.scheduler import Hub


class SingleTask:
    """Opened by ``Hub.write``; for the hub's rounds it is like a session that answers once."""

    def __init__(self, hub: Hub, prompt: Prompt, grammar: Grammar) -> None:
        self.hub = hub
        self.touched = hub.clock()
        self.closed = False
        self.writer = Writer.start(hub.engine, hub.engine.new_context(), prompt, grammar, hub.assistant.config.sampling)
        self._queue: deque[int] = deque(self.writer.take_written())

    @property
    def wants_tokens(self) -> bool:
        """Whether the next round should move this task on."""
        return not self.closed and not self.writer.done and len(self._queue) < self.hub.config.max_events

    def advance(self) -> None:
        """Take what a round wrote."""
        self._queue.extend(self.writer.take_written())

    def fail(self, message: str) -> None:
        """End with an error."""
        self.writer.error = InputError(message)

    def tokens(self) -> Iterator[int]:
        """The tokens as they are written. Raises: InputError."""
        while True:
            with self.hub.lock:
                self.touched = self.hub.clock()
                if not self._queue and not self.closed and not self.writer.done:
                    moved = self.hub.pump()
                    assert moved or self._queue or self.writer.done, "a task that neither moves nor ends"
                    continue
                if self.closed:
                    raise InputError("the server stopped this task; try again later")
                if not self._queue:
                    if self.writer.error is not None:
                        raise self.writer.error
                    return
                token = self._queue.popleft()
            yield token

    def close(self) -> None:
        """Stop, and free the memory."""
        with self.hub.lock:
            self.closed = True
            self.hub.leave(self)
