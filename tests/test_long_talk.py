"""Twenty turns with emova-nano: the last answers are as good as the first, and a long history costs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emova.assistant import Assistant
from emova.engine.decoder import EngineDecoder
from emova.events import Done, Reply
from emova.reply.parser import KEYS, SpokenReply
from emova.session.scheduler import Scheduler
from emova.speech.audio import load_audio

FIXTURES = Path(__file__).parents[1] / "eval" / "emova_eval" / "fixtures"
QUESTIONS = [json.loads(line) for line in (FIXTURES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
ABOUT_PICTURES = [json.loads(line) for line in (FIXTURES / "pictures.jsonl").read_text(encoding="utf-8").splitlines()]
TURNS = 20
SCHEMA = {word for key in KEYS for word in key.split()} - {"user", "text", "speech"} | {"JSON"}


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_pretrained("emova-nano")


def alike(first: str, second: str) -> float:
    one, other = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(one & other) / max(1, len(one | other))


def questions(by: str) -> list[dict]:
    """The keywords of twenty turns: written, spoken, about a new picture each, or all of these in turns."""
    found = []
    for number in range(TURNS):
        kind = ("text", "voice", "picture")[number % 3] if by == "mixed" else by
        if kind == "picture":
            row = ABOUT_PICTURES[5 * number % len(ABOUT_PICTURES)]
            found.append({"text": row["question"], "image": str(FIXTURES / row["image"])})
        else:
            row = QUESTIONS[5 * number % len(QUESTIONS)]
            found.append({"audio": str(FIXTURES / row["audio"])} if kind == "voice" else {"text": row["question"]})
    return found


def answers(assistant: Assistant, by: str, through: str) -> Iterator[Reply]:
    conversation, scheduler = assistant.conversation(), Scheduler(assistant)
    session = scheduler.open()
    for question in questions(by):
        if through == "conversation":
            yield conversation.chat(**question)
            continue
        if "image" in question:
            session.show(question["image"])
        if "audio" in question:
            session.hear(load_audio(question["audio"], 16_000))
        yield from (event.reply for event in session.ask(question.get("text")) if isinstance(event, Done))
    session.close()


@pytest.mark.parametrize("through", ["conversation", "session"])
@pytest.mark.parametrize("by", ["text", "voice", "picture", "mixed"])
def test_the_last_answers_are_as_good_as_the_first(assistant: Assistant, by: str, through: str) -> None:
    found = []
    for question, reply in zip(questions(by), answers(assistant, by, through), strict=True):
        assert not SCHEMA & set(reply.text.split()), reply.text
        assert len(reply.units) >= len(reply.text) / 4, "speech far shorter than its text needs"
        found.append(alike(reply.text, assistant.chat(**question).text))
    # Rubble is alike to nothing.
    first, last = found[:8], found[-8:]
    assert sum(last) >= sum(first) - 2, found


def test_what_cannot_fit_is_forgotten_and_not_read(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    assert isinstance(assistant.decoder, EngineDecoder)
    forward = assistant.decoder.engine.llama.forward

    def counted(sequences, *rest, **how):
        read.extend(len(new) for _, new in sequences)
        return forward(sequences, *rest, **how)

    monkeypatch.setattr(assistant.decoder.engine.llama, "forward", counted)
    counts = []
    for turns in (20, 250):
        read.clear()
        session = Scheduler(assistant).open()
        for _ in range(turns):
            session.recall(
                SpokenReply("How are you?", "I am fine, thank you.", "neutral", "normal", ()), "How are you?"
            )
        next(iter(session.ask("Hello!")))
        session.close()
        counts.append(sum(read))
    assert counts[1] < counts[0] + 50 and counts[1] < 2 * assistant.trained_context
