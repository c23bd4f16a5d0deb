"""By which names a browser may call the page: a page of another site cannot reach it by a name of its own."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from emova_app.addresses import host_of, is_loopback

ANY = "*"


class OwnHosts:
    """An ASGI middleware.

    Args:
        hosts: further names beside this machine's own; ``*`` stands for all, where a password is asked for.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self.app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._known(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse("this address is not called by that name", 400)
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _known(self, header: str) -> bool:
        host = host_of(header)
        return ANY in self._hosts or is_loopback(host) or host in self._hosts
