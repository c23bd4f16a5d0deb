"""What one visitor can take of the demo: a share, whatever it invents; a full disk is told as such."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio.routes import App
from starlette.routing import Mount

pytest.importorskip("gradio")

from emova_app.demo.uploads.middleware import CALL
from emova_app.demo.visitors import VISITOR, Share
from tests.app.fixtures_demo import Caller, wait_until


def test_a_share_is_kept_for_each_address() -> None:
    share = Share(2, 3)
    with share.taken("a") as one, share.taken("a") as two, share.taken("a") as three, share.taken("b") as four:
        assert (one, two, three, four) == (True, True, False, True)
        with share.taken("c") as five:
            assert not five  # all together
    assert not share._under_way
    with share.taken("a") as again:
        assert again


def test_a_name_that_a_caller_gives_itself_is_not_kept(demo, caller) -> None:
    (inner,) = [route.app for route in demo[0].router.routes if isinstance(route, Mount)]
    assert isinstance(inner, App)
    before = len(inner.state_holder.session_data)
    body = {"component_id": caller.component("talk"), "fn_name": "settle", "data": {}}
    for number in range(20):
        for slash in ("", "/"):
            caller.http.post(
                CALL + slash, json={**body, "session_hash": f"{number}" + "x" * (2 << 20)}
            ).raise_for_status()
    assert len(inner.state_holder.session_data) == before


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b'{"component_id": [], "fn_name": {}}', b"[" * 100, b"{}," * 1_000_000]
)
def test_a_forged_call_is_refused(caller, body: bytes) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind} if kind else {}
        assert caller.http.post(CALL, content=body, headers=headers).status_code in (400, 404, 413)


def test_one_visitor_does_not_take_all_threads(demo, caller, monkeypatch) -> None:
    """Another one is heard while a hundred calls of one are under way."""
    from emova_app.demo import call_route

    app, address, _ = demo
    working, release = [], threading.Event()
    scheduler = app.state.pages.scheduler

    def slow(*_: object) -> list[int]:
        working.append(1)
        release.wait(30)
        return []

    monkeypatch.setattr(scheduler.assistant, "listen", slow)
    who = lambda request: request.headers.get("x-test-visitor", "a")  # noqa: E731
    monkeypatch.setattr(call_route, "visitor_of", who)

    def transcribe(_: int) -> dict:
        return caller.post("transcribe", "transcribe", {"example": True}).json()

    caller.component("talk")
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(transcribe, number) for number in range(60)]
        try:
            wait_until(lambda: working and sum(each.done() for each in asked) >= 20)
            refused = [each.result()["error"] for each in asked if each.done()]
            assert "Too many requests at once; try again in a moment" in refused
            other = Caller(address)
            other.component("talk")
            other.http.headers["x-test-visitor"] = "b"
            start = time.monotonic()
            assert "ticket" in other.enter() and time.monotonic() - start < 5
        finally:
            release.set()


def test_one_visitor_does_not_end_the_readings_of_others(tiny_assistant, monkeypatch, tmp_path) -> None:
    from emova.core.errors import BusyError
    from emova.session.config import SchedulerConfig
    from emova.session.scheduler import Scheduler
    from emova_app.demo import tools
    from emova_app.demo.uploads.files import Store

    release = threading.Event()
    service = tools.ToolService(Scheduler(tiny_assistant, SchedulerConfig(max_sessions=8)), Store(tmp_path))
    monkeypatch.setattr(service, "_alone", lambda work: release.wait(30) and work())
    wish = {"text": "Hello.", "voice": "female", "emotion": "neutral", "pitch": "normal"}

    def speak(visitor: str) -> str:
        token = VISITOR.set(visitor)
        try:
            return service.speak(wish)["stream"]
        finally:
            VISITOR.reset(token)

    first = speak("a")
    for _ in range(tools.STREAMS_OF_ONE):
        speak("b")
    with pytest.raises(BusyError):
        speak("b")
    release.set()
    wait_until(lambda: all(stream.ended for stream in service._streams.values()))
    assert dict(asyncio.run(service.listen({"stream": first, "position": 0})))["html"]
    for _ in range(3 * tools.MAX_STREAMS):
        speak("a")
        wait_until(lambda: all(stream.ended for stream in service._streams.values()))
    assert len(service._streams) <= tools.MAX_STREAMS


@pytest.fixture()
def small_disk(tmp_path: Path):
    """A disk of one MiB."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if made.returncode:
        pytest.skip("this user may not mount a disk")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("where", ["the demo's folder", "the temporary folder"])
def test_a_full_disk_is_507(caller, demo, folder, small_disk, monkeypatch, where: str) -> None:
    data = bytes(3 << 20)
    with monkeypatch.context() as patched:
        if where == "the demo's folder":
            subprocess.run(["mount", "--bind", small_disk, folder], check=True)
        else:
            patched.setattr(tempfile, "tempdir", str(small_disk))
        try:
            refused = caller.upload(data)
            assert refused.status_code == 507 and "disk is full" in refused.text, refused.text
            assert str(small_disk) not in refused.text and not list(small_disk.iterdir())
            small = caller.upload(b"small")
            assert small.status_code == 200
        finally:
            if where == "the demo's folder":
                subprocess.run(["umount", "-l", folder], check=True)
    assert caller.upload(data).status_code == 200
