"""What a realtime client sends while it is answered: kept in its order, and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from emova.core.errors import InputError
from emova_app.server.errors import ApiError

Action = Callable[[], Awaitable[None]]
MAX_EVENTS = 64
MAX_PIECES = 4096  # of sound
_LEAST = 1024  # bytes that each refusal counts at least


class Flooded(Exception):
    """The client goes on sending what there is no room for."""


@dataclass(frozen=True)
class _Waiting:
    action: Action
    size: int
    samples: int


class Backlog:
    """Waits for an answer's end.

    Args:
        max_bytes: of all that waits. Who sends as much again that is refused does not listen.
        max_samples: of the sound.
    """

    def __init__(self, max_bytes: int, max_samples: int) -> None:
        self._max_bytes, self._max_samples = max_bytes, max_samples
        self._waiting: deque[_Waiting] = deque()
        self.bytes = self._samples = self._pieces = self._refused = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, action: Action, size: int) -> None:
        """An event of ``size`` bytes. Raises: ApiError: no room; Flooded: and again."""
        if len(self) - self._pieces >= MAX_EVENTS or self.bytes + size > self._max_bytes:
            self._refuse(size)
            raise ApiError(
                429,
                "too much waits for the end of the answer; this is not taken, wait for response.done",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
            )
        self._append(_Waiting(action, size, 0))

    def add_sound(self, action: Action, samples: int, size: int) -> None:
        """A piece of sound, of ``size`` bytes. Raises: InputError: no room; Flooded: and again."""
        full = self._samples + samples > self._max_samples or self.bytes + size > self._max_bytes
        if full or self._pieces >= MAX_PIECES:
            self._refuse(size)
            raise InputError("the audio: more than one question may have, while an answer is given; this is not heard")
        self._append(_Waiting(action, size, samples))

    def put_first(self, action: Action, samples: int, size: int) -> None:
        """Sound that was heard already, before all else; it is within the limits of a question."""
        self._waiting.appendleft(_Waiting(action, size, samples))
        self._count(self._waiting[0], 1)

    def next(self) -> Action:
        """What came first."""
        first = self._waiting.popleft()
        self._count(first, -1)
        return first.action

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self.bytes = self._samples = self._pieces = self._refused = 0

    def forgive(self) -> None:
        """The answer has ended, and with it the reason to refuse."""
        self._refused = 0

    def _append(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._count(waiting, 1)

    def _count(self, waiting: _Waiting, sign: int) -> None:
        self.bytes += sign * waiting.size
        self._samples += sign * waiting.samples
        self._pieces += sign * (waiting.samples > 0)

    def _refuse(self, size: int) -> None:
        self._refused += max(size, _LEAST)
        if self._refused > self._max_bytes:
            raise Flooded
