"""Who asks, by address: one of them takes no more than a share of what there is for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastapi import Request

from emova_app.addresses import address_of

VISITOR: ContextVar[str] = ContextVar("VISITOR", default="")
"""The address of whoever made the call that is answered."""


def visitor_of(request: Request) -> str:
    """What counts as the address of whoever asks. Behind a proxy on this machine it is the one that the proxy names."""
    return address_of(request.client.host) if request.client is not None else ""


class Share:
    """Counts what is under way of each address.

    Args:
        most: of one address.
        most_together: of all.
    """

    def __init__(self, most: int, most_together: int | None = None) -> None:
        self._most, self._most_together = most, most_together
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def taken(self, visitor: str) -> Iterator[bool]:
        """Whether there is room for one more; if so, it counts while the block lasts."""
        full = self._most_together is not None and self._under_way.total() >= self._most_together
        if full or self._under_way[visitor] >= self._most:
            yield False
            return
        self._under_way[visitor] += 1
        try:
            yield True
        finally:
            self._under_way[visitor] -= 1
            self._under_way += Counter()  # drops what is 0
