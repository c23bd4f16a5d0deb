"""What the server and the demo offer are the loaded checkpoint's styles."""

from __future__ import annotations

import shutil

import pytest
import torch

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.reply.format import ReplyLimits
from emova.speech.style import DEFAULT_STYLES, StylePrototypes, StyleSet
from tests.test_checkpoint_styles import restyle

pytest.importorskip("fastapi")
STYLES = StyleSet(("male", "robot"), (*DEFAULT_STYLES.emotions, "surprised"), DEFAULT_STYLES.pitches)


@pytest.fixture(scope="module")
def assistant(tiny_checkpoint, tmp_path_factory) -> Assistant:
    folder = tmp_path_factory.mktemp("styles") / "server"
    shutil.copytree(tiny_checkpoint, folder)
    restyle(folder, STYLES.to_dict())
    StylePrototypes({style.key: torch.randn(8) for style in STYLES}, STYLES).save(folder)
    return Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=ReplyLimits(8, 8, 12)))


@pytest.fixture(scope="module")
def client(assistant):
    from fastapi.testclient import TestClient

    from emova_app.server.app import create_app
    from emova_app.server.config import ServerConfig

    config = ServerConfig(model_name="tiny")
    with TestClient(create_app(config, assistant), base_url=f"http://127.0.0.1:{config.port}") as client:
        yield client


def ask(client, **fields):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return client.post("/v1/chat/completions", json=body)


def test_requests_may_name_what_the_checkpoint_has(client) -> None:
    answer = ask(client, emotion="surprised").json()
    assert answer["choices"][0]["message"]["emotion"] == "surprised"
    spoken = {"model": "tiny", "input": "Hello.", "response_format": "wav"}
    for voice in ("robot", "onyx", None):  # the checkpoint's, one that stands for it, and its first
        done = client.post("/v1/audio/speech", json={**spoken, "voice": voice, "emotion": "surprised"})
        assert done.status_code == 200 and done.content[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("fields", "param", "known"),
    [
        ({"emotion": "furious"}, "emotion", "neutral, happy, sad, angry, surprised"),
        ({"pitch": "shrill"}, "pitch", "normal, low, high"),
        ({"audio": {"voice": "female"}}, "audio.voice", "male, robot"),
        ({"audio": {"voice": "nova"}}, "audio.voice", "male, robot"),
    ],
)
def test_other_words_are_refused_with_what_there_is(client, fields, param, known) -> None:
    answer = ask(client, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and known in error["message"]


def test_the_document_lists_the_words(client) -> None:
    document = client.get("/openapi.json").json()
    found: dict[str, list] = {"emotion": [], "pitch": []}
    for schema in document["components"]["schemas"].values():
        for name, words in found.items():
            field = schema.get("properties", {}).get(name, {})
            words += [each["enum"] for each in (field, *field.get("anyOf", ())) if "enum" in each]
    assert len(found["emotion"]) >= 3 and all(words == list(STYLES.emotions) for words in found["emotion"])
    assert len(found["pitch"]) >= 3 and all(words == list(STYLES.pitches) for words in found["pitch"])
    assert "x-emova" not in str(document)


def test_the_demo_offers_them(assistant) -> None:
    pytest.importorskip("gradio")
    from emova_app.demo.views import talk, tool

    page = talk(assistant.styles, "", "en", sees=True)
    for shown in (page, tool("speak", assistant.styles)):
        assert all(f'value="{word}"' in shown for word in (*STYLES.emotions, *STYLES.pitches))
    assert f"{len(STYLES)} styles" in page
