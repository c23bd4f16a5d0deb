"""Twenty turns with emova-nano through the server and the demo: the last answers are as good as the first."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from emova.assistant import Assistant
from emova.speech.audio import load_audio
from tests.app.fixtures_realtime import KEY, MODEL, RATE, calling
from tests.test_long_talk import SCHEMA, alike, questions

openai = pytest.importorskip("openai")
pytest.importorskip("websockets")


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_pretrained()


@pytest.fixture(scope="module")
def served(assistant: Assistant, serving) -> Iterator[Any]:
    from emova_app.server.config import ServerConfig

    with serving(assistant, ServerConfig(port=0, api_key=KEY, drain_seconds=2)) as server:
        yield server


def data(path: str) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def by_chat(served: Any, asked: list[dict]) -> Iterator[str]:
    client = openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60)
    messages: list[dict] = []
    for question in asked:
        content: list[dict] = []
        if "image" in question:
            content.append(
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data(question['image'])}"}}
            )
        if "audio" in question:
            content.append({"type": "input_audio", "input_audio": {"data": data(question["audio"]), "format": "wav"}})
        if "text" in question:
            content.append({"type": "text", "text": question["text"]})
        messages.append({"role": "user", "content": content})
        answer = client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content
        messages.append({"role": "assistant", "content": answer})
        yield answer


def by_realtime(served: Any, asked: list[dict]) -> Iterator[str]:
    with calling(served.url) as caller:
        caller.manual()
        for question in asked:
            parts: list[dict] = []
            if "image" in question:
                parts.append({"type": "input_image", "image_url": f"data:image/png;base64,{data(question['image'])}"})
            if "text" in question:
                parts.append({"type": "input_text", "text": question["text"]})
            if "audio" in question:
                caller.play(load_audio(question["audio"], RATE))
                caller.send("input_audio_buffer.commit")
            if parts:
                caller.send("conversation.item.create", item={"type": "message", "role": "user", "content": parts})
            response = caller.answer(output_modalities=["audio"])
            assert response["status"] == "completed"
            yield response["output"][0]["content"][0]["transcript"]


def by_demo(assistant: Assistant, asked: list[dict]) -> Iterator[str]:
    pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
    from emova.session.scheduler import Scheduler
    from emova.vision.image import load_image
    from emova_app.demo.conversation.asking import ask
    from emova_app.demo.conversation.page_session import Asked, PageSession
    from emova_app.demo.conversation.pages import Pages

    pages = Pages(Scheduler(assistant), 1)
    page = pages.enter()
    assert isinstance(page, PageSession)
    for question in asked:
        if "image" in question:
            page.new_picture(load_image(question["image"]))
        samples = load_audio(question["audio"], 16_000) if "audio" in question else None
        ask(page, Asked(samples, question.get("text"))).join()
        yield next(reversed(page.answers.values())).reply.text
    pages.close_all()


SLOW = {(by_chat, "voice"), (by_chat, "picture"), (by_chat, "mixed")}  # each request brings all recordings again
CONFUSED = {(by_chat, "mixed"), (by_realtime, "mixed"), (by_demo, "mixed")}
"""Talk and pictures in turns confuse emova-nano (its card says so): it stays speech."""
WAYS = [
    pytest.param(through, by, marks=pytest.mark.slow if (through, by) in SLOW else ())
    for through in (by_chat, by_realtime, by_demo)
    for by in ("text", "voice", "picture", "mixed")
]


@pytest.mark.parametrize(("through", "by"), WAYS)
def test_the_last_answers_are_as_good_as_the_first(assistant, served, through, by: str) -> None:
    asked = questions(by)
    found = []  # 0 to 1 a turn; rubble has 0.1, and a word heard otherwise at 24 kHz costs some
    for question, text in zip(asked, through(assistant if through is by_demo else served, asked), strict=True):
        assert text.strip() and not SCHEMA & set(text.split()), text
        found.append(alike(text, assistant.chat(**question).text))
    assert (through, by) in CONFUSED or np.sum(found[-8:]) >= np.sum(found[:8]) - 2, found
