"""Where clients put their key: a bearer token, or, where a page's WebSocket can set no header, a sub-protocol."""

from __future__ import annotations

from starlette.types import Scope

_PROTOCOL = "openai-insecure-api-key."
_SCHEME = b"bearer"


def given_key(scope: Scope) -> bytes:
    """The key that a request came with; empty if it has none. The scheme's case does not matter (RFC 9110, 11.1)."""
    scheme, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
    if scheme.lower() == _SCHEME and token.strip():
        return bytes(token.strip())
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(_PROTOCOL):
            return str(protocol[len(_PROTOCOL) :]).encode("utf-8", "replace")
    return b""
