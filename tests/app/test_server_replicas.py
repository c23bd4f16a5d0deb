"""Two replicas on this machine: one dies in the middle of a session, the other goes on. Needs Ray; runs minutes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import httpx
import pytest

pytest.importorskip("fastapi")

MODEL = "emova-nano"


def test_numbers_of_replicas() -> None:
    from app.server.replicas import ReplicaConfig
    from emova.errors import InputError

    for least, most in ((0, 1), (3, 2)):
        with pytest.raises(InputError):
            ReplicaConfig(least, most)


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("ray")
    pytest.importorskip("mmh3")
    from app.server.config import ServerConfig
    from app.server.replicas import ReplicaConfig, start, stop

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start(ServerConfig(port=port, drain_seconds=2), MODEL, ReplicaConfig(2, 2, cpus=0.5))
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop()


def replicas() -> list[int]:
    """Process ids of the replicas that live."""
    from ray.util.state import list_actors

    found = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return [actor.pid for actor in found if "ServeReplica" in (actor.class_name or "")]


@pytest.mark.timeout(900)
def test_one_dies_and_the_others_go_on(url) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    pids = replicas()
    assert len(pids) == 2
    address = url.replace("http", "ws") + f"/realtime?model={MODEL}"
    with contextlib.ExitStack() as open_talks:
        # Sessions of different names: some on either replica.
        talks = [
            open_talks.enter_context(connect(address, additional_headers={"x-session-id": f"talk-{number}"}))
            for number in range(6)
        ]
        for talk in talks:
            assert "session.created" in talk.recv(timeout=60)
        os.kill(pids[0], signal.SIGKILL)
        time.sleep(1)
        dead, alive = 0, 0
        for talk in talks:
            try:
                talk.send('{"type": "input_audio_buffer.clear"}')
                while "input_audio_buffer.cleared" not in talk.recv(timeout=60):
                    pass
                alive += 1
            except ConnectionClosed as closed:
                assert closed.rcvd is not None and closed.rcvd.code in (1011, 1012), closed
                dead += 1
        assert dead >= 1 and alive >= 1 and dead + alive == 6
    wish = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    for number in range(6):
        headers = {"x-session-id": f"chat-{number}"}
        answer = httpx.post(f"{url}/chat/completions", json=wish, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
