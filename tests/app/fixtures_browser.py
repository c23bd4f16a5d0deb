"""A real browser with a fake microphone, the demo served on a free port, and what both tell the tests."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "emova" / "checkpoints" / "examples"
FIXTURES = ROOT / "eval" / "emova_eval" / "fixtures"
SCREENSHOTS = ROOT / "app" / "screenshots"
MOST_BYTES = 200_000  # of a screenshot
ENTERED = "() => window.emova && window.emova.entered"
PATIENCE = 120_000  # ms; the machines that run tests are small and busy


def browser_missing() -> str:
    """Why the browser tests cannot run here; empty if they can."""
    try:
        import gradio  # noqa: F401
        import onnxruntime  # noqa: F401
        import playwright  # noqa: F401
        import silero_vad  # noqa: F401
    except ModuleNotFoundError as error:
        return f"the package {error.name} is not installed (pip install 'emova[demo,browser]')"
    if find_chromium() is None:
        return "no chromium on the PATH (Debian: apt install chromium)"
    return ""


def find_chromium() -> str | None:
    """The system's Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Served:
    """The demo with the shipped model, on a free port of the loopback interface."""

    def __init__(self, config: Any = None) -> None:
        import uvicorn

        from emova.assistant import Assistant
        from emova_app.demo.page import DemoConfig, build_app

        config = config or DemoConfig()

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.app = build_app(Assistant.from_pretrained(), config=config)
        self.pages = self.app.state.pages
        self.folder: Path = self.app.state.uploads.root
        self.address = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=port, log_level="error", timeout_graceful_shutdown=2)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    def page_session(self) -> Any:
        """The only open page's session."""
        (session,) = self.pages.all
        return session

    def close(self) -> None:
        """End, and see that it ends."""
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


def wait_for(condition: Callable[..., Any], seconds: float = PATIENCE / 1000) -> Any:
    """The first true value of ``condition()``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def recording(path: Path, *parts: np.ndarray | float) -> Path:
    """A WAV of 48 kHz for the fake microphone: samples at 16 kHz, and silences in s."""
    rng = np.random.default_rng(0)
    quiet = [part if isinstance(part, np.ndarray) else 1e-4 * rng.standard_normal(int(16_000 * part)) for part in parts]
    import soxr

    soundfile.write(path, soxr.resample(np.concatenate(quiet), 16_000, 48_000), 48_000, subtype="PCM_16")
    return path


def question(path: Path = EXAMPLES / "question.wav") -> np.ndarray:
    """A spoken question, ``[T]`` at 16 kHz; the shipped one if no other is named."""
    from emova.speech.audio import load_audio

    return load_audio(path, 16_000)


@contextmanager
def browsing(microphone: Path, camera: bool = True) -> Iterator[Any]:
    """A browser whose microphone plays a WAV once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                *(["--use-fake-ui-for-media-stream"] if camera else ["--deny-permission-prompts"]),
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Any, served: Served, waits: bool = False, **context: Any) -> Iterator[Any]:
    """The demo's page for one visitor; no request may leave this machine, and no script may fail."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 720}, **context}).new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(served.address)
    page.wait_for_selector(".em-wait p >> text=in the line" if waits else ".em-app")
    if not waits:
        page.wait_for_function(ENTERED)
    yield page
    foreign = {url for url in asked if urlsplit(url).scheme in ("http", "https", "ws", "wss")}
    assert {urlsplit(url).hostname for url in foreign} == {"127.0.0.1"}
    assert not faults
    page.context.close()


@contextmanager
def opened(served: Served, microphone: Path, camera: bool = True, **context: Any) -> Iterator[Any]:
    """The demo's page in a browser of its own."""
    try:
        with browsing(microphone, camera) as browser, visiting(browser, served, **context) as page:
            yield page
    finally:
        served.pages.close_all()  # they would be kept for a while, to be found again


def shoot(page: Any, name: str) -> None:
    """Keep a screenshot under ``app/screenshots/`` if its page shows it, small enough for the repository."""
    from PIL import Image

    if f"{name}.png" not in (SCREENSHOTS / "README.md").read_text(encoding="utf-8"):
        return
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    Image.open(path).convert("RGB").quantize(192).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES


def skip_without_browser() -> pytest.MarkDecorator:
    """For a module's ``pytestmark``."""
    missing = browser_missing()
    return pytest.mark.skipif(bool(missing), reason=missing)
