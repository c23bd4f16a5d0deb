"""What stands in front of the page's routes: which of gradio's are open, to whose pages, and for how large a body."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emova_app.refusing import UnreadRefusal

API = "/gradio_api"
UPLOAD = f"{API}/upload"
CALL = f"{API}/component_server"
# gradio brings more routes than the page uses: some keep files, some fetch addresses. Only these are open.
READ = frozenset(
    ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/logout")
    + tuple(f"{API}/{name}" for name in ("app_id", "info", "login_check"))
    + tuple(f"{API}/{name}" for name in ("startup-events", "theme.css", "token", "user"))
)
READ_BELOW = ("/static/", "/assets/", f"{API}/file=", f"{API}/heartbeat/")
CHANGE = frozenset(("/login", UPLOAD, CALL))


@dataclass(frozen=True)
class RequestLimits:
    """Bounds of what a browser sends.

    Attributes:
        max_body_bytes: of a call; the longest recording of the page is 2.6 MB.
        body_seconds: in which it must have come.
    """

    max_body_bytes: int = 4 << 20
    body_seconds: float = 60.0


class OwnPageOnly:
    """An ASGI middleware; the address by which the page may be called is checked before it."""

    def __init__(self, app: ASGIApp, limits: RequestLimits = RequestLimits()) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # the page uses no WebSocket
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, reading = scope["path"], scope["method"] in ("GET", "HEAD")
        name = path.rstrip("/") or "/"  # gradio's pages call some routes with a slash at their end
        if not from_own_page(scope):
            refusal = "this address takes requests of its own page only; a proxy must hand on the name in Host"
            await _refuse(403, refusal)(scope, receive, send)
        elif not (name in READ or path.startswith(READ_BELOW) if reading else name in CHANGE):
            await _refuse(404, "there is nothing here")(scope, receive, send)
        elif reading or path == UPLOAD:  # an upload is counted while it comes
            await self.app(scope, receive, send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, ended, refusal = bytearray(), False, None
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while not ended:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    ended = not message.get("more_body", False)
                    if len(body) > self.limits.max_body_bytes:
                        most = self.limits.max_body_bytes >> 20
                        refusal = UnreadRefusal(413, f"the request: larger than {most} MB", self.limits.body_seconds)
                        break
        except TimeoutError:
            await _refuse(408, "the request: its body came too slowly")(scope, receive, send)
            return
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        unread = [bytes(body)]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replay, send)


def from_own_page(scope: Scope) -> bool:
    """Whether the demo's own page asks, or no page at all; a page elsewhere may only lead a person here.

    A browser tells by two headers where a request comes from. A form or a script of another site can send files
    without asking first, so this is all that keeps it from doing so.
    """
    headers = Headers(scope=dict(scope))
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if origin is not None and not _same(origin, headers.get("host", "")):
        return False
    if site in (None, "same-origin", "none"):
        return True
    opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return opened and scope["method"] == "GET" and scope["path"] == "/"


def _same(origin: str, host: str) -> bool:
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        # Behind a proxy the scheme is not known; a port that it implies may be named or not.
        ports = [port if port not in (80, 443) else None for port in (theirs.port, ours.port)]
    except ValueError:
        return False
    return theirs.hostname is not None and theirs.hostname == ours.hostname and ports[0] == ports[1]


def _refuse(status: int, reason: str) -> PlainTextResponse:
    # What is still on its way is not read, so the connection cannot serve another request.
    return PlainTextResponse(reason, status, headers={"connection": "close"})
