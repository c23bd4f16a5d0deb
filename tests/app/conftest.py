"""A server with the shipped model in a thread, on a free port of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.reply.format import ReplyLimits
from emova.speech.audio import AudioLimits
from tests.app.fixtures_browser import Served


class Running:
    """A server that runs."""

    def __init__(self, server: Any, port: int) -> None:
        self.server, self.service, self.port = server, server.service, port
        self.url = f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def nano() -> Assistant:
    """The shipped model; its answers are cut short, for what is tested is the way that they take."""
    limits = ReplyLimits(max_transcript_tokens=24, max_text_tokens=12, max_units=24)
    config = AssistantConfig(audio_limits=AudioLimits(max_seconds=10), reply_limits=limits)
    return Assistant.from_pretrained(config=config)


@contextmanager
def running_server(server: Any, listener: socket.socket) -> Iterator[Running]:
    """Runs a server in a thread while the block lasts."""
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        yield Running(server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Running]]:
    """Runs a server of a configuration while the block lasts."""
    from emova_app.server.config import ServerConfig
    from emova_app.server.running import listen, make_server

    def serve(assistant: Assistant, config: ServerConfig, send_buffer: int = 0) -> AbstractContextManager[Running]:
        listener = listen(config)
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        return running_server(make_server(config, assistant), listener)

    return serve


@pytest.fixture(scope="session")
def running(nano, serving) -> Iterator[Running]:
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, api_key="secret-of-tests", drain_seconds=2)) as server:
        yield server


@pytest.fixture(scope="session")
def client(running) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=running.url, api_key="secret-of-tests", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def tiny_assistant(tiny_checkpoint) -> Assistant:
    """A model without training, whose answers are short."""
    limits = ReplyLimits(max_text_tokens=8, max_units=20)
    return Assistant.from_pretrained(tiny_checkpoint, config=AssistantConfig(reply_limits=limits))


@pytest.fixture(scope="module")
def demo(tiny_assistant) -> Iterator[tuple[Any, str, Path]]:
    """The demo in a thread: its application, its address, its own folder."""
    from emova_app.demo.page import build_app
    from tests.app.fixtures_demo import serving_demo

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # the page sets it; put back at the end
        app = build_app(tiny_assistant)
        with serving_demo(app) as address:
            yield app, address, app.state.uploads.root


@pytest.fixture()
def folder(demo) -> Iterator[Path]:
    """The demo's own folder, put back to what it was."""
    from tests.app.fixtures_demo import files_below

    before = files_below(demo[2])
    yield demo[2]
    for path in files_below(demo[2]) - before:
        path.unlink()
        if path.parent != demo[2]:
            with contextlib.suppress(OSError):  # there is more in it
                path.parent.rmdir()


@pytest.fixture()
def caller(demo, folder) -> Iterator[Any]:
    """One page of the demo, as a program."""
    from tests.app.fixtures_demo import Caller

    app, address, _ = demo
    caller = Caller(address)
    caller.enter()
    yield caller
    caller.http.close()
    app.state.pages.close_all()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The demo for a real browser; nothing that was uploaded stays behind it."""
    demo = Served()
    yield demo
    demo.close()
    assert not demo.folder.exists()
