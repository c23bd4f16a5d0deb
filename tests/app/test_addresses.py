"""Whatever address of this machine the server or the demo listens on answers; no other name does."""

from __future__ import annotations

import argparse
import contextlib
import socket

import httpx
import pytest

from emova_app.addresses import host_of, host_of_origin, is_loopback

pytest.importorskip("fastapi")

OWN = ("127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost")
FOREIGN = (
    "evil.com",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "192.168.1.5",
    "0.0.0.0",
    "8.8.8.8",
    "fe80::1",
    "null",
)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@pytest.mark.parametrize("host", [*OWN, "LOCALHOST", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"])
def test_own_names(host: str) -> None:
    assert is_loopback(host)
    for port in ("", ":80", ":65535"):
        assert is_loopback(host_of(bracketed(host) + port))
        for scheme in ("http", "https"):
            assert is_loopback(host_of_origin(f"{scheme}://{bracketed(host)}{port}"))


@pytest.mark.parametrize(
    "host", [*FOREIGN, "", "127.1", "2130706433", "0x7f.0.0.1", "::ffff:8.8.8.8", "localhost.", "["]
)
def test_other_names(host: str) -> None:
    assert not is_loopback(host)
    for port in ("", ":80"):
        assert not is_loopback(host_of(host + port)) and not is_loopback(host_of_origin(f"http://{host}{port}"))


@pytest.mark.parametrize(
    "header",
    ["127.0.0.1@evil.com", "127.0.0.1/evil.com", "evil.com/127.0.0.1", "x@127.0.0.1", "127.0.0.1:x", "[::1", "::1"],
)
def test_headers_that_are_none(header: str) -> None:
    assert not is_loopback(host_of(header))


def listening(host: str) -> bool:
    """Whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return True
    return False


@pytest.mark.parametrize("host", OWN)
def test_the_server_answers_on_each_address(nano, serving, host: str) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    from emova_app.server.config import ServerConfig

    if not listening(host):
        pytest.skip("this machine does not have the address")
    with serving(nano, ServerConfig(host=host, port=0, drain_seconds=1)) as server:
        base = f"{bracketed(host)}:{server.port}"
        url = f"http://{base}/v1/models"
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers={"Origin": f"http://{base}"}).status_code == 200
        with connect(f"ws://{base}/v1/realtime?model=emova-nano", origin=f"http://{base}", proxy=None) as talk:  # type: ignore[arg-type]
            assert "session.created" in talk.recv(timeout=20)
        for name in FOREIGN:
            assert httpx.get(url, headers={"Host": bracketed(name)}).status_code == 403
            assert httpx.get(url, headers={"Origin": f"http://{bracketed(name)}"}).status_code == 403
        with pytest.raises(InvalidStatus), connect(f"ws://{base}/v1/realtime", origin="https://evil.com", proxy=None):  # type: ignore[arg-type]
            pass


def test_the_server_on_all_addresses_answers_whoever_has_the_key(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(host="0.0.0.0", port=0, api_key="k", drain_seconds=1)) as server:
        for name in ("127.0.0.1", "127.0.0.2", "192.168.1.5", "emova.example"):
            url, host = f"http://127.0.0.1:{server.port}/v1/models", {"Host": f"{name}:{server.port}"}
            assert httpx.get(url, headers={**host, "Authorization": "Bearer k"}).status_code == 200
            assert httpx.get(url, headers=host).status_code == 401


def test_the_demo_answers_on_each_address(tiny_assistant) -> None:
    from starlette.testclient import TestClient

    from emova_app.demo.page import build_app

    with TestClient(build_app(tiny_assistant)) as client:
        for host in OWN:
            base = f"{bracketed(host)}:7860"
            assert client.get("/", headers={"Host": base}).status_code == 200, host
            answer = client.get("/config", headers={"Host": base, "Origin": f"http://{base}"})
            assert answer.status_code == 200, host
        for host in FOREIGN:
            assert client.get("/", headers={"Host": f"{bracketed(host)}:7860"}).status_code == 400, host
            foreign = {"Host": "127.0.0.1:7860", "Origin": f"http://{bracketed(host)}"}
            assert client.get("/config", headers=foreign).status_code == 403, host
    with TestClient(build_app(tiny_assistant, hosts=("*",), password="open")) as client:
        for host in ("192.168.1.5", "emova.example", "127.0.0.1", "fe80::1"):
            assert client.get("/", headers={"Host": f"{bracketed(host)}:7860"}).status_code == 200, host


@pytest.mark.parametrize("host", OWN)
def test_the_demos_command_asks_for_a_password_only_where_others_come(monkeypatch, host: str) -> None:
    """The check of the port comes after it, so a port that cannot be taken shows that it was passed."""
    from emova.core.errors import InputError
    from emova_app.demo import cli

    monkeypatch.delenv(cli.PASSWORD, raising=False)
    parser = argparse.ArgumentParser()
    cli.register(parser)
    with pytest.raises(InputError, match="no port"):
        cli.run(parser.parse_args(["--host", host, "--port", "0"]))
    with pytest.raises(InputError, match="password"):
        cli.run(parser.parse_args(["--host", "0.0.0.0", "--port", "0"]))
