"""The latency task against a real server that speaks the OpenAI-compatible API, with all that can go wrong there."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emova.core.errors import InputError
from emova.speech.audio import save_wav
from emova_eval.suite.latency import AssistantTalker, EndpointTalker, LatencyTask, TalkerConfig, median_seconds
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import figure_of, run_task
from emova_eval.suite.samples import Example, Record

PCM = base64.b64encode(b"\x01\x00" * 2400).decode()  # 0.1 s at 24 kHz


def delta(**parts: Any) -> str:
    return "data: " + json.dumps({"choices": [{"delta": parts}]}) + "\n\n"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        how = asked["model"]
        self.send_response(500 if how == "broken" else 200)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(how)

    def answer(self, how: str) -> None:
        def send(text: str) -> None:
            self.wfile.write(text.encode())
            self.wfile.flush()

        if how == "openai":
            send(delta(audio={"transcript": "Hi"}))
            time.sleep(0.1)
            send(delta(audio={"data": PCM}) + delta(audio={"data": PCM}) + "data: [DONE]\n\n")
        elif how == "vllm":
            send("data: " + json.dumps({"modality": "audio", "choices": [{"delta": {"content": PCM}}]}) + "\n\n")
        elif how == "whole":
            send(json.dumps({"choices": [{"message": {"content": "Hi", "audio": {"data": PCM}}}]}))
        elif how == "dumb":
            send(delta(content="Hi") + "data: [DONE]\n\n")
        elif how == "half":
            send('data: {"choices": [{"del\n\n')
        elif how == "endless":
            while True:
                send(delta(audio={"data": PCM}))
                time.sleep(0.01)
        elif how == "nothing":
            time.sleep(5)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked = []  # type: ignore[attr-defined]
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def measure(server: Any, how: str, folder: Path, timeout: float = 0.5) -> Any:
    save_wav(folder / "q.wav", np.full(1600, 0.1, np.float32), 16000)
    task = LatencyTask([Example("q", audio=str(folder / "q.wav"))], repeats=1, limit_s=timeout)
    talker = EndpointTalker(TalkerConfig(f"http://127.0.0.1:{server.server_port}/v1", how, timeout=timeout))
    records = run_task(task, talker, RunFolder(folder / "run", {"how": how}))
    return figure_of(task, records), records[0]


def test_the_first_sound_is_timed_not_the_first_text(server: Any, tmp_path: Path) -> None:
    figure, record = measure(server, "openai", tmp_path, timeout=5)
    assert figure.value >= 0.1 > record.notes["first_text"] and figure.failures == 0 and not figure.higher_is_better
    assert record.notes["sound"] == 0.2 and record.output == "Hi" and (tmp_path / "run" / record.audio_out).is_file()
    [content] = server.asked[-1]["messages"][0]["content"]
    assert content["input_audio"]["format"] == "wav" and server.asked[-1]["stream"] is True
    assert server.asked[-1] == server.asked[-2]  # the first round only warms up


@pytest.mark.parametrize("how", ["vllm", "whole"])
def test_other_servers_forms_are_understood(server: Any, tmp_path: Path, how: str) -> None:
    figure, record = measure(server, how, tmp_path, timeout=5)
    assert figure.failures == 0 and record.notes["sound"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("dumb", "no sound"), ("half", "no chat completion"), ("broken", "status 500"), ("nothing", "TimeoutError")],
)
def test_what_fails_counts_as_the_limit_and_is_named(server: Any, tmp_path: Path, how: str, reason: str) -> None:
    figure, record = measure(server, how, tmp_path)
    assert figure.value == 0.5 and figure.failures == 1 and reason in record.failure
    assert figure.extra["whole"] == 0.5


def test_an_endless_answer_is_cut_at_the_limit(server: Any, tmp_path: Path) -> None:
    figure, record = measure(server, "endless", tmp_path)
    assert figure.value < 0.5 and 0.4 < record.notes["whole"] < 2


def test_no_server_and_no_address(tmp_path: Path, server: Any) -> None:
    talker = EndpointTalker(TalkerConfig("http://127.0.0.1:9", "m", timeout=1))
    (tmp_path / "q.wav").write_bytes(b"RIFF")
    with pytest.raises(RuntimeError, match="URLError|Connection"):
        list(talker.talk(str(tmp_path / "q.wav")))
    with pytest.raises(InputError, match="http"):
        EndpointTalker(TalkerConfig("ftp://x", "m"))
    with pytest.raises(InputError, match="--endpoint-model"):
        EndpointTalker(TalkerConfig("http://x", ""))


def test_medians_and_percentiles_by_hand() -> None:
    rows = [
        Record("latency", f"q/{i}", "", [], "", value, 1.0, notes={"first_text": 0.1, "whole": 2.0, "sound": 4.0})
        for i, value in enumerate([0.2, 0.4, 3.0])
    ]
    assert median_seconds(rows) == 0.4 and median_seconds([]) == 0
    further = LatencyTask([]).further(rows)
    assert further["real_time_factor"] == 0.5 and further["p95"] == pytest.approx(2.74) and further["whole"] == 2


def test_the_assistant_is_timed_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from emova.assistant import Assistant

    time_axis = np.arange(8000) / 16000
    save_wav(tmp_path / "q.wav", (0.3 * np.sin(2 * np.pi * 200 * time_axis)).astype(np.float32), 16000)
    task = LatencyTask([Example("q", audio=str(tmp_path / "q.wav"))], repeats=1)
    records = run_task(task, AssistantTalker(Assistant.from_pretrained(tiny_checkpoint)), RunFolder(tmp_path / "r", {}))
    assert not records[0].failure and 0 < records[0].value <= records[0].notes["whole"]
