"""The demo over HTTP as one without a browser meets it: its routes, its queue, and who listens where it might fetch."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

# By the names of their functions: all events of the page that take a file, and what of their inputs is the file.
FILE_EVENTS = {"_picture": (None, "FILE"), "_sent": (None, "FILE", "male", "auto", "auto", -1), "from_file": ("FILE",)}
FILE_EVENTS["from_file_1"] = ("FILE", "female", "neutral", "normal")
DONE = "process_completed"


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving_demo(app: Any) -> Iterator[str]:
    """Serves ``app`` in a thread while the block lasts; its address."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=2))
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


def file_data(path: str, **fields: Any) -> dict[str, Any]:
    """What gradio's pages send for an upload."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


class Caller:
    """Speaks gradio's protocol to a demo, as one page of the name ``page``."""

    def __init__(self, address: str, page: str = "a-page") -> None:
        self.address, self.page = address, page
        self.http = httpx.Client(base_url=address, timeout=30)
        self.functions: dict[str, int] = {}

    def function(self, name: str) -> int:
        """The number of an event's function."""
        if not self.functions:
            events = self.http.get("/config").raise_for_status().json()["dependencies"]
            self.functions = {str(event["api_name"]): event["id"] for event in events}
            (load,) = [event["id"] for event in events if any("load" in target for target in event["targets"])]
            self.functions["load"] = load
        return self.functions[name]

    def fire(self, name: str, *data: Any, **fields: Any) -> list[dict[str, Any]]:
        """All that the page is told of an event until it is over."""
        body = {"data": list(data), "fn_index": self.function(name), "session_hash": self.page, **fields}
        joined = self.http.post("/gradio_api/queue/join", json=body).raise_for_status().json()["event_id"]
        told = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.page}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
                    if told[-1]["msg"] == DONE and told[-1]["event_id"] == joined:
                        break
        return told

    def fire_file(self, name: str, file: Any) -> list[dict[str, Any]]:
        """An event of ``FILE_EVENTS`` with this file."""
        return self.fire(name, *(file if value == "FILE" else value for value in FILE_EVENTS[name]))

    def upload(self, data: bytes, name: str = "x.wav", **options: Any) -> httpx.Response:
        """Uploads a file."""
        return self.http.post("/gradio_api/upload", files={"files": (name, data)}, **options)

    def uploaded(self, data: bytes, name: str = "x.wav") -> str:
        """The path that an upload got."""
        return str(self.upload(data, name).raise_for_status().json()[0])


def essence(told: list[dict[str, Any]]) -> list[Any]:
    """What a visitor can learn of what was told: without numbers of events and times."""
    kept = [message for message in told if message["msg"] in ("log", DONE)]
    return [
        (each["log"], each["level"])
        if each["msg"] == "log"
        else (each["success"], json.dumps({**each["output"], "duration": 0, "average_duration": 0}, sort_keys=True))
        for each in kept
    ]


def files_below(folder: Path) -> set[Path]:
    """All files, links and devices below."""
    return {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Raises: AssertionError: it did not come true in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
