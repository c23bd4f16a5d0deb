"""The server's parts by themselves: sound formats, turn taking, addresses, the queue, the command."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from emova.cli.main import Parser
from emova.core.errors import BusyError, ClosedError, InputError, InternalFault, TooLongError
from emova.speech.audio import load_audio

pytest.importorskip("fastapi")

RATE = 24_000


def tone(seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(RATE * seconds)) * 440 / RATE * 2 * np.pi)).astype(np.float32)


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
def test_sound_survives_its_format(kind: str) -> None:
    from emova_app.server.api.encode import Encoder, encode

    encoder = Encoder(kind, RATE)
    streamed = b"".join([*(encoder.add(part) for part in np.array_split(tone(), 7)), encoder.finish()])
    for data in (streamed, encode(kind, tone(), RATE)):
        samples = np.frombuffer(data, "<i2") / 32767 if kind == "pcm16" else load_audio(data, RATE)
        assert abs(len(samples) - RATE) < 0.1 * RATE and 0.25 < np.abs(samples).max() < 0.45


def test_streamed_formats_leave_early() -> None:
    from emova_app.server.api.encode import Encoder

    for kind in ("wav", "mp3", "opus", "aac", "pcm16"):
        encoder = Encoder(kind, RATE)
        assert sum(len(encoder.add(part)) for part in np.array_split(tone(3.0), 20)) > 2000, kind


def test_turns_do_not_depend_on_the_cut() -> None:
    from emova.speech.vad import Going, Started, Stopped, TurnConfig, TurnTaking

    pytest.importorskip("onnxruntime")
    pytest.importorskip("silero_vad")
    import emova

    question = load_audio(str(emova.__path__[0]) + "/checkpoints/examples/question.wav", 16_000)
    silence = np.zeros(16_000, dtype=np.float32)
    sound = np.concatenate([silence, question, silence, question, silence])
    found = []
    for pieces in (1, 7, 400):
        taking = TurnTaking(TurnConfig())
        found.append([turn for part in np.array_split(sound, pieces) for turn in taking.step(part)])
    marks = [[(type(turn), turn.at_ms) for turn in turns if not isinstance(turn, Going)] for turns in found]
    assert marks[0] == marks[1] == marks[2]
    assert [kind for kind, _ in marks[0]] == [Started, Stopped, Started, Stopped]
    first, end = marks[0][0][1], marks[0][1][1]
    assert 500 < first < 1300 and 2300 < end < 3300, "the prefix before it and the silence behind it"
    heard = sum(len(turn.samples) for turn in found[0] if isinstance(turn, Started | Going))
    assert heard == sum(len(turn.samples) for turn in found[2] if isinstance(turn, Started | Going))
    rng = np.random.default_rng(0)
    noise = (0.05 * rng.standard_normal(64_000)).astype(np.float32)
    assert not TurnTaking(TurnConfig()).step(noise) and not TurnTaking(TurnConfig()).step(np.zeros(64_000, np.float32))


def test_the_queue_is_bounded_and_fair() -> None:
    from emova_app.server.errors import ApiError
    from emova_app.server.queueing import Queue

    async def scenario() -> list[int]:
        queue, order = Queue(max_active=1, max_waiting=2), []

        async def request(number: int) -> None:
            async with queue.place(), queue.turn():
                order.append(number)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(request(number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await request(3)
        assert refused.value.status == 429 and refused.value.headers["retry-after"]
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.inside == queue.running == 0
        await request(4)
        return order

    assert asyncio.run(scenario()) == [0, 2, 4]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "127.0.0.1.example.com", ""])
def test_it_refuses_to_listen_wider_without_a_key(host: str) -> None:
    from emova_app.server.config import ServerConfig

    with pytest.raises(InputError, match="key"):
        ServerConfig(host=host)
    assert "secret" not in repr(ServerConfig(host=host, api_key="secret"))


def test_the_command(monkeypatch, capsys) -> None:
    from emova_app.server.cli import register

    parser = Parser()
    register(parser)
    monkeypatch.delenv("EMOVA_API_KEY", raising=False)
    for line, word in (
        (["--host", "0.0.0.0"], "API key"),
        (["--port", "70000"], "port"),
        (["--max-active", "0"], "max-active"),
        (["--deadline", "nan"], "deadline"),
        (["--replicas", "-1"], "replicas"),
        (["--max-replicas", "2"], "replicas"),
        (["--host", "203.0.113.7", "--api-key", "x"], "cannot listen"),
    ):
        arguments = parser.parse_args(line)
        with pytest.raises(InputError, match=word):
            arguments.run(arguments)


def test_the_command_serves_and_ends() -> None:
    """As a process of its own: it says where it listens, answers, and ends when it is told to."""
    import os
    import re
    import signal
    import subprocess
    import sys
    from pathlib import Path

    import httpx

    run = (
        "import sys; from emova_app.server.cli import register; from emova.cli.main import Parser;"
        "parser = Parser(); register(parser); arguments = parser.parse_args(sys.argv[1:]);"
        "sys.exit(arguments.run(arguments))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "EMOVA_API_KEY": "key-of-tests", "PYTHONPATH": str(root)}
    line = [sys.executable, "-c", run, "--port", "0"]
    with subprocess.Popen(line, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "Listening" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", told)
        assert found is not None and "key-of-tests" not in told
        for _ in range(100):
            try:
                answer = httpx.get(f"{found[0]}/models", headers={"Authorization": "Bearer key-of-tests"}, timeout=20)
                break
            except httpx.ConnectError:
                continue
        assert answer.json()["data"][0]["id"] == "emova-nano"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def test_spoken_replies_are_forgotten(monkeypatch) -> None:
    from emova.reply.parser import SpokenReply
    from emova_app.server import service
    from emova_app.server.errors import ApiError

    store, reply = service.ReplyStore(2), SpokenReply("", "Hi", "sad", "low", (1, 2))
    names = [store.keep(reply)[0] for _ in range(3)]
    assert store.find(names[2]) is reply
    with pytest.raises(ApiError):
        store.find(names[0])
    later = service.time.time() + 3601
    monkeypatch.setattr(service.time, "time", lambda: later)
    with pytest.raises(ApiError):
        store.find(names[2])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError("the audio: silent"), 400, "invalid_request_error"),
        (TooLongError("the question: too long"), 400, "invalid_request_error"),
        (BusyError("all places are taken"), 429, "rate_limit_error"),
        (ClosedError("the server stopped this task"), 503, "server_error"),
        (InternalFault(), 500, "server_error"),
    ],
)
def test_an_error_is_answered_by_its_type(error: Exception, status: int, kind: str) -> None:
    from emova_app.server.errors import as_api_error

    answer = as_api_error(error)
    assert (answer.status, answer.kind) == (status, kind)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_a_form_is_parsed_in_turns_with_others() -> None:
    """Its parser works on the event loop: no piece of it may be long."""
    from emova_app.server.http.json_body import in_pieces

    sent = [b"a" * 3_000_000, b"", b"b" * 5, b""]

    async def talk() -> tuple[bytes, int, int]:
        unread = list(enumerate(sent))

        async def receive() -> dict:
            index, body = unread.pop(0)
            return {"type": "http.request", "body": body, "more_body": index < len(sent) - 1}

        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside, receive_piece = asyncio.create_task(others()), in_pieces(receive)
        pieces: list = []
        while not pieces or pieces[-1]["more_body"]:
            pieces.append(await receive_piece())
        beside.cancel()
        return b"".join(piece["body"] for piece in pieces), max(len(piece["body"]) for piece in pieces), turns

    whole, longest, turns = asyncio.run(talk())
    assert whole == b"".join(sent) and longest <= 1 << 18 and turns >= 12
