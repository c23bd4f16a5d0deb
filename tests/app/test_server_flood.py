"""A realtime client that sends and sends: what waits is bounded, refused, and gone with its connection."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import time
import weakref

import numpy as np
import pytest

from tests.app.test_server_connections import Peak, eventually

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

MANUAL = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}}
SECOND = base64.b64encode(np.zeros(24_000, "<i2").tobytes()).decode()


def written(text: str) -> dict:
    content = [{"type": "input_text", "text": text}]
    return {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}


def shown(data: bytes) -> dict:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    content = [{"type": "input_image", "image_url": url}]
    return {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}


class Client:
    """Speaks the protocol, one event after the other."""

    def __init__(self, socket) -> None:
        self.socket = socket

    def send(self, event: dict) -> None:
        self.socket.send(json.dumps(event))

    def until(self, *kinds: str) -> dict:
        while True:
            event = json.loads(self.socket.recv(60))
            if event["type"] in kinds:
                return event

    def ask(self) -> None:
        """An answer is being given from now on."""
        self.send(MANUAL)
        self.send(written("Hello, how are you?"))
        self.send({"type": "response.create"})
        self.until("response.created")


@contextlib.contextmanager
def talking(server):
    from websockets.sync.client import connect

    # The client takes everything that comes, so that it never holds up the server.
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", max_queue=None, max_size=None) as socket:
        yield Client(socket)


@pytest.fixture(scope="module")
def server(nano, serving):
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, drain_seconds=1, max_deferred_bytes=32 << 20)) as server:
        yield server


@pytest.fixture()
def slow(server, monkeypatch):
    """Answers take their time, so that what is sent meanwhile has to wait."""
    engine = server.service.scheduler.engine
    step = engine.step

    def later(writers):
        time.sleep(0.2)
        return step(writers)

    monkeypatch.setattr(engine, "step", later)


def test_what_waits_is_bounded_in_bytes(server, slow) -> None:
    """Pictures of many megabytes during an answer: refused beyond the bound, and the connection ends if they go on."""
    from websockets.exceptions import ConnectionClosed

    event = json.dumps(shown(bytes(9 << 20)))
    with talking(server) as client, Peak() as peak:
        client.ask()
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(100):
                client.socket.send(event)
            while True:
                client.until("error")
    assert closed.value.rcvd and closed.value.rcvd.code == 1008 and "response.done" in closed.value.rcvd.reason
    assert peak.grown < 350


def test_a_refusal_is_told_and_the_talk_goes_on(server, slow) -> None:
    event = shown(bytes(9 << 20))
    with talking(server) as client:
        client.ask()
        for _ in range(3):
            client.send(event)
        told = client.until("error", "response.done")
        assert told["error"]["code"] == "rate_limit_exceeded" and "wait for response.done" in told["error"]["message"]
        client.until("response.done")
        for _ in range(2):  # the ones that waited: no pictures
            assert "not a picture" in client.until("error")["error"]["message"]
        client.send(written("And now?"))
        client.until("conversation.item.done")


def test_small_events_and_sound_that_wait_are_bounded_too(server, slow) -> None:
    with talking(server) as client:
        client.ask()
        for _ in range(70):
            client.send({"type": "input_audio_buffer.clear"})
        assert client.until("error", "response.done")["error"]["code"] == "rate_limit_exceeded"
        for _ in range(12):
            client.send({"type": "input_audio_buffer.append", "audio": SECOND})
        while "the audio" not in client.until("error", "response.done")["error"]["message"]:
            pass
        client.until("response.done")


def test_heavy_events_are_refused(server) -> None:
    with talking(server) as client:
        client.until("session.created")
        for kind in ("session.update", "conversation.item.create", "input_audio_buffer.append", "nothing"):
            text = f'{{"type": "{kind}", "x": [' + "{}," * (6 << 20) + "{}]}"
            with Peak() as peak:
                client.socket.send(text)
                told = client.until("error")["error"]
            assert told["code"] == "request_too_large" and "apart from pictures" in told["message"]
            assert peak.grown < 170
        client.send(MANUAL)
        client.until("session.updated")


@pytest.fixture()
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def leave_at_once(client: Client) -> None:
    client.until("session.created")


def leave_after_an_answer(client: Client) -> None:
    client.ask()
    client.until("response.done")


def leave_in_an_answer(client: Client) -> None:
    client.ask()
    client.send(shown(bytes(1 << 20)))
    for _ in range(3):
        client.send({"type": "input_audio_buffer.append", "audio": SECOND})


def be_cut_in_an_answer(client: Client) -> None:
    leave_in_an_answer(client)
    client.socket.socket.close()


def send_nonsense(client: Client) -> None:
    client.ask()
    client.socket.send(b"binary")


def flood(client: Client) -> None:
    client.ask()
    event = json.dumps(shown(bytes(9 << 20)))
    with contextlib.suppress(Exception):
        for _ in range(100):
            client.socket.send(event)


WAYS = [leave_at_once, leave_after_an_answer, leave_in_an_answer, be_cut_in_an_answer, send_nonsense, flood]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_closed_connection_is_freed_at_once(server, slow, monkeypatch, no_collector, way) -> None:
    """Without the garbage collector: nothing that a connection holds leads back to it once it is closed."""
    from emova_app.server.realtime.connection import Connection

    made: list[weakref.ref] = []
    usual = Connection.__init__

    def remembered(self, socket, service, session) -> None:
        usual(self, socket, service, session)
        made.extend(map(weakref.ref, (self, session, socket)))

    monkeypatch.setattr(Connection, "__init__", remembered)
    with contextlib.suppress(Exception), talking(server) as client:
        way(client)
    assert len(made) == 3
    assert eventually(lambda: not any(each() for each in made)), [each() for each in made]
    assert not server.service.realtime


# --- items ------------------------------------------------------------------------------------------------------------
def at_root(*content: dict) -> dict:
    item = {"type": "message", "role": "user", "content": list(content)}
    return {"type": "conversation.item.create", "previous_item_id": "root", "item": item}


def test_an_item_holds_no_more_sound_than_a_question(server) -> None:
    """Items that are not at the end are heard by no session, so none of its limits holds for them."""
    sound = base64.b64encode(bytes(8000 * 9)).decode()
    with talking(server) as client, Peak() as peak:
        client.send({"type": "session.update", "session": {"input_audio_format": "g711_ulaw", "turn_detection": None}})
        client.send(written("Hello."))
        client.until("conversation.item.done")
        for _ in range(3):
            client.send(at_root(*[{"type": "input_audio", "audio": sound}] * 60))
            assert "more sound than one question" in client.until("error", "conversation.item.done")["error"]["message"]
    assert peak.grown < 60


@pytest.mark.parametrize("what", ["sound", "transcripts", "beside"])
def test_items_hold_no_more_than_they_may_together(nano, serving, what: str) -> None:
    from emova_app.server.config import ServerConfig

    sound = {"type": "input_audio", "audio": base64.b64encode(bytes(48_000 * 9)).decode()}
    said = {"type": "input_audio", "audio": "AAAAAAAA", "transcript": "\U0001f600" + "x" * 90_000}
    config = ServerConfig(port=0, drain_seconds=1, max_conversation_bytes=4 << 20)
    with serving(nano, config) as server, talking(server) as client:
        client.send(MANUAL)
        client.send(written("Hello."))
        client.until("conversation.item.done")
        if what == "beside":
            item = {"type": "message", "role": "user", "content": [sound]}
            response = {"conversation": "none", "input": [item] * 12}
            client.send({"type": "response.create", "response": response})
            assert client.until("error", "response.done")["error"]["code"] == "conversation_too_large"
            return
        content = [sound] if what == "sound" else [said] * 8
        for _ in range(12):
            client.send(at_root(*content))
        told = [client.until("error", "conversation.item.done") for _ in range(12)]
        assert told[0]["type"] == "conversation.item.done" and told[-1]["error"]["code"] == "conversation_too_large"
        client.send({"type": "conversation.item.delete", "item_id": told[0]["item"]["id"]})
        client.until("conversation.item.deleted")
        client.send(written("And now?"))  # what is refused harms nothing
        client.until("conversation.item.done")


@pytest.mark.parametrize("kind", ["server_vad", "semantic_vad"])
def test_a_turn_without_end_is_not_kept(nano, serving, monkeypatch, kind: str) -> None:
    from emova_app.server.realtime import hearing
    from emova_app.server.realtime.hearing import Hearing

    kept: list[int] = []

    class Watched(Hearing):
        async def append(self, audio: str) -> None:
            try:
                await super().append(audio)
            finally:
                kept.append(sum(map(len, self._turn)))

    def taking(config):
        turns = hearing_taking(config)
        turns._detector = lambda window: 1.0  # somebody who never stops
        return turns

    hearing_taking = hearing._taking
    monkeypatch.setattr(hearing, "_taking", taking)
    monkeypatch.setattr("emova_app.server.realtime.connection.Hearing", Watched)
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, drain_seconds=1)) as server, talking(server) as client:
        client.send({"type": "session.update", "session": {"turn_detection": {"type": kind}}})
        for _ in range(24):
            client.send({"type": "input_audio_buffer.append", "audio": SECOND})
            client.send({"type": "conversation.item.retrieve", "item_id": "no", "event_id": "last"})
            while client.until("error")["error"]["event_id"] != "last":
                pass
    assert len(kept) == 24 and max(kept) <= (20 if kind == "semantic_vad" else 1) * 16_000
