"""Fetching a picture from the web without being led anywhere else.

Only hosts of an allow-list; each redirect is checked like the first address; a name is looked up once and the
connection goes to the address that was checked; addresses that are not on the public internet are refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import h11

from emova.core.errors import InputError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
UNREACHABLE = "the picture's address: it cannot be fetched; send the picture as a data: URL"
_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of one picture.

    Attributes:
        max_bytes: of its file.
        seconds: for everything, redirects included.
        max_redirects: followed at most.
        ports: that may be asked.
    """

    max_bytes: int = 16 << 20
    seconds: float = 15.0
    max_redirects: int = 3
    ports: tuple[int, ...] = (80, 443)


@dataclass(frozen=True)
class Target:
    """One request: where to, after the checks that need no network."""

    secure: bool
    host: str
    port: int
    path: str


def public(address: str) -> bool:
    """Whether an address is on the public internet, and so is what it carries inside (IPv4 in IPv6)."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    inner: ipaddress.IPv4Address | None = None
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64 or parsed in ipaddress.ip_network("::/96"):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    if inner is not None and not public(str(inner)):
        return False
    checked = inner or parsed
    return checked.is_global and not checked.is_multicast and not checked.is_reserved


def check_url(url: str, hosts: Sequence[str], ports: Sequence[int] = FetchLimits.ports) -> Target:
    """What of an address may be asked.

    Raises:
        InputError: another scheme, a name that is not on the list, an address in numbers, a user name, another port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError("the picture's address: it is no address; send the picture as a data: URL") from None
    host = (parts.hostname or "").lower().rstrip(".")
    printable = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if parts.scheme not in ("http", "https") or not printable or "@" in parts.netloc:
        raise InputError("the picture's address: only plain http(s) and data: URLs are taken")
    if not _NAME.fullmatch(host) or host not in hosts:
        raise InputError("the picture's address: its host is not on this server's list; send it as a data: URL")
    port = port or (443 if parts.scheme == "https" else 80)
    if port not in ports:
        raise InputError("the picture's address: its port is not on this server's list; send it as a data: URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", host, port, path)


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


class Fetcher:
    """Fetches pictures.

    Args:
        hosts: the names that may be asked, in lower case.
        resolve, connect: how names are looked up and connections opened; for tests.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        limits: FetchLimits = FetchLimits(),
        resolve: Resolve = resolve,
        connect: Connect = asyncio.open_connection,
    ) -> None:
        self.hosts = tuple(host.lower().rstrip(".") for host in hosts)
        self.limits, self._resolve, self._connect = limits, resolve, connect

    async def get(self, url: str) -> bytes:
        """The file at ``url``. Raises: InputError: it is not allowed, not there, too large or too slow."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                for _ in range(self.limits.max_redirects + 1):
                    target = check_url(url, self.hosts, self.limits.ports)
                    body, location = await self._ask(target)
                    if location is None:
                        return body
                    scheme = "https" if target.secure else "http"
                    url = urljoin(f"{scheme}://{target.host}:{target.port}{target.path}", location)
        except InputError:
            raise
        except (OSError, TimeoutError, h11.ProtocolError, ValueError):
            raise InputError(UNREACHABLE) from None
        raise InputError("the picture's address: it leads from one address to the next; send the picture itself")

    async def _ask(self, target: Target) -> tuple[bytes, str | None]:
        addresses = await self._resolve(target.host, target.port)
        # One private address among public ones is enough to distrust a name.
        if not addresses or not all(public(address) for address in addresses):
            raise InputError(UNREACHABLE)
        tls = ssl.create_default_context() if target.secure else None
        server_hostname = target.host if target.secure else None
        reader, writer = await self._connect(addresses[0], target.port, ssl=tls, server_hostname=server_hostname)
        try:
            return await self._exchange(target, reader, writer)
        finally:
            writer.close()

    async def _exchange(
        self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, str | None]:
        connection = h11.Connection(h11.CLIENT)
        usual = 443 if target.secure else 80
        host = target.host if target.port == usual else f"{target.host}:{target.port}"
        headers = [("Host", host), ("Accept", "image/*"), ("User-Agent", "emova"), ("Connection", "close")]
        writer.write(connection.send(h11.Request(method="GET", target=target.path, headers=headers)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                if event.status_code in (301, 302, 303, 307, 308):
                    location = dict(event.headers).get(b"location", b"").decode("ascii")
                    return b"", location
                if event.status_code != 200:
                    raise InputError(UNREACHABLE)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.limits.max_bytes:
                    raise InputError(f"the picture: larger than {self.limits.max_bytes >> 20} MiB; make it smaller")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body), None
            elif isinstance(event, h11.ConnectionClosed):
                raise InputError(UNREACHABLE)
