"""What stands in front of all routes, whether the model works in this process or in others."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod

from emova_app.server.config import ServerConfig
from emova_app.server.http.bodies import Bodies
from emova_app.server.http.connections import Connections
from emova_app.server.metrics import Metrics
from emova_app.server.queueing import Queue


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(12)}"


class Front(ABC):
    """Who is inside, and whether more may come.

    Attributes:
        connections: who is connected.
        bodies: what is being read of the requests.
        queue: of the requests.
        realtime: how many realtime sessions are open.
        draining: set when the server ends.
        metrics: what is measured.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.connections = Connections(config.max_connections, config.max_connections_per_address)
        self.bodies = Bodies(config)
        self.queue = queue = Queue(config.max_active, config.max_waiting)
        self.realtime = 0
        self.draining = asyncio.Event()
        self.metrics = Metrics(lambda: queue.inside - queue.running, lambda: queue.running, lambda: self.realtime)

    @abstractmethod
    async def break_off(self) -> None:
        """Break off what is still open when the server ends; its clients are told."""
