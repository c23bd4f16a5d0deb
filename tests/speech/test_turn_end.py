"""Turns that end by their words: what is complete, how long it waits, and the shipped model's ears on real speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emova
from emova import Assistant
from emova.core.errors import InputError
from emova.speech.audio import load_audio
from emova.speech.turn_end import EAGERNESS, Completeness, SemanticTurnConfig, SemanticTurnTaking, completeness
from emova.speech.vad import RATE, WINDOW, Going, Paused, Started, Stopped
from tests.hearing import understood

COMPLETE = """How much is the cheese?|What is this?|where are you from|Is the train on time|Yes.|thanks|Hello!
I would like the red apple.|Stop|What are you looking at?|Where is it?|It is late. How are you?"""
INCOMPLETE = """How much is the?|I would like to know how much the|And|Well, um|I bought apples,|It is because
the price of.|I went to|We had bread and|So...|It is late. And|I saw a red ball —"""
OPEN = "How much?|The cheese|42|one red apple||Uno dos|...?"


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [(COMPLETE, Completeness.COMPLETE), (INCOMPLETE, Completeness.INCOMPLETE), (OPEN, Completeness.OPEN)],
)
def test_words(texts: str, wanted: Completeness) -> None:
    for text in texts.replace("\n", "|").split("|"):
        assert completeness(text) is wanted, text


def pause(taking: SemanticTurnTaking, said: str | None) -> int:
    """Silence, in ms, after which a turn ends, if ``said`` was heard before it."""
    silence = 0
    for _ in range(1000):
        for turn in taking.step(np.zeros(WINDOW, dtype=np.float32)):
            if isinstance(turn, Paused) and said is not None:
                taking.said(said)
            if isinstance(turn, Stopped):
                return silence + 32
        silence += 32
    raise AssertionError("the turn does not end")


@pytest.mark.parametrize("eagerness", EAGERNESS)
@pytest.mark.parametrize(
    ("said", "wait"),
    [("What is this?", "complete_ms"), ("The cheese", "open_ms"), ("And", "incomplete_ms"), (None, "incomplete_ms")],
)
def test_the_wait_is_the_words(eagerness: str, said: str | None, wait: str) -> None:
    levels = iter([1.0] * 4)
    taking = SemanticTurnTaking(SemanticTurnConfig(eagerness), detector=lambda window: next(levels, 0.0))
    for _ in range(4):
        taking.step(np.zeros(WINDOW, dtype=np.float32))
    assert taking.speaking
    wanted = getattr(EAGERNESS[eagerness], wait)
    assert wanted <= pause(taking, said) < wanted + 64


def test_speech_goes_on_after_a_pause() -> None:
    speech = [1.0] * 5 + [0.0] * 12 + [1.0] * 5
    levels = iter(speech)
    taking = SemanticTurnTaking(SemanticTurnConfig("high"), detector=lambda window: next(levels, 0.0))
    turns = []
    for _ in speech:
        turns += (now := taking.step(np.zeros(WINDOW, dtype=np.float32)))
        for turn in now:
            if isinstance(turn, Paused):
                taking.said("How much is the")
    assert [type(turn) for turn in turns if not isinstance(turn, Going)] == [Started, Paused]
    assert [turn.speech for turn in turns if isinstance(turn, Going)] == [True] * 3 + [False] * 12 + [True] * 5
    assert pause(taking, "How much is the cheese?") < 400, "the words of the new pause count"


def test_eagerness_is_checked() -> None:
    with pytest.raises(InputError, match="eagerness"):
        SemanticTurnConfig("wild")


# --- real speech ------------------------------------------------------------------------------------------------------
QUESTION = load_audio(Path(emova.__file__).parent / "checkpoints" / "examples" / "question.wav", RATE)
CUT = int(0.5 * len(QUESTION))  # "How much is the ... cheese?"


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_pretrained()


def spoken_turns(assistant: Assistant, sound: np.ndarray, eagerness: str) -> tuple[list[int], list[str]]:
    """When turns end in ``sound``, in ms, and what the model understood at the pauses."""
    pytest.importorskip("silero_vad")
    said: list[str] = []
    ends: list[int] = []
    heard: list[np.ndarray] = []
    taking = SemanticTurnTaking(SemanticTurnConfig(eagerness))
    for window in sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW):
        for turn in taking.step(window):
            if isinstance(turn, Started | Going):
                heard.append(turn.samples)
            elif isinstance(turn, Paused):
                said.append(assistant.transcribe(np.concatenate(heard)))
                taking.said(said[-1])
            else:
                ends.append(turn.at_ms)
                heard.clear()
    return ends, said


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), dtype=np.float32)


def test_a_long_pause_in_the_middle_does_not_end_the_turn(assistant) -> None:
    sound = np.concatenate([silence(0.5), QUESTION[:CUT], silence(1.8), QUESTION[CUT:], silence(3)])
    ends, heard = spoken_turns(assistant, sound, "low")
    assert len(ends) == 1 and ends[0] > 1000 * (0.5 + 1.8 + len(QUESTION) / RATE), (ends, heard)
    # A plain wait of half a second would have cut it.
    assert len(heard) == 2


def test_a_complete_question_is_answered_soon(assistant) -> None:
    spoken = 1000 * (0.5 + len(QUESTION) / RATE)
    waited = {}
    for eagerness in ("high", "medium", "low"):
        ends, (heard,) = spoken_turns(assistant, np.concatenate([silence(0.5), QUESTION, silence(3)]), eagerness)
        assert understood(heard), heard
        waited[eagerness] = ends[0] - spoken
    assert waited["high"] < waited["medium"] < waited["low"] < 1100
    assert waited["high"] < 450
