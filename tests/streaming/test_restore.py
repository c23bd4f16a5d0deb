"""Another past for a session: the same turns, restored, answer as the turns that were lived."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.engine.engine import EngineConfig
from emova.events import Done
from emova.reply.format import ReplyLimits
from emova.session.past import PastTurn
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from tests.fixtures_speech import BABBLE


@pytest.fixture(scope="module")
def assistant(tiny_checkpoint) -> Assistant:
    limits = ReplyLimits(max_transcript_tokens=8, max_text_tokens=8, max_units=20)
    config = AssistantConfig(reply_guard=BABBLE, reply_limits=limits, engine=EngineConfig(half_cache=False))
    return Assistant.from_pretrained(tiny_checkpoint, config=config)


@pytest.fixture()
def session(assistant):
    scheduler = Scheduler(assistant)
    yield scheduler.open()
    scheduler.close()


def sound(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, 8000).astype(np.float32)


def lived(session: Session, turns: list[tuple[bool, int | None, str | None]]) -> list[PastTurn]:
    """Talk, and the turns as they would be restored: with a picture or none, a sound's seed, a text."""
    past = []
    for shown, seed, text in turns:
        if shown:
            session.show(Image.new("RGB", (40, 40), "red"))
        if seed is not None:
            session.hear(sound(seed))
        picture = session.picture
        assert isinstance(list(session.ask(text))[-1], Done)
        past.append(PastTurn(picture, session.asked_units, text, session.last_reply))
    return past


def ids(session: Session) -> list[tuple[int, ...]]:
    return [turn.question.ids + turn.answer for turn in session.history.turns]


TURNS: list[tuple[bool, int | None, str | None]] = [(True, 1, None), (False, None, "Hello."), (False, 2, "And this?")]


def test_restored_equals_lived(session) -> None:
    past = lived(session, TURNS)
    before, wanted = ids(session), list(session.ask("Well?"))[-1]
    session.restore(past)
    assert ids(session) == before and session.sees
    assert list(session.ask("Well?"))[-1].reply.units == wanted.reply.units
    session.restore(past[1:])
    assert ids(session) == before[1:] and not session.sees, "the picture is gone with its turn"
    session.restore([])
    assert not len(session) and session.last_reply is None


def test_a_question_that_was_begun_goes_on(session) -> None:
    session.show(Image.new("RGB", (40, 40), "blue"))
    session.hear(sound(3))
    picture = session.picture
    list(session.ask())
    whole, units = ids(session), session.asked_units
    session.restore([], PastTurn(picture, units))
    list(session.ask())
    assert ids(session) == whole and session.asked_units == units
    session.restore([], PastTurn(units=units))
    session.hear(sound(4))
    list(session.ask())
    assert session.asked_units[: len(units)] == units and len(session.asked_units) > len(units)


def test_only_what_fits_is_restored(assistant, session) -> None:
    (turn,) = lived(session, [(False, None, "Hello.")])
    session.restore([turn] * 1000)
    assert 2 <= len(session) < 1000
    assert sum(map(len, session.history.turns)) <= assistant.trained_context
