"""Running the application: connections that stall are cut, and an end that lets open replies finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from emova.core.errors import InputError
from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError
from emova_app.server.http.connections import Connections, Peer
from emova_app.server.http.fetch import Fetcher
from emova_app.server.http.front import Front

if TYPE_CHECKING:
    from emova.assistant import Assistant

log = logging.getLogger(__name__)
_TOLD = bytes(ApiError(503, "the server is busy; try again in a moment", kind="server_error").response().body)
_PUT_OUT = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOLD), _TOLD)
)


class _Bounded(asyncio.Protocol):
    """Of a protocol: counts its connection, and cuts it when its client stops reading for a while."""

    transport: asyncio.Transport
    client: Peer | None
    connected: Connections
    stall_seconds: float
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if self.client is not None:
            self.connected.enter(self.client, self.put_out)

    def put_out(self) -> None:
        """Make room for others."""
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_again()
        self._stalled = asyncio.get_running_loop().call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_again()
        if self.client is not None:
            self.connected.leave(self.client)
        super().connection_lost(exc)

    def _read_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def bounded_protocols(
    connections: Connections, config: ServerConfig
) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
    """HTTP and WebSocket for uvicorn, with bounds on who is connected, on heads that do not come and on clients that do
    not read."""

    class Http(_Bounded, H11Protocol):
        """With a limit on the time of a request's head, and on the time that a client may stop reading."""

        connected, stall_seconds = connections, config.stall_seconds
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._asks_nothing:
                self._stop_waiting()
            elif self._head is None:
                self._wait_for_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY and self._head is None:
                self._wait_for_head()

        @property
        def _asks_nothing(self) -> bool:
            """Whether no head has come yet, or only the rest of a body whose request was refused before it came."""
            if self.transport.get_protocol() is not self:
                return False  # the connection became a WebSocket
            refused = self.cycle is not None and self.cycle.response_complete
            return self.conn.their_state is h11.IDLE or (refused and self.conn.their_state is h11.SEND_BODY)

        def put_out(self) -> None:
            waits = self.conn.their_state is h11.SEND_BODY and not self.cycle.response_started
            if waits and not self.transport.get_write_buffer_size():
                self.transport.write(_PUT_OUT)
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            else:
                self.transport.close()

        def _wait_for_head(self) -> None:
            self._head = self.loop.call_later(config.header_seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

    class WebSocket(_Bounded, WebSocketsSansIOProtocol):  # type: ignore[misc]  # as above
        """With a limit on the time that a client may stop reading."""

        connected, stall_seconds = connections, config.stall_seconds

    return Http, WebSocket


class Server(uvicorn.Server):
    """Lets what is open finish, within limits, before it closes connections."""

    def __init__(self, config: uvicorn.Config, service: Front) -> None:
        super().__init__(config)
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, wait for what is open, then break off the rest and tell its clients."""
        service = self.service
        service.draining.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(service.config.drain_seconds):
                while (service.queue.inside or service.realtime) and not self.force_exit:
                    await asyncio.sleep(0.05)
        await service.break_off()
        await super().shutdown(sockets)


def make_server(
    config: ServerConfig,
    assistant: Assistant,
    fetcher: Fetcher | None = None,
    others: Mapping[str, Assistant] | None = None,
) -> Server:
    """A server that is ready to run: ``run()``, or ``serve()`` in an event loop.

    Args:
        others: more assistants, by the names that clients give.

    Raises:
        InputError: the streaming engine cannot run an assistant's model.
    """
    from emova_app.server.app import create_app

    app = create_app(config, assistant, fetcher, others)
    return server_of(app, app.state.service)


def server_of(app: ASGIApp, service: Front) -> Server:
    """A server that is ready to run an ASGI application with ``service`` in front of it."""
    config = service.config
    http, websocket = bounded_protocols(service.connections, config)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=http,
        ws=websocket,
        ws_max_size=config.max_body_bytes,
        ws_per_message_deflate=False,  # sound does not shrink, and deflated messages can be bombs
        ws_ping_interval=20,
        ws_ping_timeout=20,
        h11_max_incomplete_event_size=32 << 10,
        proxy_headers=False,  # a client is who connects, whatever it says
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        server_header=False,
        log_level="warning",
        log_config=None,
    )
    return Server(settings, service)


def listen(config: ServerConfig) -> socket.socket:
    """A socket that listens. Raises: InputError: the address is taken or is none of this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except (OSError, OverflowError):
        listener.close()
        raise InputError(f"{config.host[:80]}:{config.port}: cannot listen there; choose another port") from None
    return listener
