"""What the server allows itself and its clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from emova.core.errors import InputError
from emova_app.addresses import is_loopback, is_origin


@dataclass(frozen=True)
class ServerConfig:
    """Limits of the server; the defaults fit one small machine.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_key: what clients must send as a bearer token; may be empty on loopback only.
        model_name: how clients call the model.
        allowed_origins: of web pages that may ask (``https://example.org``, ``*`` for all); none by default.
        image_hosts: hosts whose http(s) pictures may be fetched; none by default.
        max_body_bytes: largest request, in bytes; also the largest message of a realtime session.
        max_json_bytes: most of a request's or an event's JSON that is neither picture nor sound, in bytes.
        max_bodies_bytes: most that all bodies together may hold, in bytes.
        body_seconds: time to send a request's body, in s.
        body_stall_seconds: how long nothing of a body may come, in s.
        header_seconds: time to send a request's head, in s.
        stall_seconds: how long a client may stop reading before its connection is cut, in s.
        deadline_seconds: how long a request may wait and run in all, in s.
        max_active: requests that are worked on at once.
        max_waiting: requests that wait for their turn; more are sent away with 429.
        max_connections: open connections; of more, the one that has waited longest without a place is closed.
        max_connections_per_address: the same of one address; behind a proxy, all clients have the proxy's.
        max_realtime: realtime sessions at once.
        max_deferred_bytes: what a realtime client may send ahead while it is answered, in bytes.
        max_conversation_bytes: what the items of a realtime conversation may hold, in bytes.
        idle_seconds: a realtime session in which nothing happens for so long is closed.
        drain_seconds: at shutdown, how long what is open may go on.
        kept_replies: spoken replies that a later request can refer to by their id.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = field(default="", repr=False)
    model_name: str = "emova-nano"
    allowed_origins: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 25 << 20
    max_json_bytes: int = 1 << 20
    max_bodies_bytes: int = 256 << 20
    body_seconds: float = 30.0
    body_stall_seconds: float = 10.0
    header_seconds: float = 10.0
    stall_seconds: float = 30.0
    deadline_seconds: float = 120.0
    max_active: int = 4
    max_waiting: int = 28
    max_connections: int = 256
    max_connections_per_address: int = 128
    max_realtime: int = 8
    max_deferred_bytes: int = 32 << 20
    max_conversation_bytes: int = 64 << 20
    idle_seconds: float = 600.0
    drain_seconds: float = 20.0
    kept_replies: int = 256

    def __post_init__(self) -> None:
        if not self.api_key and not self.loopback:
            raise InputError(
                f"the host {self.host[:80]!r}: other machines could reach it; set an API key, or listen on 127.0.0.1"
            )
        for origin in self.allowed_origins:
            if origin in ("*", "null"):  # what any page can be
                if not self.api_key:
                    raise InputError(f"the origin {origin}: any page could use this server; set an API key")
            elif not is_origin(origin):
                raise InputError(
                    f"the origin {origin[:80]!r}: write it as a browser does, such as https://example.org:8443"
                )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)
