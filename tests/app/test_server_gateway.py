"""The front of several replicas, with one real server behind it: calls pass unchanged, and a loss is told."""

from __future__ import annotations

import base64
import gc
import time
import weakref
from pathlib import Path

import httpx
import pytest

import emova
from tests.app.conftest import running_server
from tests.app.test_server_connections import connected, eventually, prompt_answers

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

MODEL = "emova-nano"
QUESTION = (Path(emova.__file__).parent / "checkpoints" / "examples" / "question.wav").read_bytes()
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}]}
SPOKEN = {**ASKED, "modalities": ["text", "audio"], "audio": {"voice": "female", "format": "pcm16"}}
WRITTEN = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}


@pytest.fixture(scope="module")
def replica(nano, serving):
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, api_key="key-of-replicas", drain_seconds=2)) as server:
        yield server


def gateway_before(port: int, figures=None, **limits):
    """A gateway that runs before the server on a port."""
    from emova_app.server.config import ServerConfig
    from emova_app.server.gateway import Gateway, create_gateway
    from emova_app.server.running import listen, server_of

    config = ServerConfig(port=0, api_key="key-of-clients", drain_seconds=5, **limits)
    gateway = Gateway(config, f"127.0.0.1:{port}", "key-of-replicas", figures)
    return running_server(server_of(create_gateway(gateway), gateway), listen(config))


@pytest.fixture(scope="module")
def front(replica):
    async def figures() -> dict[str, str]:
        return {name: replica.service.metrics.page().decode() for name in ("a", "b")}

    with gateway_before(replica.port, figures) as server:
        yield server


def client_of(front, key: str = "key-of-clients"):
    return openai.OpenAI(base_url=front.url, api_key=key, max_retries=0, timeout=300)


@pytest.fixture()
def client(front):
    return client_of(front)


@pytest.fixture()
def slow(replica, monkeypatch):
    """The replica takes its time, so that what is done in the middle of an answer is."""
    engine = replica.service.scheduler.engine
    step = engine.step

    def later(requests):
        time.sleep(0.1)
        return step(requests)

    monkeypatch.setattr(engine, "step", later)


def cut(replica) -> None:
    """End all of the replica's connections, as its death does."""
    server = replica.server
    loop = next(iter(server.servers)).get_loop()
    for connection in list(server.server_state.connections):
        loop.call_soon_threadsafe(connection.transport.abort)


def test_calls_pass_unchanged(client, nano) -> None:
    wanted = nano.chat(text="Hello.")
    answer = client.chat.completions.create(**SPOKEN).choices[0].message
    assert answer.audio.transcript == wanted.text
    chunks = list(client.chat.completions.create(**SPOKEN, stream=True))
    sounds = [dict(getattr(chunk.choices[0].delta, "audio", None) or {}) for chunk in chunks if chunk.choices]
    assert "".join(sound.get("transcript") or "" for sound in sounds) == wanted.text
    assert sum(bool(sound.get("data")) for sound in sounds) > 1
    # An earlier answer is found by its id: the follow-up reaches the replica that gave it.
    history = [*ASKED["messages"], {"role": "assistant", "audio": {"id": answer.audio.id}}, *ASKED["messages"]]
    assert client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content
    speech = client.audio.speech.create(model=MODEL, voice="nova", input="Hello.", response_format="pcm")
    assert speech.content[:100] and len(speech.content) % 2 == 0
    text = client.audio.transcriptions.create(model=MODEL, file=("question.wav", QUESTION)).text
    assert text == nano.transcribe(QUESTION)
    assert [model.id for model in client.models.list()] == [MODEL]


def test_realtime_passes_unchanged(client, nano, front) -> None:
    with client.realtime.connect(model=MODEL) as talk:
        assert talk.recv().type == "session.created"
        talk.conversation.item.create(item=WRITTEN)
        talk.response.create()
        events = [talk.recv()]
        while events[-1].type != "response.done":
            events.append(talk.recv())
        assert events[-1].response.output[0].content[0].transcript == nano.chat(text="Hello.").text
        assert base64.b64decode(next(event for event in events if event.type.endswith("audio.delta")).delta)
        assert front.service.realtime == 1
    for _ in range(100):
        if not front.service.realtime:
            return
        time.sleep(0.1)
    raise AssertionError("the session is still open")


def test_errors_are_the_replicas_own(client, front) -> None:
    with pytest.raises(openai.BadRequestError, match="audio.voice"):
        client.chat.completions.create(**{**SPOKEN, "audio": {"voice": "darth", "format": "wav"}})
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("..%2f..%2fetc%2fpasswd")
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused, client.realtime.connect(model="gpt-realtime"):
        pass
    assert refused.value.response.status_code == 404 and b"model_not_found" in refused.value.response.body


def test_the_key_of_clients_is_not_that_of_replicas(front, replica) -> None:
    for server, key in ((front, "key-of-replicas"), (front, "x"), (replica, "key-of-clients")):
        with pytest.raises(openai.AuthenticationError):
            client_of(server, key).models.list()


def test_figures_of_all(front) -> None:
    base = front.url.removesuffix("/v1")
    assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{base}/metrics").status_code == 401
    page = httpx.get(f"{base}/metrics", headers={"Authorization": "Bearer key-of-clients"}).text
    assert "\nemova_queue_depth 0.0" in page and 'emova_queue_depth{replica="b"} 0.0' in page
    assert 'emova_requests_total{replica="a",route="/v1/models",status="200"}' in page
    assert page.count("# TYPE emova_request_seconds histogram") == 1


def test_a_stream_whose_replica_is_lost_ends_with_an_error(client, replica, slow) -> None:
    with pytest.raises(openai.APIError) as told:
        for number, _ in enumerate(client.chat.completions.create(**SPOKEN, stream=True)):
            if number == 1:
                cut(replica)
    assert told.value.code == "replica_lost"
    assert client.chat.completions.create(**ASKED).choices[0].message.content


def test_a_talk_whose_replica_is_lost_ends_with_an_error(client, replica) -> None:
    from websockets.exceptions import ConnectionClosed

    with client.realtime.connect(model=MODEL) as talk:
        talk.recv()
        cut(replica)
        event = talk.recv()
        assert event.type == "error" and event.error.code == "replica_lost" and "anew" in event.error.message
        with pytest.raises(ConnectionClosed):
            talk.recv()
    with client.realtime.connect(model=MODEL) as talk:
        assert talk.recv().type == "session.created"


def test_no_replica_at_all() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with gateway_before(port) as front:
        with pytest.raises(openai.InternalServerError) as told:
            client_of(front).chat.completions.create(**ASKED)
        assert told.value.code == "replica_lost" and told.value.response.headers["retry-after"]
        from websockets.exceptions import InvalidStatus

        with pytest.raises(InvalidStatus) as refused, client_of(front).realtime.connect(model=MODEL):
            pass
        assert refused.value.response.status_code == 503


def test_at_the_end_an_answer_is_finished_and_the_talk_told(replica, slow) -> None:
    with gateway_before(replica.port) as front, client_of(front).realtime.connect(model=MODEL) as talk:
        talk.recv()
        talk.conversation.item.create(item=WRITTEN)
        talk.response.create()
        while talk.recv().type != "response.created":
            pass
        front.server.should_exit = True
        kinds = []
        while "error" not in kinds:
            event = talk.recv()
            kinds.append(event.type)
        assert "response.done" in kinds and event.error.code == "session_ended"


def test_the_front_keeps_its_doors(front, replica) -> None:
    """Slow bodies and idle connections at the front keep nobody out; heavy JSON is refused by the replica."""
    slow = "POST /v1/chat/completions HTTP/1.1\nHost: a\nAuthorization: Bearer key-of-clients\nContent-Length: 9\n\n"
    with connected(front.port, 60, slow), connected(front.port, 250):
        prompt_answers(front, "key-of-clients")
    heavy = '{"x": [' + "{}," * (6 << 20) + "{}]}"
    headers = {"authorization": "Bearer key-of-clients", "content-type": "application/json"}
    refused = httpx.post(f"{front.url}/chat/completions", content=heavy, headers=headers, timeout=60)
    assert refused.status_code == 413 and "apart from pictures" in refused.json()["error"]["message"]


def test_a_joined_connection_is_freed_at_once(front, monkeypatch) -> None:
    """Without the garbage collector, as the replica's."""
    from emova_app.server import gateway

    made = []
    usual = gateway._Joined.__init__

    def remembered(self, *arguments) -> None:
        usual(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(gateway._Joined, "__init__", remembered)
    gc.collect()
    gc.disable()
    try:
        with client_of(front).realtime.connect(model=MODEL) as talk:
            talk.conversation.item.create(item=WRITTEN)
            while talk.recv().type != "conversation.item.done":
                pass
        assert made and eventually(lambda: made[0]() is None)
    finally:
        gc.enable()
