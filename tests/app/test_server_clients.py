"""Helpers of OpenAI's own packages, in Python and Node, that join a stream's pieces: what they join is the answer."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from emova.speech.audio import load_audio
from tests.fixtures_script import Script

openai = pytest.importorskip("openai")

NODE = Path(__file__).parent / "clients"
MODEL = "emova-nano"
HELLO = [{"role": "user", "content": "Hello, how are you?"}]
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}
CALL = '{"user question text": "Hello, how are you?", "assistant tool calls": '
CALL += '[{"name": "clock", "arguments": {"zone": "\\"Ångström\\""}}]'


def spoken(kind: str) -> dict:
    return {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": kind}}


def by_python(client, **wish) -> dict:
    with client.chat.completions.stream(model=MODEL, **wish) as stream:
        list(stream)
        return stream.get_final_completion().choices[0].model_dump()


def by_node(client, **wish) -> dict:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    assert (NODE / "node_modules" / "openai").is_dir(), "run npm ci --prefix tests/app/clients"
    request = json.dumps({"model": MODEL, **wish})
    command = ["node", str(NODE / "chat.mjs"), str(client.base_url), client.api_key, request]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.mark.parametrize("joined", [by_python, by_node])
@pytest.mark.parametrize("kind", ["pcm16", "wav", "mp3"])
def test_a_spoken_answer_is_joined(client, running, joined, kind: str) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, **spoken(kind)).choices[0]
    choice = joined(client, messages=HELLO, **spoken(kind))
    message, audio = choice["message"], choice["message"]["audio"]
    assert audio["id"].count("audio_") == 1 and running.service.replies.find(audio["id"]).text == audio["transcript"]
    assert audio["transcript"] == whole.message.audio.transcript and not message["content"]
    assert abs(audio["expires_at"] - whole.message.audio.expires_at) < 100
    assert choice["finish_reason"] == whole.finish_reason
    sounds = [base64.b64decode(data, validate=True) for data in (audio["data"], whole.message.audio.data)]
    if kind == "pcm16":
        assert len(sounds[0]) == len(sounds[1])
    else:
        lengths = [len(load_audio(sound, 24_000)) for sound in sounds]
        assert abs(lengths[0] - lengths[1]) < 0.1 * 24_000

    answer = {"role": "assistant", "audio": {"id": audio["id"]}}
    assert client.chat.completions.create(model=MODEL, messages=[*HELLO, answer, HELLO[0]]).choices


@pytest.mark.parametrize("joined", [by_python, by_node])
def test_a_written_answer_is_joined(client, joined) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO).choices[0]
    choice = joined(client, messages=HELLO)
    assert choice["message"]["content"] == whole.message.content and choice["finish_reason"] == whole.finish_reason


@pytest.mark.parametrize("joined", [by_python, by_node])
def test_a_call_is_joined(client, nano, monkeypatch: pytest.MonkeyPatch, joined) -> None:
    Script(nano, monkeypatch).next(CALL)
    choice = joined(client, messages=HELLO, tools=[CLOCK], **spoken("pcm16"))
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].count("call_") == 1 and call["type"] == "function" and call["function"]["name"] == "clock"
    assert json.loads(call["function"]["arguments"]) == {"zone": '"Ångström"'}
    assert choice["finish_reason"] == "tool_calls" and not choice["message"].get("audio")


def test_node_reads_our_errors(client) -> None:
    error = by_node(client, messages=HELLO, top_p=7)["error"]
    assert error["status"] == 400 and error["param"] == "top_p" and "at most 1" in error["message"]
