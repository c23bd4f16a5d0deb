"""Who is connected: bounded in all and for each address, and nobody can keep others out by waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emova_app.addresses import address_of

Peer = tuple[str, int]


class Connections:
    """Lets everybody in; when it is full, the connection that has waited longest without a place has to leave.

    A place is what a request gets that is allowed and complete, or a realtime session. So idle connections, heads and
    bodies that never end, and clients that do not read what was refused make room, and whoever asks at once is heard.

    Args:
        most: connections in all.
        most_of_one: connections of one address.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        # Of each address: how to put out who has no place, who waits longest first; and who has one.
        self._waiting: dict[str, dict[Peer, Callable[[], None]]] = {}
        self._placed: dict[Peer, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._placed) + sum(map(len, self._waiting.values()))

    def enter(self, peer: Peer, put_out: Callable[[], None]) -> None:
        """``peer`` has connected, or speaks another protocol now; ``put_out`` ends its connection."""
        address = address_of(peer[0])
        self._waiting.setdefault(address, {})[peer] = put_out
        if self._of(address) > self._most_of_one:
            self._make_room(address, peer)
        if len(self) > self._most:
            self._make_room(max(self._waiting, key=lambda each: len(self._waiting[each])), peer)

    def leave(self, peer: Peer) -> None:
        """``peer``'s connection has ended."""
        self._placed.pop(peer, None)
        address = address_of(peer[0])
        waiting = self._waiting.get(address, {})
        waiting.pop(peer, None)
        if not waiting:
            self._waiting.pop(address, None)

    @contextmanager
    def placed(self, peer: Peer | None) -> Iterator[None]:
        """While the block lasts, ``peer`` is not put out."""
        put_out = None if peer is None else self._waiting.get(address_of(peer[0]), {}).get(peer)
        if peer is None or put_out is None:  # it is not counted, or has left
            yield
            return
        self.leave(peer)
        self._placed[peer] = put_out
        try:
            yield
        finally:
            if self._placed.pop(peer, None) is not None:
                self._waiting.setdefault(address_of(peer[0]), {})[peer] = put_out

    def _of(self, address: str) -> int:
        return len(self._waiting.get(address, ())) + sum(address_of(peer[0]) == address for peer in self._placed)

    def _make_room(self, address: str, newcomer: Peer) -> None:
        for peer, put_out in self._waiting[address].items():
            if peer != newcomer:
                self.leave(peer)
                put_out()
                return
