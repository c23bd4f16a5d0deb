"""The demo over HTTP as one without a browser meets it: its routes, its calls, and who listens where it might fetch."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

# All calls of the page that take a file, by component and function, and what else they are given.
FILE_CALLS: dict[tuple[str, str], dict[str, str]] = {
    ("talk", "show"): {},
    ("talk", "ask"): {"how": "file"},
    ("transcribe", "transcribe"): {},
    ("resynthesise", "resynthesise"): {"voice": "female", "emotion": "neutral", "pitch": "normal"},
}


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving_demo(app: Any) -> Iterator[str]:
    """Serves ``app`` in a thread while the block lasts; its address."""
    import uvicorn

    from emova_app.demo.cli import server_settings

    port = free_port()
    server = uvicorn.Server(server_settings(app, "127.0.0.1", port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the demo did not end"


@contextmanager
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server that must not be called; its address, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


class Caller:
    """One page of a demo, as a program: it uploads files and calls the page's functions."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = httpx.Client(base_url=address, timeout=30)
        self.ticket: str | None = None
        self._components: dict[str, int] = {}

    def component(self, name: str) -> int:
        """The number of a component."""
        if not self._components:
            found = self.http.get("/config").raise_for_status().json()["components"]
            self._components = {str(each["props"].get("elem_id")): each["id"] for each in found}
        return self._components[name]

    def post(self, component: str, function: str, data: Any) -> httpx.Response:
        """Calls a function of a component with any data."""
        body = {
            "component_id": self.component(component), "fn_name": function, "session_hash": "a-page", "data": data,
        }  # fmt: skip
        return self.http.post("/gradio_api/component_server", json=body)

    def call(self, function: str, component: str = "talk", **given: Any) -> dict[str, Any]:
        """The answer of a function, in the name of this page."""
        if self.ticket is not None and component == "talk":
            given = {"ticket": self.ticket, **given}
        answer = self.post(component, function, given).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer

    def enter(self) -> dict[str, Any]:
        """Take a place."""
        entered = self.call("enter")
        self.ticket = entered.get("ticket")
        return entered

    def call_file(self, call: tuple[str, str], path: Any, **more: Any) -> dict[str, Any]:
        """A call of ``FILE_CALLS`` with this file."""
        component, function = call
        return self.call(function, component, **FILE_CALLS[call], path=path, **more)

    def upload(self, data: bytes, name: str = "x.wav", **options: Any) -> httpx.Response:
        """Uploads a file."""
        return self.http.post("/gradio_api/upload", files={"files": (name, data)}, **options)

    def uploaded(self, data: bytes, name: str = "x.wav") -> str:
        """The path that an upload got."""
        return str(self.upload(data, name).raise_for_status().json()[0])


def files_below(folder: Path) -> set[Path]:
    """All files, links and devices below."""
    return {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Raises: AssertionError: it did not come true in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
