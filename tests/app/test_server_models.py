"""Several models in one server: each request is answered by the one that it names; all share one queue."""

from __future__ import annotations

import json

import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.cli.main import main
from emova.core import memory
from emova.decoding.sampling import GREEDY
from emova.reply.format import ReplyLimits
from tests.app.conftest import running_server
from tests.fixtures_speech import BABBLE

httpx = pytest.importorskip("httpx")
LIMITS = ReplyLimits(max_text_tokens=8, max_units=20)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint) -> Assistant:
    config = AssistantConfig(reply_limits=LIMITS, reply_guard=BABBLE, sampling=GREEDY)
    return Assistant.from_pretrained(tiny_checkpoint, config=config)


@pytest.fixture(scope="module")
def server(nano, tiny):
    from emova_app.server.config import ServerConfig
    from emova_app.server.running import listen, make_server

    config = ServerConfig(port=0, drain_seconds=2)
    with running_server(make_server(config, nano, others={"tiny": tiny}), listen(config)) as running:
        yield running


def ask(server, model: str, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], **more}
    return httpx.post(f"{server.url}/chat/completions", json=body, timeout=60)


def test_they_are_listed(server) -> None:
    assert [each["id"] for each in httpx.get(f"{server.url}/models").json()["data"]] == ["emova-nano", "tiny"]
    assert httpx.get(f"{server.url}/models/tiny").json()["id"] == "tiny"
    answer = httpx.get(f"{server.url}/models/other")
    assert answer.status_code == 404 and "emova-nano, tiny" in answer.json()["error"]["message"]


def test_each_answers_what_is_asked_of_it(server, nano, tiny) -> None:
    for name, assistant in (("emova-nano", nano), ("tiny", tiny), ("emova-nano", nano)):
        answer = ask(server, name, temperature=0).json()
        assert answer["model"] == name
        assert answer["choices"][0]["message"]["content"] == assistant.chat(text="Hello.").text
    assert ask(server, "other").status_code == 404
    spoken = {"model": "tiny", "input": "Hi.", "response_format": "pcm"}
    assert len(httpx.post(f"{server.url}/audio/speech", json=spoken, timeout=60).content) > 1000


def test_a_spoken_answer_is_known_to_its_model_alone(server) -> None:
    said = ask(server, "tiny", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}).json()
    past = {"role": "assistant", "audio": {"id": said["choices"][0]["message"]["audio"]["id"]}}
    messages = [{"role": "user", "content": "Hello."}, past, {"role": "user", "content": "And?"}]
    assert ask(server, "tiny", messages=messages).status_code == 200
    assert ask(server, "emova-nano", messages=messages).status_code == 400


def test_a_realtime_session_is_with_the_model_that_it_names(server) -> None:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?model=tiny") as socket:
        assert json.loads(socket.recv(timeout=30))["session"]["model"] == "tiny"
    assert not server.service.models["emova-nano"].scheduler._participants


def test_what_cannot_be_served_together_is_told_before_loading(tiny_checkpoint, capsys, monkeypatch) -> None:
    def told(*words: str) -> str:
        assert main(["serve", "--port", "0", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    both = ("--model", "emova-nano", "--model", str(tiny_checkpoint))
    assert "another one is called" in told("--model", "emova-nano", "--model", "emova-nano")
    assert "--gguf" in told(*both, "--gguf", "x.gguf")
    assert "--replicas" in told(*both, "--replicas", "2")
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    line = told(*both)
    assert "together" in line and "GiB" in line and "emova-nano" in line
