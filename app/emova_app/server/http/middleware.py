"""What stands in front of all routes: who may ask, how much, for how long; and an end when the client leaves."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emova_app.addresses import host_of, host_of_origin, is_loopback
from emova_app.refusing import refuse_unread
from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError, as_api_error, busy
from emova_app.server.http.bodies import Gone, UnreadError, too_large
from emova_app.server.http.front import Front, new_id
from emova_app.server.http.keys import given_key

log = logging.getLogger(__name__)
OPEN_PATHS = ("/healthz",)
WORK_PATHS = ("/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions")
PATHS = (*WORK_PATHS, *OPEN_PATHS, "/v1/models", "/metrics", "/openapi.json", "/v1/realtime")
GRACE = 2.0  # s after the deadline for a stream to say so itself


@dataclass
class _Progress:
    """How far an answer is: its status once it has begun, and whether all of it was sent."""

    status: int = 0
    complete: bool = False


class RequestMiddleware:
    """An ASGI middleware.

    The body of a client that may ask is read here, in bounded size and time; only then the request takes a place, and
    the application runs until it is done, the client leaves, or the deadline passes.
    """

    def __init__(self, app: ASGIApp, service: Front) -> None:
        self.app, self.service, self.config = app, service, service.config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # --- who may ask --------------------------------------------------------------------------------------------------
    def _check_client(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self.config.api_key:
            wanted = self.config.api_key.encode()
            if scope["path"] not in OPEN_PATHS and not hmac.compare_digest(given_key(scope), wanted):
                raise ApiError(
                    401,
                    "the API key is missing or wrong; send it as a bearer token",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            return
        # Without a key, pages in this machine's browser must not reach the server: neither by a name that leads here
        # (DNS rebinding) nor across sites, but for those that were allowed to.
        host = host_of(headers.get(b"host", b"").decode("latin-1"))
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = b"origin" not in headers or is_loopback(host_of_origin(origin))
        if not is_loopback(host) or not (own or origin in self.config.allowed_origins):
            raise ApiError(403, "this server takes requests from its own machine only", code="forbidden")

    def _check_open(self) -> None:
        if self.service.draining.is_set():
            raise ApiError(503, "the server is shutting down", kind="server_error", headers={"retry-after": "5"})

    # --- HTTP ---------------------------------------------------------------------------------------------------------
    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, progress = time.perf_counter(), _Progress()
        request_id = new_id("req").encode()
        route = scope["path"] if scope["path"] in PATHS else "other"

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                progress.status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            elif message["type"] == "http.response.body":
                progress.complete = not message.get("more_body", False)
            await send(message)

        metrics = self.service.metrics
        try:
            await self._answer(scope, receive, told, progress)
        except Gone:
            metrics.cancelled.labels("disconnect").inc()
        except TimeoutError:
            metrics.cancelled.labels("deadline").inc()
            if not progress.status:
                late = ApiError(504, "the answer took too long; ask for less", kind="server_error", code="timeout")
                await late.response()(scope, receive, told)
        except UnreadError as error:
            await refuse_unread(error.response(), scope, receive, told, self.config.body_seconds)
        except Exception as error:
            # An error in a local variable would hold this frame, and all that the request holds, in a ring.
            refusal = as_api_error(error).response()
            if not progress.status:
                await refusal(scope, receive, told)
        finally:
            metrics.requests.labels(route, str(progress.status or "none")).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - started)
            if progress.status >= 400:
                metrics.errors.labels(str(progress.status)).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, progress: _Progress) -> None:
        self._check_client(scope)
        self._check_length(scope)
        scope["state"] = state = {**scope.get("state", {})}
        working = scope["path"] in WORK_PATHS and scope["method"] == "POST"
        if working:
            self._check_open()
            self.service.queue.check_room()
        async with self.service.bodies.read(receive) as body, AsyncExitStack() as held:
            if working:
                self._check_open()
                await held.enter_async_context(self.service.queue.place())
                held.enter_context(self.service.connections.placed(scope.get("client")))
            state["deadline"] = asyncio.get_running_loop().time() + self.config.deadline_seconds
            gone = asyncio.create_task(_until_gone(receive))
            work = asyncio.create_task(self._work(scope, body, gone, send, working))
            try:
                await _first(work, gone, seconds=self.config.deadline_seconds)
                if not work.done() and not gone.done() and progress.status:
                    await _first(work, gone, seconds=GRACE)
                if gone.done() and progress.complete:
                    await _first(work, seconds=GRACE)  # all was sent, only tidying is left
                elif gone.done() and not work.done():
                    raise Gone
                if not work.done() or work.cancelled():
                    raise TimeoutError
                work.result()
            finally:
                work.cancel()
                gone.cancel()
                await asyncio.wait([work, gone])
                del work, gone  # their errors hold this frame

    async def _work(self, scope: Scope, body: bytes, gone: asyncio.Task[None], send: Send, working: bool) -> None:
        unread = [body]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        if not working:
            await self.app(scope, replay, send)
            return
        async with AsyncExitStack() as held:
            async with asyncio.timeout_at(scope["state"]["deadline"]):
                await held.enter_async_context(self.service.queue.turn())
            await self.app(scope, replay, send)

    def _check_length(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self.config.max_body_bytes:
                raise too_large(self.config.max_body_bytes)

    # --- WebSocket ----------------------------------------------------------------------------------------------------
    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_client(scope)
            self._check_open()
            if self.service.realtime >= self.config.max_realtime:
                raise busy("all realtime sessions are in use; try again later", seconds=10)
        except ApiError as refusal:
            self.service.metrics.errors.labels(str(refusal.status)).inc()
            await receive()  # the handshake
            response = refusal.response()
            headers = list(response.raw_headers)
            await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": response.body})
            return
        self.service.realtime += 1
        try:
            with self.service.connections.placed(scope.get("client")):
                await self.app(scope, receive, send)
        finally:
            self.service.realtime -= 1


def let_pages_ask(app: Starlette, config: ServerConfig) -> None:
    """Answer the preflights of browsers, and let pages of the allowed origins read answers and errors (CORS)."""
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_private_network=True,  # a page of the web may ask this machine, if it is allowed at all
            expose_headers=("x-request-id", "retry-after"),
        )


async def _first(*tasks: asyncio.Task[None], seconds: float) -> None:
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
