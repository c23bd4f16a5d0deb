"""Speech that is longer than the model was trained on: what is written down of its beginning, and where it is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from emova import Assistant
from emova.cli.common import EXAMPLES
from emova.decoding.alignment import align
from emova.events import Done, Failed, Reply, TranscriptDelta
from emova.session.long_speech import SpeechWindow
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from emova.speech.audio import load_audio


@pytest.fixture(scope="module")
def nano() -> Assistant:
    return Assistant.from_pretrained()


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """Twenty-two seconds: the shipped question, again and again."""
    once = load_audio(EXAMPLES / "question.wav", 16_000)
    return np.resize(np.concatenate([once, np.zeros(4_000, dtype=np.float32)]), 22 * 16_000)


def likeliest(log_probs: np.ndarray, tokens: tuple[int, ...]) -> float:
    """Over all alignments, one by one."""
    blank, best = log_probs.shape[1] - 1, -np.inf
    for path in itertools.product(range(blank + 1), repeat=len(log_probs)):
        if tuple(token for token, _ in itertools.groupby(path) if token != blank) == tokens:
            best = max(best, float(log_probs[range(len(path)), path].sum()))
    return best


@pytest.mark.parametrize("tokens", [(0,), (0, 1), (1, 1), (0, 0, 1), (1, 0, 1)])
def test_an_alignment_is_the_likeliest_of_all(tokens: tuple[int, ...]) -> None:
    log_probs = np.log(np.random.default_rng(len(tokens)).dirichlet([1, 1, 1], 6))
    places = align(log_probs, tokens)
    assert places is not None and (places[:, 0] <= places[:, 1]).all() and (places[1:, 0] > places[:-1, 1]).all()
    path = np.full(6, 2)
    for token, (first, last) in zip(tokens, places, strict=True):
        path[first : last + 1] = token
    assert np.isclose(log_probs[range(6), path].sum(), likeliest(log_probs, tokens))


def test_a_text_without_room_has_no_alignment() -> None:
    log_probs = np.log(np.full((3, 3), 1 / 3))
    assert align(log_probs, (0, 0)) is not None
    assert align(log_probs, (0, 0, 0)) is None
    assert align(log_probs, (0, 1, 0, 1)) is None


def answered(session: Session) -> tuple[str, Reply]:
    """The transcript as it was streamed, and the reply."""
    said = ""
    for event in session.ask():
        assert not isinstance(event, Failed), event
        if isinstance(event, TranscriptDelta):
            said += event.text
        if isinstance(event, Done):
            return said, event.reply
    raise AssertionError("a reply without an end")


def test_streamed_equals_offline_however_the_sound_comes_in(nano: Assistant, talk: np.ndarray) -> None:
    """The words that were committed while it was spoken, those behind them, and the answer."""
    whole = nano.chat(audio=talk)
    assert whole.transcript.count("How much") + whole.transcript.count("how much") > 8
    scheduler, random = Scheduler(nano), np.random.default_rng(0)
    for most in (1_000, 60_000):
        session, at, before, draft = scheduler.open(), 0, "", ""
        assert session.so_far() == ("", "")
        while at < len(talk):
            size = int(random.integers(1, most))
            session.hear(talk[at : at + size])
            at += size
            stays, draft = session.so_far()
            assert stays.startswith(before) and whole.transcript.startswith(stays)
            before = stays
        assert "cheese" in draft and before
        streamed, reply = answered(session)
        assert session.so_far() == ("", "")
        assert streamed == reply.transcript == whole.transcript
        assert (reply.text, reply.units) == (whole.text, whole.units)
        assert session.asked_units == tuple(nano.listen(talk))
        session.close()


def test_a_window_is_the_same_however_the_units_come_in(nano: Assistant, talk: np.ndarray) -> None:
    units = nano.listen(talk)
    whole = SpeechWindow.of(nano, units)
    assert whole.lead and len(whole.units) <= nano.speech_window + 25
    assert units[-len(whole.units) :] == whole.units
    window, at, random = SpeechWindow(nano), 0, np.random.default_rng(1)
    while at < len(units):
        size = int(random.integers(0, 40))
        window.step(units[at : at + size])
        at += size
    assert (window.lead, window.units) == (whole.lead, whole.units)
    assert nano.transcribe_units(units).startswith(whole.lead)


def test_what_stays_in_the_context_is_what_would_be_read_anew(nano: Assistant, talk: np.ndarray) -> None:
    """Behind an earlier turn, and with a picture: after a cut the context is that of the shorter speech."""
    picture = Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8))
    scheduler = Scheduler(nano)
    one, other = scheduler.open(), scheduler.open()
    for session in (one, other):
        session.hear(talk[:32_000])
        answered(session)
    one.show(picture)
    for start in range(0, len(talk), 4_000):
        one.hear(talk[start : start + 4_000])
    other.hear(talk)
    other.show(picture)  # reads all of it again
    assert one.history.context.length == other.history.context.length < nano.trained_context + 100
    assert answered(one)[1].units == answered(other)[1].units
    scheduler.close()


def test_short_speech_is_read_whole(nano: Assistant, talk: np.ndarray) -> None:
    units = nano.listen(talk[: 10 * 16_000])
    window = SpeechWindow.of(nano, units)
    assert (window.lead, window.units) == ("", units)
