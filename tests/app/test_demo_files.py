"""What an attacker of the demo gets: no file that was not uploaded, no disk, no place that is others'."""

from __future__ import annotations

import importlib.util
import os
import pty
import shutil
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
pytest.importorskip("onnxruntime", reason="pip install 'emova[demo]'")
pytest.importorskip("silero_vad", reason="pip install 'emova[demo]'")

from tests.app.fixtures_browser import EXAMPLES
from tests.app.fixtures_demo import FILE_CALLS, canary, files_below

SPOKEN = (EXAMPLES / "question.wav").read_bytes()
PHOTO = (EXAMPLES / "photo.png").read_bytes()
HEIC = (Path(__file__).parents[1] / "fixtures/cases/photo.heic").read_bytes()
ELSEWHERE = "http://evil.example"


# --- files that were not uploaded -------------------------------------------------------------------------------------
def planted(folder: Path, outside: Path) -> dict[str, str]:
    """Paths that are no uploads, by what lies there."""
    outside.mkdir()
    (outside / "secret.wav").write_bytes(SPOKEN)
    (outside / "secret.png").write_bytes(PHOTO)
    os.mkfifo(outside / "fifo")
    for name in ("link", "hard", "pipe", "folder"):
        (folder / name).mkdir()
    (folder / "link" / "x.wav").symlink_to(outside / "secret.wav")
    os.link(outside / "secret.png", folder / "hard" / "x.png")
    os.mkfifo(folder / "pipe" / "x.wav")
    (folder / "folder" / "x.wav").mkdir()
    (folder / "linked").symlink_to(outside)
    return {
        "sound": str(outside / "secret.wav"),
        "picture": str(outside / "secret.png"),
        "text": "/etc/passwd",
        "unreadable": "/etc/shadow",
        "folder elsewhere": "/etc",
        "FIFO": str(outside / "fifo"),
        "device": "/dev/zero",
        "own terminal": "/dev/tty",
        "memory": "/proc/self/environ",
        "relative": os.path.relpath(outside / "secret.wav"),
        "around": f"{folder}/{os.path.relpath(outside, folder)}/secret.wav",
        "around from inside": f"{folder}/link/{os.path.relpath(outside, folder / 'link')}/secret.wav",
        "beside": f"{folder}x/link/x.wav",
        "link": f"{folder}/link/x.wav",
        "linked folder": f"{folder}/linked/secret.png",
        "second name": f"{folder}/hard/x.png",
        "FIFO inside": f"{folder}/pipe/x.wav",
        "folder inside": f"{folder}/folder/x.wav",
        "the folder": str(folder),
        "lock": f"{folder.parent}/.emova-demo.lock",
        "file address": f"file://{outside}/secret.wav",
        "zero byte": f"{folder}/link/x.wav\0",
        "nothing": "",
        "stream": "/gradio_api/stream/x",
    }


@pytest.mark.parametrize("call", FILE_CALLS, ids=".".join)
@pytest.mark.timeout(180)
def test_a_file_that_was_not_uploaded_is_as_good_as_none(caller, folder, tmp_path, call):
    missing = caller.call_file(call, f"{folder}/{'0' * 32}/x.wav")
    assert set(missing) == {"error"} and "did not arrive" in missing["error"]
    paths = planted(folder, tmp_path / "outside")
    outside = files_below(tmp_path)
    terminal, device = pty.openpty()
    try:
        paths["terminal"] = os.ttyname(device)
        for what, path in paths.items():
            assert caller.call_file(call, path) == missing, what
    finally:
        os.close(terminal)
        os.close(device)
        shutil.rmtree(folder / "folder")
        (folder / "linked").unlink()
    assert files_below(tmp_path) == outside


@pytest.mark.parametrize("call", FILE_CALLS, ids=".".join)
def test_nothing_but_a_path_is_a_file(caller, folder, tmp_path, call):
    (tmp_path / "secret.wav").write_bytes(SPOKEN)
    nowhere, secret = f"{folder}/{'1' * 32}/x.wav", str(tmp_path / "secret.wav")
    before = files_below(folder)
    with canary() as (address, asked):
        for forged in (
            f"{address}/x.wav",
            f"file://{secret}",
            {"path": secret},
            {"path": secret, "meta": {"_type": "gradio.FileData"}},
            {"path": nowhere, "url": f"{address}/x.wav", "meta": {"_type": "gradio.FileData"}},
            [secret],
            {"files": [secret]},
            3,
            True,
        ):
            told = caller.call_file(call, forged, url=f"{address}/x.wav", orig_name=secret, is_stream=True)
            assert set(told) == {"error"} and "secret" not in told["error"], forged
            assert "no file came" in told["error"] or "did not arrive" in told["error"], forged
        assert not asked
    assert files_below(folder) == before


def test_gradio_s_own_events_take_nothing(demo):
    page = demo[0].routes[-1].app.get_blocks()
    assert page.has_launched and not page.fns


def test_what_was_uploaded_is_used_and_gone(caller, folder):
    before = files_below(folder)
    for call in FILE_CALLS:
        data, name = (PHOTO, "photo.png") if call == ("talk", "show") else (SPOKEN, "x.wav")
        path = caller.uploaded(data, name)
        assert Path(path).exists()
        told = caller.call_file(call, path)
        assert "error" not in told and not Path(path).exists(), (call, told)
        assert "did not arrive" in caller.call_file(call, path)["error"]
    assert caller.call("show") == {"picture": ""} and files_below(folder) == before


def test_a_file_that_cannot_be_read_is_gone_too(caller, folder):
    before = files_below(folder)
    for call in FILE_CALLS:
        for data in (PHOTO[:4000], SPOKEN[:4000], b"", b"no picture and no sound"):
            told = caller.call_file(call, caller.uploaded(data))
            assert set(told) == {"error"} and str(folder) not in told["error"], (call, told)
    assert files_below(folder) == before


def test_a_picture_that_cannot_be_read_is_told_alike_each_time(caller, folder):
    """Shown first, after a good one, and again; nothing of it stays."""
    before = files_below(folder)

    def shown(data: bytes, name: str) -> dict[str, object]:
        return caller.call_file(("talk", "show"), caller.uploaded(data, name))

    for case in (HEIC, HEIC[: len(HEIC) // 2], PHOTO[:200], b"GIF89a", SPOKEN):
        first = shown(case, "photo.heic")
        for _ in range(2):
            assert "error" not in shown(PHOTO, "photo.png")
            assert shown(case, "photo.heic").get("error") == first.get("error")
    told = str(shown(HEIC, "photo.heic"))
    assert "pillow-heif" in told or importlib.util.find_spec("pillow_heif") is not None
    caller.call("show")
    assert files_below(folder) == before


def test_an_upload_is_known_to_its_page_alone(caller, folder):
    first, second = Path(caller.uploaded(PHOTO, "a.png")), Path(caller.uploaded(PHOTO, "a.png"))
    assert first.parent != second.parent and first.parent.parent == second.parent.parent == folder
    assert len(first.parent.name) == 32 and first.stat().st_mode & 0o077 == 0
    first.unlink()
    assert caller.http.get(f"/gradio_api/file={first}").status_code == 404
    assert caller.http.get(f"/gradio_api/file={second}").content == PHOTO


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd", ".", "..", "a\\..\\b", "", "é\n.png", "x" * 900, "a%00"]
)
def test_the_name_of_an_upload_leads_nowhere(caller, folder, name):
    response = caller.upload(PHOTO, name)
    if response.status_code == 200:
        (path,) = response.json()
        assert Path(path).resolve().parent.parent == folder.resolve() and Path(path).read_bytes() == PHOTO
    else:
        assert response.status_code == 400


# --- gradio's other routes --------------------------------------------------------------------------------------------
def test_no_route_shows_or_keeps_what_is_elsewhere(caller, folder):
    links = planted_links(folder)
    before = files_below(folder) | files_below(Path("/tmp/gradio"))
    with canary() as (address, asked):
        elsewhere = [f"{address}/x.png", "/etc/passwd", "/proc/self/environ", cli_path(), *links]
        for path in elsewhere:
            for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/proxy=",
                          "/static/", "/assets/", "/svelte/", "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..",
                          "/pwa_icon/",
                          "/gradio_api/custom_component/1/client/x/"):  # fmt: skip
                response = caller.http.get(f"{route}{path}")
                assert response.status_code in (403, 404, 422), (route, path)
                assert "root:" not in response.text and "passwd" not in response.text
        assert not asked
    for path in ("queue/data?session_hash=a", "queue/status",
                 "deep_link?session_hash=a", "upload_progress?upload_id=a", "stream/a/b/1/playlist.m3u8",
                 "vibe-code", "stream/a/b/1/playlist-file", "runs", "run-history/records", "openapi.json",
                 "dev/reload"):  # fmt: skip
        assert caller.http.get(f"/gradio_api/{path}").status_code == 404, path
    for path in ("queue/join", "cancel", "reset",
                 "run/from_file", "api/from_file", "call/from_file", "call/v2/from_file", "process_recording",
                 "vibe-edit", "stream/a", "stream/a/close", "vibe-code", "undo-vibe-edit",
                 "profiling/clear"):  # fmt: skip
        files = {"video": ("x.mp4", b"1")} if path == "process_recording" else None
        body = None if files else {"data": ["/etc/passwd"]}
        assert caller.http.post(f"/gradio_api/{path}", json=body, files=files).status_code == 404, path
    assert caller.http.get("/monitoring").status_code == 404
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert caller.http.request(method, "/gradio_api/upload").status_code in (404, 405)
    assert files_below(folder) | files_below(Path("/tmp/gradio")) == before


def cli_path() -> str:
    from emova_app.demo import cli

    return cli.__file__


def planted_links(folder: Path) -> list[str]:
    for name, target in (("photo.png", EXAMPLES / "photo.png"), ("passwd.png", Path("/etc/passwd"))):
        (folder / f"d{name}").mkdir(exist_ok=True)
        (folder / f"d{name}" / name).symlink_to(target)
    os.mkfifo(folder / "dphoto.png" / "pipe.png")
    return [f"{folder}/dphoto.png/photo.png", f"{folder}/dpasswd.png/passwd.png", f"{folder}/dphoto.png/pipe.png"]


def test_a_server_function_takes_no_file(caller, tmp_path):
    blocks = caller.http.get("/config").json()["components"]
    for block in blocks:
        for function in ("receive", "hear", "ask", "show", "card", "listen", "speak", "ls", "preprocess", "read"):
            body = {
                "component_id": block["id"],
                "fn_name": function,
                "session_hash": "x",
                "data": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
            }
            for slash in ("", "/"):  # with and without one at its end
                response = caller.http.post(f"/gradio_api/component_server{slash}", json=body)
                assert response.status_code == 404 or set(response.json()) == {"error"}, (block["type"], function)
                assert "root:" not in response.text


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_page_s_scripts_reach_their_functions(caller, slash):
    body = {"component_id": caller.component("talk"), "fn_name": "interrupt", "data": {"ticket": "no"}}
    response = caller.http.post(f"/gradio_api/component_server{slash}", json={**body, "session_hash": "x"})
    assert response.status_code == 200 and "has ended" in response.json()["error"]
