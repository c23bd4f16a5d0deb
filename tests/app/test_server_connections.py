"""What a client can take from others without a key, and without asking anything: nothing that they would notice."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")

MODEL = "emova-nano"
WISH = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PROMPT = 5.0  # s within which others are answered, whatever goes on


def status(line: str) -> int:
    """MiB that a line of this process's status tells."""
    found = re.search(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) >> 10


def resident() -> int:
    """MiB that this process holds."""
    return status("VmRSS")


class Peak:
    """The most that this process holds while a block lasts, in MiB beyond what it held before."""

    def __enter__(self) -> Peak:
        self._before = resident()
        Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        self.grown = status("VmHWM") - self._before


def eventually(holds, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def connected(port: int, count: int, text: str = "", host: str = "127.0.0.1"):
    """So many connections from ``host``, each of which has sent ``text``."""
    with contextlib.ExitStack() as stack:
        links = []
        for _ in range(count):
            link = stack.enter_context(socket.socket())
            link.settimeout(20)
            link.bind((host, 0))
            link.connect(("127.0.0.1", port))
            link.sendall(text.replace("\n", "\r\n").encode())
            links.append(link)
        yield links


def prompt_answers(server, key: str = "") -> None:
    """Health and an answer come at once."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    started = time.monotonic()
    assert httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=PROMPT).status_code == 200
    assert time.monotonic() - started < PROMPT
    assert httpx.post(f"{server.url}/chat/completions", json=WISH, headers=headers, timeout=60).status_code == 200


@pytest.fixture(scope="module")
def open_server(nano, serving):
    """Without a key, and with its usual limits."""
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, drain_seconds=1)) as server:
        yield server


POST = "POST /v1/chat/completions HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"


# --- connections ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("count", "text"),
    [
        (300, ""),
        (300, "GET /healthz HTT"),
        (40, POST + "Content-Length: 100\n\n{"),
        (300, POST + "Content-Length: 100\n\n{"),
        (300, "GET /healthz HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 9\n\n"),
    ],
    ids=["idle", "half a head", "40 slow bodies", "300 slow bodies", "slow bodies of others"],
)
def test_waiting_connections_keep_nobody_out(open_server, count: int, text: str) -> None:
    with connected(open_server.port, count, text):
        prompt_answers(open_server)
        assert eventually(lambda: not open_server.service.queue.inside, PROMPT), "a place is a whole request's"
        assert len(open_server.service.connections) <= open_server.service.config.max_connections_per_address + 1


def test_connections_without_a_key_keep_nobody_out(running) -> None:
    slow = POST + "Authorization: Bearer wrong\nContent-Length: 100000\n\n{"
    with connected(running.port, 150, slow), connected(running.port, 200):
        prompt_answers(running, "secret-of-tests")


def test_many_addresses_keep_nobody_out(open_server) -> None:
    """More connections than there may be in all, each address below its own bound."""
    with contextlib.ExitStack() as stack:
        for number in range(2, 8):
            stack.enter_context(connected(open_server.port, 100, host=f"127.0.0.{number}"))
        prompt_answers(open_server)
        assert len(open_server.service.connections) <= open_server.service.config.max_connections + 1


def test_who_has_a_place_is_not_put_out(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    config = ServerConfig(port=0, drain_seconds=1, max_connections=8, max_connections_per_address=4)
    with serving(nano, config) as server, ThreadPoolExecutor(1) as pool:
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as talk:
            answer = pool.submit(httpx.post, f"{server.url}/chat/completions", json=WISH, timeout=60)
            assert eventually(lambda: server.service.queue.inside)
            with connected(server.port, 50):
                assert answer.result().status_code == 200
                talk.send('{"type": "response.cancel"}')
                assert json.loads(talk.recv())["type"] == "session.created"
                assert json.loads(talk.recv())["type"] == "error"
        assert eventually(lambda: not len(server.service.connections))


def test_a_put_out_request_is_told(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    config = ServerConfig(port=0, drain_seconds=1, max_connections_per_address=4)
    with serving(nano, config) as server, connected(server.port, 1, POST + "Content-Length: 100\n\n{") as links:
        assert eventually(lambda: len(server.service.bodies))
        with connected(server.port, 8):
            told = b""
            while piece := links[0].recv(4000):
                told += piece
    assert told.startswith(b"HTTP/1.1 503") and b"retry-after" in told and b'"error"' in told


@pytest.mark.parametrize("status", [401, 413])
def test_a_refused_body_does_not_go_on_forever(nano, serving, status: int) -> None:
    """Without a key, or too large: a body that comes drop by drop after the refusal does not hold its connection."""
    from emova_app.server.config import ServerConfig

    key = "" if status == 413 else "secret-of-tests"
    config = ServerConfig(port=0, api_key=key, header_seconds=1, body_seconds=1, drain_seconds=1)
    length = f"Content-Length: {26 << 20 if status == 413 else 100_000}\n\n{{"
    with serving(nano, config) as server, connected(server.port, 1, POST + length) as links:
        assert links[0].recv(4000).startswith(b"HTTP/1.1 %d" % status)
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < 10:
                links[0].sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() - started < 5


def test_a_body_that_stops_is_cut(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    config = ServerConfig(port=0, body_stall_seconds=0.5, drain_seconds=1)
    with serving(nano, config) as server, connected(server.port, 1, POST + "Content-Length: 100\n\n{") as links:
        started = time.monotonic()
        assert links[0].recv(4000).startswith(b"HTTP/1.1 408") and time.monotonic() - started < 5


# --- memory of bodies -------------------------------------------------------------------------------------------------
def test_all_bodies_together_are_bounded(nano, serving) -> None:
    """Large bodies that never end hold no more than their share, and a client that sends all of its own is heard."""
    from emova_app.server.config import ServerConfig

    config = ServerConfig(port=0, max_bodies_bytes=30 << 20, drain_seconds=1)
    filling = b'{"x": "' + b"A" * (12 << 20)
    with serving(nano, config) as server:
        with connected(server.port, 40, POST + f"Content-Length: {24 << 20}\n\n") as links, Peak() as peak:
            for link in links:
                with contextlib.suppress(OSError):
                    link.sendall(filling)
            assert server.service.bodies.held <= 30 << 20
            sound = base64.b64encode(bytes(6 << 20)).decode()
            wish = {**WISH, "unknown": sound}
            assert httpx.post(f"{server.url}/chat/completions", json=wish, timeout=60).status_code == 200
        assert peak.grown < 300, "forty times twelve were sent"
        assert eventually(lambda: not server.service.bodies.held and not len(server.service.bodies))


# --- JSON -------------------------------------------------------------------------------------------------------------
BASE64 = "A" * (20 << 20)
HEAVY = {
    "objects": "[" + "{}," * (8 << 20) + "{}]",
    "numbers": "[" + "1," * (12 << 20) + "1]",
    "strings": "[" + '"",' * (8 << 20) + '""]',
    "names": "{" + ",".join(f'"{number:x}":0' for number in range(2_000_000)) + "}",
    "text": '"' + "word " * (4 << 20) + '"',
    "an emoji in base64": '"' + BASE64 + '\\ud83d\\ude00"',
    "quotes": '"' + '\\"' * (10 << 20) + '"',
    "backslashes": '"' + "\\\\" * (10 << 20) + '\\""',
    "spaces": " " * (20 << 20) + "1",
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_json_is_refused_lightly(open_server, name: str) -> None:
    """It is told in one line, costs no more than its bytes, and others are answered meanwhile."""
    body = (
        '{"model": "emova-nano", "messages": [{"role": "user", "content": "Hi"}], "x": ' + HEAVY[name] + "}"
    ).encode()
    headers = {"content-type": "application/json"}
    for path in ("chat/completions", "audio/speech"):
        with Peak() as peak, ThreadPoolExecutor(4) as pool:
            asked = pool.submit(httpx.post, f"{open_server.url}/{path}", content=body, headers=headers, timeout=60)
            slowest = 0.0
            while not asked.done():
                started = time.monotonic()
                assert httpx.get(f"http://127.0.0.1:{open_server.port}/healthz", timeout=60).status_code == 200
                slowest = max(slowest, time.monotonic() - started)
        answer = asked.result()
        assert answer.status_code == 413, answer.text
        assert "apart from pictures and sound" in answer.json()["error"]["message"] and len(answer.text) < 300
        assert peak.grown < 170, "its bytes, in the client's hands and in the server's"
        assert slowest < PROMPT


def test_large_media_are_no_heavy_json(open_server) -> None:
    """Base64 of many megabytes is taken, in whatever field, with escaped slashes too; and reaches its decoder whole."""
    from emova_app.server.http.json_body import parse_json

    data = base64.b64encode(np.random.default_rng(0).bytes(9 << 20)).decode()
    for url in (data, f"data:image/png;base64,{data}", f"data:audio/wav;codecs=1;base64,{data}"):
        value = {"a": [url, {"b": url, "c": "\u00e9\U0001f600"}], "data": "data:text/plain,x", "n": [1.5, None, True]}
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value).replace("/", "\\/")):
            assert parse_json(text.encode()) == value
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]
    wish = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    refused = httpx.post(f"{open_server.url}/chat/completions", json=wish, timeout=60)
    assert refused.status_code == 400 and "not a picture" in refused.json()["error"]["message"]


def test_json_is_read_as_the_library_reads_it() -> None:
    """Whatever is small: the same value, or an error where the library has one."""
    from emova_app.server.errors import ApiError
    from emova_app.server.http.json_body import parse_json

    rng = np.random.default_rng(0)
    alphabet = [
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "1",
        "-",
        "a",
        "\\u0041",
        "\\ud800",
        "null",
        "\u00e9",
        "\n",
    ]
    texts = ["".join(rng.choice(alphabet, rng.integers(1, 12))) for _ in range(20_000)]
    texts += [
        '{"a": [1, {"b": "\\"\\\\"}], "\\"": "\\u00e9"}',
        '"\\\\"',
        '"\\\\\\""',
        "[]",
        '""',
        "\ufeff1",
        "1" * 5000,
    ]
    seen = 0
    for text in texts:
        try:
            wanted = json.loads(text.encode())
        except ValueError:
            with pytest.raises(ApiError) as refused:
                parse_json(text.encode())
            assert refused.value.status == 400
        else:
            seen += 1
            assert parse_json(text.encode()) == wanted or wanted != wanted
    assert seen > 100
    with pytest.raises(ApiError):
        parse_json(b'"\xff"')
    with pytest.raises(ApiError, match="deep"):
        parse_json(b"[" * 65 + b"]" * 65)
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_a_form_that_is_no_upload_is_not_parsed(open_server) -> None:
    """24 MB of separators kept the event loop busy for nine seconds."""
    body, headers = b"&" * (24 << 20), {"content-type": "application/x-www-form-urlencoded"}
    started = time.monotonic()
    answer = httpx.post(f"{open_server.url}/audio/transcriptions", content=body, headers=headers, timeout=60)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "another"},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]}]},
        {"messages": 7},
        {"audio": {"voice": "nobody"}, "stream": True},
        {"stream": True, "max_tokens": 0},
    ],
    ids=["model", "sound", "wrong", "voice", "limit"],
)
def test_a_refused_request_is_freed_at_once(open_server, fields: dict) -> None:
    """Without the garbage collector: no error holds the request that it ended."""
    body = json.dumps({**WISH, "unknown": "A" * (10 << 20), **fields}).encode()
    headers = {"content-type": "application/json"}
    gc.collect()
    gc.disable()
    try:
        with Peak() as peak:
            for _ in range(20):
                answer = httpx.post(f"{open_server.url}/chat/completions", content=body, headers=headers, timeout=60)
                assert 400 <= answer.status_code < 500
    finally:
        gc.enable()
    assert peak.grown < 120, "twenty times ten were sent"


def test_one_client_has_one_address() -> None:
    from emova_app.addresses import address_of
    from emova_app.server.http.connections import Connections

    assert address_of("2001:db8:1:2::5") == address_of("2001:db8:1:2:ffff::1") != address_of("2001:db8:1:3::5")
    assert address_of("::ffff:10.0.0.1") == address_of("10.0.0.1") != address_of("10.0.0.2")
    connections, out = Connections(most=4, most_of_one=2), []

    def enter(host: str, port: int) -> None:
        connections.enter((host, port), lambda: out.append(port))

    enter("10.0.0.1", 1)
    with connections.placed(("10.0.0.1", 1)):
        enter("10.0.0.1", 2)
        enter("10.0.0.1", 3)
        assert out == [2], "the oldest that has no place"
    enter("10.0.0.1", 4)
    assert out == [2, 3], "who had a place waits anew"
    for port in (5, 6):
        enter("10.0.0.2", port)
    enter("10.0.0.3", 7)
    assert out[:2] == [2, 3] and len(out) == 3 and len(connections) == 4
    for host, port in (("10.0.0.1", 1), ("10.0.0.1", 4), ("10.0.0.2", 5), ("10.0.0.2", 6), ("10.0.0.3", 7)):
        connections.leave((host, port))
    assert not len(connections)


def test_a_server_makes_no_thread_after_its_start(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    def threads() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate()}

    with serving(nano, ServerConfig(port=0, max_active=2, max_realtime=1)) as server:
        before = threads()
        with ThreadPoolExecutor(8) as pool:
            wishes = [{**WISH, "unknown": "x" * 40_000}, WISH]  # large ones are parsed in a thread
            list(pool.map(lambda n: httpx.post(f"{server.url}/chat/completions", json=wishes[n % 2], timeout=60),
                          range(24)))  # fmt: skip
        assert threads() <= before
