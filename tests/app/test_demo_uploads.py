"""What the demo's uploads may take: not the disk, not by another page, and nothing after a kill."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
pytest.importorskip("onnxruntime", reason="pip install 'emova[demo]'")
pytest.importorskip("silero_vad", reason="pip install 'emova[demo]'")

from tests.app.fixtures_browser import EXAMPLES
from tests.app.fixtures_demo import (
    FILE_CALLS,
    Caller,
    files_below,
    free_port,
    serving_demo,
    wait_until,
)
from tests.app.test_server_connections import PROMPT, connected, eventually

SPOKEN = (EXAMPLES / "question.wav").read_bytes()
PHOTO = (EXAMPLES / "photo.png").read_bytes()
ELSEWHERE = "http://evil.example"


# --- other pages, and the disk ----------------------------------------------------------------------------------------
FOREIGN = (
    {"origin": ELSEWHERE},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://localhost"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"origin": "http://[::1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
)


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_page_changes_nothing(caller, folder, headers):
    before = files_below(folder)
    assert caller.upload(PHOTO, "x.png", headers=headers).status_code == 403
    for path in ("component_server", "component_server/", "queue/join", "process_recording"):
        simple = {**headers, "content-type": "text/plain"}
        response = caller.http.post(f"/gradio_api/{path}", content='{"data": []}', headers=simple)
        assert response.status_code == 403 and "access-control-allow-origin" not in response.headers
    for path in ("/login", "/gradio_api/anything"):
        assert caller.http.post(path, headers=headers, data={"username": "a", "password": "b"}).status_code == 403
    for path in ("/config", f"/gradio_api/file={folder}/a/b"):
        assert caller.http.get(path, headers=headers).status_code == 403
    assert files_below(folder) == before


def test_the_own_page_and_a_link_to_it_are_let_in(caller):
    for headers in ({}, {"origin": caller.address, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert caller.upload(PHOTO, "x.png", headers=headers).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert caller.http.get("/", headers=link).status_code == 200
    for frame in ({**link, "sec-fetch-dest": "iframe"}, {**link, "sec-fetch-mode": "no-cors"}):
        assert caller.http.get("/", headers=frame).status_code == 403


@pytest.mark.parametrize(
    "origin, host, same",
    [
        ("https://demo.example", "demo.example", True),
        ("https://demo.example", "demo.example:443", True),
        ("https://DEMO.example:8443", "demo.example:8443", True),
        ("https://demo.example", "demo.example:8443", False),
        ("https://demo.example.evil", "demo.example", False),
        ("http://[::1]:7860", "[::1]:7860", True),
        ("file://", "demo.example", False),
        ("", "", False),
    ],
)
def test_the_own_page_is_known_by_its_address(origin, host, same):
    from emova_app.demo.uploads.middleware import from_own_page

    headers = [(b"origin", origin.encode()), (b"host", host.encode())]
    assert from_own_page({"type": "http", "method": "POST", "path": "/", "headers": headers}) is same


def test_uploads_have_a_quota_and_an_age(tmp_path):
    import io

    from emova_app.demo.uploads.files import Store, UploadLimits

    store = Store(tmp_path, UploadLimits(max_bytes=1000, max_files=5, max_age_seconds=100))
    paths = []
    for number in range(20):
        paths.append(Path(store.save("x", io.BytesIO(bytes(300)))))
        os.utime(paths[-1], (time.time() - 50 + number,) * 2)
        kept = files_below(tmp_path)
        assert kept == set(paths[-3:])  # the oldest give way
        assert {path.parent for path in kept} == set(tmp_path.iterdir())
    for number in range(20):
        paths.append(Path(store.save("x", io.BytesIO(b"1"))))
        os.utime(paths[-1], (time.time() - 20 + number,) * 2)
    assert files_below(tmp_path) == set(paths[-5:])
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "old").write_bytes(b"1")
    (tmp_path / "link").symlink_to(outside)
    os.utime(outside / "old", (0, 0))
    os.utime(paths[-2], (time.time() - 101,) * 2)
    store.forget_old()
    assert files_below(tmp_path) == {*paths[-5:-2], paths[-1], tmp_path / "link"} and (outside / "old").exists()


def test_uploads_over_http_have_a_quota(tiny_assistant):
    from emova_app.demo.page import DemoConfig, build_app
    from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES, UploadLimits

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        limits = UploadLimits(max_bytes=3 * MAX_UPLOAD_BYTES, max_files=9)
        app = build_app(tiny_assistant, config=DemoConfig(uploads=limits))
        with serving_demo(app) as address:
            folder, caller = app.state.uploads.root, Caller(address)
            for number in range(30):
                assert Path(caller.uploaded(bytes(MAX_UPLOAD_BYTES if number < 10 else 5))).exists()
                found = files_below(folder)
                assert len(found) <= 9 and sum(path.stat().st_size for path in found) <= limits.max_bytes
        assert not folder.parent.exists()


def test_bodies_are_bounded_and_nothing_is_left_of_them(caller, folder):
    from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES

    def endless():
        yield b'--b\r\ncontent-disposition: form-data; name="files"; filename="x"\r\n\r\n'
        for _ in range(20):
            yield bytes(MAX_UPLOAD_BYTES // 16)

    before = files_below(folder)
    form = {"content-type": "multipart/form-data; boundary=b"}
    # It is refused before all was sent, and whoever goes on sending hears so none the less.
    assert caller.http.post("/gradio_api/upload", content=endless(), headers=form).status_code == 413
    for content, headers in (
        (b"", form),
        (b"--b\r\n", form),
        (b"--b--\r\n", form),
        (b"--c\r\n\r\n", form),
        (b'--b\r\ncontent-disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n', form),
        (b'--b\r\ncontent-disposition: form-data; name="other"; filename="x"\r\n\r\nx\r\n--b--\r\n', form),
        (b"x", {"content-type": "multipart/form-data"}),
        (b"x", {"content-type": "text/plain"}),
        (b"x", {}),
    ):
        response = caller.http.post("/gradio_api/upload", content=content, headers=headers)
        assert response.status_code == 400 and len(response.text) < 100, content
    for path in ("component_server", "component_server/"):
        assert caller.http.post(f"/gradio_api/{path}", content=bytes(50 << 20)).status_code == 413
    assert files_below(folder) == before


def test_a_visitor_who_leaves_in_the_middle_of_an_upload_leaves_nothing(caller, folder):
    before, address = files_below(folder), httpx.URL(caller.address)
    for _ in range(20):
        with socket.create_connection((address.host, address.port)) as half:
            half.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5000000\r\n"
                b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
                b'content-disposition: form-data; name="files"; filename="x"\r\n\r\n' + bytes(100_000)
            )
    wait_until(lambda: caller.upload(PHOTO).status_code == 200)  # their places are free again
    wait_until(lambda: len(files_below(folder)) == len(before) + 1)


def test_two_demos_in_one_process_keep_their_uploads_apart(tiny_assistant):
    from emova_app.demo.page import build_app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        with serving_demo(build_app(tiny_assistant)) as first, serving_demo(build_app(tiny_assistant)) as second:
            callers = Caller(first), Caller(second)
            for own, other in (callers, callers[::-1]):
                path = own.uploaded(PHOTO, "x.png")
                assert other.http.get(f"/gradio_api/file={path}").status_code == 404
                assert own.http.get(f"/gradio_api/file={path}").content == PHOTO


def test_the_routes_of_uploads_ask_for_the_password(tiny_assistant):
    from emova_app.demo.page import build_app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        app = build_app(tiny_assistant, password="open")
        with serving_demo(app) as address:
            caller = Caller(address)
            folder = app.state.uploads.root
            assert caller.upload(PHOTO).status_code == 401
            assert caller.http.get(f"/gradio_api/file={folder}/a/b").status_code == 401
            assert caller.http.post("/login", data={"username": "emova", "password": "wrong"}).status_code == 400
            caller.http.post("/login", data={"username": "emova", "password": "open"}).raise_for_status()
            path = caller.uploaded(PHOTO, "x.png")
            assert caller.http.get(f"/gradio_api/file={path}").content == PHOTO


# --- the folder -------------------------------------------------------------------------------------------------------
class Process:
    """``emova demo`` as a process of its own."""

    def __init__(self, checkpoint: Path, temporary: Path) -> None:
        self.port = free_port()
        words = ["demo", "--model", str(checkpoint), "--port", str(self.port), "--quiet"]
        environment = {**os.environ, "TMPDIR": str(temporary), "GRADIO_TEMP_DIR": ""}
        self.process = subprocess.Popen([sys.executable, "-m", "emova", *words], env=environment)
        self.address = f"http://127.0.0.1:{self.port}"
        try:
            wait_until(self.answers, 90)
        except BaseException:
            self.process.kill()
            raise

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(self.address).status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.timeout(300)
def test_a_device_holds_nobody_up_and_a_killed_demo_is_tidied_up(tiny_checkpoint, tmp_path):
    temporary, precious = tmp_path / "t", tmp_path / "precious"
    temporary.mkdir()
    precious.mkdir()
    first = Process(tiny_checkpoint, temporary)
    try:
        caller = Caller(first.address)
        left = Path(caller.uploaded(PHOTO))
    finally:
        first.process.kill()
        first.process.wait()
    own = left.parents[2]
    assert left.exists() and own.parent == temporary and own.name.startswith("emova-demo-")
    # Names like the demo's that are not its own: without its lock, of others, links, with anything else for a lock.
    keep = [precious / "file", temporary / "emova-demo-other" / "file", temporary / "notes" / ".emova-demo.lock"]
    keep += [temporary / f"emova-demo-{kind}" / "file" for kind in ("full", "open", "pipe", "linked")]
    for path in keep:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        path.write_bytes(b"")
    (precious / ".emova-demo.lock").write_bytes(b"")
    (temporary / "emova-demo-full" / ".emova-demo.lock").write_bytes(b"somebody's")
    (temporary / "emova-demo-open" / ".emova-demo.lock").write_bytes(b"")
    (temporary / "emova-demo-open").chmod(0o755)
    os.mkfifo(temporary / "emova-demo-pipe" / ".emova-demo.lock")
    (temporary / "emova-demo-linked" / ".emova-demo.lock").symlink_to(precious / ".emova-demo.lock")
    (temporary / "emova-demo-link").symlink_to(precious)
    (own / "inside").symlink_to(precious)
    terminal, device = pty.openpty()
    os.mkfifo(tmp_path / "fifo")
    started: list[Process] = []
    try:
        started.append(Process(tiny_checkpoint, temporary))
        assert not own.exists() and all(path.exists() for path in keep)
        started.append(Process(tiny_checkpoint, temporary))  # beside it; a folder in use stays
        caller = Caller(started[0].address)
        caller.enter()
        for call in FILE_CALLS:
            for path in (os.ttyname(device), str(tmp_path / "fifo"), "/dev/zero"):
                assert "did not arrive" in caller.call_file(call, path)["error"]
        assert "html" in caller.call_file(("transcribe", "transcribe"), caller.uploaded(SPOKEN))
        for each in started:
            each.process.send_signal(signal.SIGTERM)
            each.process.wait(20)
    finally:
        os.close(terminal)
        os.close(device)
        for each in started:
            each.process.kill()
    assert all(path.exists() for path in keep)
    left_over = {path.name for path in temporary.iterdir() if path.name.startswith("emova-demo-")}
    assert left_over == {f"emova-demo-{kind}" for kind in ("other", "full", "open", "pipe", "linked", "link")}


@pytest.mark.parametrize("sent", ["", "GET / HTTP/1.1\n", "POST /gradio_api/upload HTTP/1.1\nContent-Length: 9\n\n1"])
def test_connections_that_ask_nothing_keep_nobody_out(demo, sent):
    from emova_app.server.config import ServerConfig

    address = demo[1]
    with connected(int(address.rpartition(":")[2]), 300, sent, "127.0.0.9") as links:
        started = time.monotonic()
        assert httpx.get(address, timeout=PROMPT).status_code == 200
        assert time.monotonic() - started < PROMPT

        def left() -> int:
            alive = 0
            for link in links:
                link.setblocking(False)
                try:
                    alive += bool(link.recv(1 << 16))
                except BlockingIOError:
                    alive += 1
                except OSError:
                    pass
            return alive

        assert eventually(lambda: left() <= ServerConfig().max_connections_per_address)
