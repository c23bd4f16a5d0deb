"""Two replicas on Ray Serve: sessions stay on theirs; one is killed in the middle, and the other goes on."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from emova.core.errors import InputError
from emova_app.server.config import ServerConfig
from emova_app.server.replicas import ReplicaConfig, started, together
from tests.app.conftest import running_server

KEY = {"Authorization": "Bearer key-of-clients"}
SESSIONS = re.compile(r'emova_realtime_sessions\{replica="(\w+)"\} (\d)')
WRITTEN = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}


def test_wrong_numbers_and_a_missing_package(monkeypatch) -> None:
    for least, most in ((0, 2), (3, 2), (2, 1001)):
        with pytest.raises(InputError, match="replicas"):
            ReplicaConfig(least, most)
    config = together(ServerConfig(max_active=3, max_realtime=5), ReplicaConfig(2, 4))
    assert (config.max_active, config.max_realtime) == (12, 20)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(InputError, match=r"pip install 'emova\[serve,replicas\]'"),
        started(config, "emova-nano", ReplicaConfig()),
    ):
        pass


@pytest.fixture(scope="module")
def front(tiny_checkpoint):
    # Ray reads its settings when it is imported, which ``started`` does.
    if find_spec("ray") is None:
        pytest.skip("needs Ray Serve")
    pytest.importorskip("fastapi")
    from emova_app.server.gateway import Gateway, create_gateway
    from emova_app.server.running import listen, server_of

    config = ServerConfig(port=0, api_key="key-of-clients", model_name="tiny", drain_seconds=2)
    replicas = ReplicaConfig(2, 2)
    with started(config, str(tiny_checkpoint), replicas) as cluster:
        gateway = Gateway(together(config, replicas), cluster.address, cluster.key, cluster.figures)
        with running_server(server_of(create_gateway(gateway), gateway), listen(config)) as server:
            yield server


def sessions(front) -> dict[str, int]:
    """How many realtime sessions each replica has."""
    page = httpx.get(f"{front.url.removesuffix('/v1')}/metrics", headers=KEY, timeout=60).text
    return {name: int(count) for name, count in SESSIONS.findall(page)}


def answered(talk) -> str:
    """How a written question's answer ends."""
    talk.conversation.item.create(item=WRITTEN)
    talk.response.create(response={"output_modalities": ["text"]})
    while True:
        event = talk.recv()
        assert event.type != "error", event
        if event.type == "response.done":
            return event.response.status


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_lost_replica_ends_its_own_session_only(front) -> None:
    openai = pytest.importorskip("openai")
    import ray
    from websockets.exceptions import ConnectionClosed

    client = openai.OpenAI(base_url=front.url, api_key="key-of-clients", max_retries=0, timeout=120)
    assert [model.id for model in client.models.list()] == ["tiny"]
    # A session of its own on each replica.
    talks: dict[str, tuple[str, Any]] = {}
    for number in range(40):
        before, name = sessions(front), f"session-{number}"
        assert len(before) == 2
        talk = client.realtime.connect(model="tiny", extra_headers={"x-session-id": name}).enter()
        assert talk.recv().type == "session.created"
        after = sessions(front)
        (where,) = [replica for replica in after if after[replica] > before[replica]]
        if where in talks:
            talk.close()
            continue
        talks[where] = name, talk
        if len(talks) == 2:
            break
    (killed, (_, lost)), (kept, (name, other)) = talks.items()
    assert answered(lost) == answered(other) == "completed"

    # What is asked with a session's id reaches its replica, where earlier answers are known by their ids.
    def ask(*earlier):
        said = {"role": "user", "content": "Hello."}
        sound = {"modalities": ["text", "audio"], "audio": {"voice": "female", "format": "wav"}}
        return client.chat.completions.create(
            model="tiny", messages=[said, *earlier], extra_headers={"x-session-id": name}, **sound
        )

    spoken = ask().choices[0].message.audio.id
    for _ in range(4):
        ask({"role": "assistant", "audio": {"id": spoken}}, {"role": "user", "content": "And now?"})

    ray.kill(ray.get_actor(f"SERVE_REPLICA::emova#emova#{killed}", namespace="serve"))
    event = lost.recv()
    assert event.type == "error" and event.error.code == "replica_lost"
    with pytest.raises(ConnectionClosed):
        lost.recv()
    assert answered(other) == "completed"
    ask({"role": "assistant", "audio": {"id": spoken}}, {"role": "user", "content": "And now?"})
    other.close()

    # Ray starts another in its place.
    until = time.monotonic() + 600
    while not (set(found := sessions(front)) - {killed, kept} and len(found) == 2):
        assert time.monotonic() < until
        time.sleep(1)
    with client.realtime.connect(model="tiny") as talk:
        assert talk.recv().type == "session.created" and answered(talk) == "completed"
