"""Names by which this machine, and nobody else, is called; the server and the demo decide by them who may ask."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself: ``localhost``, or an address of the whole loopback range.

    No other name counts, wherever it leads: the owner of a name decides that anew each time it is looked up.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def host_of(header: str) -> str:
    """The name or address, without port and brackets, of a ``Host`` header; empty if it is none."""
    return host_of_origin(f"//{header}") if "/" not in header else ""


def is_origin(origin: str) -> bool:
    """Whether ``origin`` is what a browser writes: scheme, name and, where it is not the scheme's own, port."""
    parts = origin.partition("://")
    return (
        parts[0] in ("http", "https")
        and origin == origin.lower()
        and not set(parts[2]) & set("/?#@ *")
        and bool(host_of_origin(origin))
    )


def host_of_origin(origin: str) -> str:
    """The same of an ``Origin`` header."""
    try:
        parts = urlsplit(origin)
        parts.port  # noqa: B018  (a ValueError where it is none)
        return parts.hostname or "" if parts.username is None else ""
    except ValueError:
        return ""


def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that one client has."""
    try:
        parsed = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
