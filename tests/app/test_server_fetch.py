"""Pictures from the web: a client must not lead the server to places that it could not reach itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from emova.core.errors import InputError

pytest.importorskip("h11")

from emova_app.server.http.fetch import Fetcher, FetchLimits, check_url, public

HOSTS = ("pictures.example.com", "other.example.com")
SHORT = FetchLimits(seconds=3)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2001:db8::1",
        "no address",
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not public(address)


def test_addresses_outside_are_public() -> None:
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"):
        assert public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f000001/a.png",
        "http://0177.0.0.1/a.png",
        "http://127.1/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://localhost/a.png",
        "http://evil.com/a.png",
        "http://pictures.example.com.evil.com/a.png",
        "http://pictures.example.com@127.0.0.1/a.png",
        "http://user:word@pictures.example.com/a.png",
        "http://pictures.example.com:22/a.png",
        "http://pictures.example.com:99999/a.png",
        "http://pictures.example.com\\@evil.com/",
        "http://pictures.example.com/\r\nHost: evil.com",
        "http://pictures.example.com/a b",
        "http://pictures。example。com/",
        "http://ⓟictures.example.com/",
        "file:///etc/passwd",
        "ftp://pictures.example.com/a.png",
        "gopher://pictures.example.com/",
        "//pictures.example.com/a.png",
        "/etc/passwd",
        "http://",
        "http://[",
        "",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url, HOSTS)


def test_listed_hosts_are_taken() -> None:
    target = check_url("https://Pictures.Example.com./a/b.png?x=1", HOSTS)
    assert (target.secure, target.host, target.port, target.path) == (True, HOSTS[0], 443, "/a/b.png?x=1")


def fetch(
    answers: dict[str, bytes],
    url: str = "http://pictures.example.com/a",
    names: Callable[[str], list[str]] = lambda host: ["93.184.215.14"],
    limits: FetchLimits = SHORT,
) -> tuple[bytes, list[tuple[str, int]]]:
    """Fetch from a real server on this machine that stands for the whole web; who was asked, at which address."""
    asked: list[tuple[str, int]] = []

    async def scenario() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path, host = head.split()[1], head.split("Host: ")[1].split("\r\n")[0]
            writer.write(answers.get(f"{host}{path}", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
            await writer.drain()
            if f"{host}{path}" != "pictures.example.com/slow":
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def resolve(host: str, port: int) -> list[str]:
            return names(host)

        async def connect(address: str, wanted: int, **security):
            asked.append((address, wanted))
            return await asyncio.open_connection("127.0.0.1", port)

        try:
            return await Fetcher(HOSTS, limits, resolve, connect).get(url)
        finally:
            server.close()

    return asyncio.run(scenario()), asked


def answer(body: bytes = b"picture", head: str = "HTTP/1.1 200 OK") -> bytes:
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def redirect(location: str) -> bytes:
    return answer(b"", f"HTTP/1.1 302 Found\r\nLocation: {location}")


def test_a_picture_arrives_through_a_redirect() -> None:
    web = {
        "pictures.example.com/a": redirect("/b"),
        "pictures.example.com/b": redirect("http://other.example.com/c"),
        "other.example.com/c": answer(),
    }
    body, asked = fetch(web)
    assert body == b"picture" and asked == [("93.184.215.14", 80)] * 3


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1/", "http://evil.com/", "http://2130706433/", "file:///etc/passwd", "//[::1]/", "/a", "http://["],
)
def test_each_redirect_is_checked(location: str) -> None:
    with pytest.raises(InputError):
        fetch({"pictures.example.com/a": redirect(location)})


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "64:ff9b::7f00:1"])
def test_a_listed_name_that_leads_inside_is_not_asked(address: str) -> None:
    for addresses in ([address], ["93.184.215.14", address], []):
        asked: list[tuple[str, int]] = []
        with pytest.raises(InputError):
            names = {"pictures.example.com": addresses}
            _, asked = fetch({"pictures.example.com/a": answer()}, names=names.__getitem__)
        assert not asked


def test_a_name_that_changes_is_looked_up_once() -> None:
    """What was checked is what is connected to: a second answer of the name server has no say."""
    found = [["93.184.215.14"], ["127.0.0.1"]]
    body, asked = fetch({"pictures.example.com/a": answer()}, names=lambda host: found.pop(0))
    assert body == b"picture" and asked == [("93.184.215.14", 80)] and len(found) == 1
    found = [["93.184.215.14"], ["127.0.0.1"]]
    web = {"pictures.example.com/a": redirect("/b"), "pictures.example.com/b": answer()}
    with pytest.raises(InputError):
        fetch(web, names=lambda host: found.pop(0))


def test_size_and_time_are_bounded() -> None:
    small = FetchLimits(max_bytes=1000, seconds=0.5)
    with pytest.raises(InputError, match="larger"):
        fetch({"pictures.example.com/a": answer(b"x" * 1001)}, limits=small)
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    for web in ({"pictures.example.com/slow": endless}, {"pictures.example.com/slow": b"HTTP/1.1"}):
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch(web, "http://pictures.example.com/slow", limits=small)
    for broken in (
        b"HTTP/1.1 500 No\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    ):
        with pytest.raises(InputError):
            fetch({"pictures.example.com/a": broken})


def test_no_host_is_listed_by_default() -> None:
    from emova_app.server.config import ServerConfig

    assert ServerConfig().image_hosts == ()
    with pytest.raises(InputError, match="list"):
        asyncio.run(Fetcher(()).get("http://pictures.example.com/a"))
