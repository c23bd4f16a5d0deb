"""Who may be worked on now: a bounded queue in front of a bounded number of workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from emova_app.server.errors import busy


class Queue:
    """Takes requests while there is room for them to wait, and lets ``max_active`` of them run.

    Args:
        max_active: how many run at once.
        max_waiting: how many more may wait.
    """

    def __init__(self, max_active: int, max_waiting: int) -> None:
        self._most = max_active + max_waiting
        self._active = asyncio.Semaphore(max_active)
        self.inside = 0
        self.running = 0

    def check_room(self) -> None:
        """Raises: ApiError: there is no place left."""
        if self.inside >= self._most:
            raise busy("the server is busy; try again in a moment")

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place in the queue. Raises: ApiError: there is none."""
        self.check_room()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn, first come first served."""
        async with self._active:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
