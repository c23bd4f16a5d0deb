"""A reply that is none is written again from a shorter history, and nothing that was handed out is contradicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from emova.assistant import Assistant, AssistantConfig
from emova.core.errors import GarbledReplyError
from emova.events import AudioChunk, Done, Event, Failed, Reply, SessionEvent
from emova.reply.guard import ReplyGuard
from emova.reply.json import JsonReply
from emova.reply.parser import KEYS, SpokenReply, StyleChosen, TextDelta, TranscriptDelta
from emova.session.config import SchedulerConfig
from emova.session.output import Holding
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from emova.speech.voice import ChunkPlan
from tests.replies import last_reply

EARLIER = ("Hello!", "I passed my exam!", "What can you do?", "Tell me about the sea.")
QUESTION = "I am so tired today."


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_pretrained("emova-nano", config=AssistantConfig(admit_doubt=False))


@pytest.fixture()
def garbled(monkeypatch) -> Callable[..., list[str]]:
    """Takes the first ``times`` texts (as soon as they are ``after`` characters long) or speeches for garbled."""

    def take(what: str, times: int, after: int = 0) -> list[str]:
        found: list[str] = []

        def check(self: ReplyGuard, text: str, *_: object) -> None:
            if len(found) < times and len(text) > after:
                found.append(text)
                raise GarbledReplyError

        monkeypatch.setattr(ReplyGuard, f"check_{what}", check)
        return found

    return take


def session_after(assistant: Assistant, turns: tuple[str, ...], first: int = 5) -> Session:
    session = Scheduler(assistant, SchedulerConfig(chunks=ChunkPlan(first=first))).open()
    for text in turns:
        done = list(session.ask(text))[-1]
        assert isinstance(done, Done)
    return session


def answer_after(assistant: Assistant, turns: list[tuple[str, Reply]]) -> Reply:
    """What is answered to the question after these turns alone."""
    session = session_after(assistant, ())
    for text, reply in turns:
        session.recall(SpokenReply(text, reply.text, reply.emotion, reply.pitch, reply.units), text)
    return last_reply(session.ask(QUESTION))


def same(one: Reply, other: Reply) -> bool:
    return (one.transcript, one.text, one.emotion, one.pitch, one.units) == (
        other.transcript, other.text, other.emotion, other.pitch, other.units
    ) and np.allclose(one.audio, other.audio, atol=1e-5)  # fmt: skip


def handed_out(events: list[SessionEvent] | list[Event], kind: type[TextDelta | TranscriptDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("through", ["session", "conversation"])
def test_a_garbled_text_is_written_again_from_the_newer_half_of_the_turns(assistant, garbled, through) -> None:
    events: list
    if through == "session":
        session = session_after(assistant, ())
        replies = [last_reply(session.ask(text)) for text in EARLIER]
        history = session.history
        found = garbled("text", 1, after=8)
        events = list(session.ask(QUESTION))
    else:
        conversation = assistant.conversation()
        replies = [conversation.chat(text=text) for text in EARLIER]
        history = conversation.history
        found = garbled("text", 1, after=8)
        events = list(conversation.stream(text=QUESTION))
    assert found
    assert isinstance(events[-1], Done)
    assert handed_out(events, TranscriptDelta) == QUESTION
    assert handed_out(events, TextDelta) == last_reply(events).text
    assert sum(isinstance(event, StyleChosen) for event in events) == 1
    heard = np.concatenate([event.samples for event in events if isinstance(event, AudioChunk)])
    assert np.array_equal(heard, last_reply(events).audio)
    kept = len(history) - 1
    assert 0 < kept < len(EARLIER) - 1
    assert same(last_reply(events), answer_after(assistant, list(zip(EARLIER, replies, strict=True))[-kept:]))


def test_what_was_said_aloud_is_said_again_in_the_same_words(assistant, garbled) -> None:
    session = session_after(assistant, EARLIER, first=10_000)
    found = garbled("speech", 1)
    events = list(session.ask(QUESTION))
    assert isinstance(events[-1], Done)
    assert [handed_out(events, TextDelta)] == found == [last_reply(events).text]
    assert sum(isinstance(event, StyleChosen) for event in events) == 1


def test_it_is_told_when_it_is_garbled_again_or_was_heard_already(assistant, garbled) -> None:
    session = session_after(assistant, EARLIER)
    found = garbled("text", 2)
    events = list(session.ask(QUESTION))
    assert len(found) == 2
    assert [type(event) for event in events] == [TranscriptDelta, Failed]
    assert isinstance(events[-1], Failed) and isinstance(events[-1].error, GarbledReplyError)
    assert isinstance(list(session.ask(QUESTION))[-1], Done), "the session goes on"

    session = session_after(assistant, EARLIER)
    before = len(session)
    garbled("speech", 1)
    events = list(session.ask(QUESTION))
    assert any(isinstance(event, AudioChunk) for event in events)
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1], Failed) and isinstance(events[-1].error, GarbledReplyError)
    assert len(session) in (before, before - 1), "room may have been made for the question"


def test_without_a_history_a_reply_is_what_the_model_has_to_say(assistant, garbled) -> None:
    found = garbled("text", 1)
    assert assistant.chat(text=QUESTION).text
    assert not found


def test_a_long_text_does_not_wait_for_its_end() -> None:
    holding = Holding(most=5)
    assert holding.take(TextDelta("One ")) == []
    assert holding.take(TextDelta("two ")) == [TextDelta("One "), TextDelta("two ")]
    assert holding.take(TextDelta("three")) == [TextDelta("three")]
    assert not holding.repeatable


def garbage() -> Iterator[str]:
    yield "user question text"
    yield "I like response, Emotion and JSON"
    yield from KEYS
    yield 'Yes. "assistant response emotion": happy'


@pytest.mark.parametrize("text", list(garbage()))
def test_words_of_the_format_side_by_side_are_garbled(text) -> None:
    with pytest.raises(GarbledReplyError):
        ReplyGuard().check_text(text, JsonReply.schema)


@pytest.mark.parametrize("text", ["I like the pitch of it.", "A question for the user.", ""])
def test_ordinary_words_are_not(text) -> None:
    ReplyGuard().check_text(text, JsonReply.schema)


def test_speech_has_units_for_its_letters() -> None:
    guard = ReplyGuard()
    guard.check_speech("It is 12.", 4)
    with pytest.raises(GarbledReplyError):
        guard.check_speech("It is a long way to the sea.", 1)
