"""One address in front of replicas: limits and keys are kept here, work is passed on, and a lost replica is told.

The replicas stand behind a router of their own (Ray Serve's proxy), which has neither our limits nor our errors; it
listens on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError, handle_errors
from emova_app.server.http.front import Front, new_id
from emova_app.server.http.middleware import RequestMiddleware, let_pages_ask
from emova_app.server.http.streams import Stream
from emova_app.server.http.streams import event as sse

SESSION = "x-session-id"  # requests with the same one go to the same replica
PASSED_ON = ("accept", "content-type", SESSION)
PASSED_BACK = ("allow", "content-length", "content-type", "retry-after")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_KIND = re.compile(r'\{"type": "(response\.created|response\.done)"')  # as a connection writes its events
Figures = Callable[[], Awaitable[dict[str, str]]]


def lost() -> ApiError:
    """What a client is told whose replica died."""
    return ApiError(
        503,
        "the replica that worked on this was lost; ask again, and open a realtime session anew",
        kind="server_error",
        code="replica_lost",
        headers={"retry-after": "1"},
    )


def joined_figures(pages: dict[str, str]) -> str:
    """Pages in Prometheus' text format as one, each figure labelled with its replica; those of "" are the front's."""
    families: dict[str, list[str]] = {}
    for replica, page in pages.items():
        for family in text_string_to_metric_families(page):
            name = family.name + ("_total" if family.type == "counter" else "")
            lines = families.setdefault(name, [f"# HELP {name} {family.documentation}", f"# TYPE {name} {family.type}"])
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                labels = {**({"replica": replica} if replica else {}), **sample.labels}
                shown = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
                lines.append(f"{sample.name}{{{shown}}} {sample.value}" if shown else f"{sample.name} {sample.value}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


class Gateway(Front):
    """Passes requests on.

    Args:
        config: limits of all replicas together.
        address: of the replicas' router, as ``host:port``.
        key: what the replicas want to see, in place of the client's.
        figures: gives the replicas' figures.
    """

    def __init__(self, config: ServerConfig, address: str, key: str, figures: Figures) -> None:
        super().__init__(config)
        self._address, self._figures = address, figures
        self._key = {"authorization": f"Bearer {key}"}
        # The deadline is the middleware's. Proxies of the environment are for the world outside.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=10),
            limits=httpx.Limits(max_connections=config.max_connections),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections to the replicas."""
        await self._client.aclose()

    async def break_off(self) -> None:
        """Nothing to break off here: what is left open ends with its connection."""

    # --- HTTP ---------------------------------------------------------------------------------------------------------
    async def metrics_page(self, request: Request) -> Response:
        """The figures of this process, in which requests are counted, and those of each replica."""
        try:
            pages = await asyncio.wait_for(self._figures(), 10)
        except Exception:
            raise lost() from None
        page = joined_figures({"": self.metrics.page().decode(), **pages})
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def forward(self, request: Request) -> Response:
        """Ask a replica. Raises: ApiError: it was lost before it answered."""
        if self.draining.is_set() and request.url.path == "/healthz":
            raise ApiError(503, "the server is shutting down", kind="server_error")
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        asked = self._client.build_request(
            request.method,
            httpx.URL(f"http://{self._address}").copy_with(raw_path=_raw_path(request)),
            headers={**headers, **self._key},
            content=await request.body(),
        )
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.TransportError:
            raise lost() from None
        kind = answer.headers.get("content-type", "")
        if answer.status_code >= 400 and "json" not in kind:
            # Not a replica's error but the router's.
            await answer.aclose()
            raise lost()
        stream = Stream(self._pieces(answer, "event-stream" in kind), kind)
        stream.status_code = answer.status_code
        stream.raw_headers = [
            (name.encode(), answer.headers[name].encode()) for name in PASSED_BACK if name in answer.headers
        ]
        return stream

    async def _pieces(self, answer: httpx.Response, events: bool) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        except httpx.TransportError:
            self.metrics.errors.labels("503").inc()
            if not events:
                raise lost() from None  # the connection is cut: what came is not the whole
            yield sse(lost().body) + b"data: [DONE]\n\n"
        finally:
            await answer.aclose()

    # --- realtime -----------------------------------------------------------------------------------------------------
    async def talk(self, socket: WebSocket) -> None:
        """Join a client and a replica for one session."""
        offered = socket.scope.get("subprotocols", ())
        headers = {SESSION: socket.headers[SESSION]} if SESSION in socket.headers else {}
        try:
            replica = await connect(
                f"ws://{self._address}/v1/realtime?{socket.url.query}",
                additional_headers={**headers, **self._key},
                subprotocols=["realtime"] if "realtime" in offered else None,  # type: ignore[list-item]
                compression=None,
                max_size=self.config.max_body_bytes,
                open_timeout=30,
                proxy=None,
            )
        except InvalidStatus as refused:
            answer = refused.response
            known = "json" in answer.headers.get("content-type", "")
            kept = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
            told = Response(bytes(answer.body or b""), answer.status_code, kept) if known else lost().response()
            await socket.send_denial_response(told)
            return
        except (OSError, TimeoutError, InvalidHandshake):
            await socket.send_denial_response(lost().response())
            return
        try:
            await socket.accept(subprotocol=replica.subprotocol)
            with contextlib.suppress(WebSocketDisconnect):
                await _Joined(self, socket, replica).serve()
        finally:
            await replica.close()


class _Joined:
    """A client's connection and its replica's."""

    def __init__(self, gateway: Gateway, socket: WebSocket, replica: ClientConnection) -> None:
        self._gateway, self._socket, self._replica = gateway, socket, replica
        self._silent = asyncio.Event()  # no answer is being given
        self._silent.set()

    async def serve(self) -> None:
        """Until one of both ends, or the server does."""
        up, down = asyncio.create_task(self._up()), asyncio.create_task(self._down())
        ending = asyncio.create_task(self._drained())
        try:
            await asyncio.wait([up, down, ending], return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await self._tell(ApiError(503, "the server is shutting down", kind="server_error"), "session_ended")
                await self._socket.close(1001)
            elif down.done() or self._replica.close_code is not None:
                await asyncio.wait([down])
                await self._told_end()
        finally:
            for task in (up, down, ending):
                task.cancel()
            await asyncio.gather(up, down, ending, return_exceptions=True)

    async def _up(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                text = message.get("text")
                # A binary frame is for the replica to refuse.
                await self._replica.send(message.get("bytes") or b"" if text is None else text)

    async def _down(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._replica:
                assert isinstance(text, str)
                found = _KIND.match(text)
                if found is not None:
                    (self._silent.set if found[1] == "response.done" else self._silent.clear)()
                await self._socket.send_text(text)

    async def _drained(self) -> None:
        await self._gateway.draining.wait()
        await self._silent.wait()

    async def _told_end(self) -> None:
        """The replica closed the connection, by the protocol or by dying."""
        code = self._replica.close_code
        if code in (1006, 1011, 1012, None):
            await self._tell(lost(), "replica_lost")
            code = 1011
        assert code is not None
        await self._socket.close(code)

    async def _tell(self, error: ApiError, code: str) -> None:
        self._gateway.metrics.errors.labels(str(error.status)).inc()
        details = {**error.body["error"], "code": code, "event_id": None}
        await self._socket.send_text(json.dumps({"type": "error", "event_id": new_id("event"), "error": details}))


def _raw_path(request: Request) -> bytes:
    """The path as it was sent, which the replica decodes once, and the query."""
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return path + b"?" + query if query else path


def create_gateway(gateway: Gateway) -> Starlette:
    """The ASGI application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.close()

    routes = [
        Route("/metrics", gateway.metrics_page),
        Route("/{path:path}", gateway.forward, methods=METHODS),
        WebSocketRoute("/v1/realtime", gateway.talk),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    handle_errors(app)
    app.add_middleware(RequestMiddleware, service=gateway)
    let_pages_ask(app, gateway.config)
    return app
