"""What goes wrong in a session is told by an event, leaves the session reusable and the others untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import BusyError, ClosedError, InputError, InternalFault, TooLongError
from emova.events import AudioChunk, Cancelled, Done, Failed
from emova.reply.format import ReplyLimits
from emova.session.scheduler import Scheduler
from tests.fixtures_speech import BABBLE
from tests.replies import last_reply

LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=40)
RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")


def question(seconds: float = 0.5) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * 0.1)).astype(np.float32)


@pytest.fixture(scope="module")
def assistant(tiny_checkpoint) -> Assistant:
    return Assistant.from_pretrained(tiny_checkpoint, config=AssistantConfig(reply_guard=BABBLE, reply_limits=LIMITS))


@pytest.fixture()
def scheduler(assistant) -> Scheduler:
    return Scheduler(assistant)


@pytest.fixture()
def read(scheduler, monkeypatch) -> list[int]:
    """The number of positions of each of the language model's forward passes."""
    counts: list[int] = []
    forward = scheduler.engine.llama.forward

    def counted(sequences, **options):
        counts.append(sum(len(new) for _, new in sequences))
        return forward(sequences, **options)

    monkeypatch.setattr(scheduler.engine.llama, "forward", counted)
    return counts


def answers(session, text: str | None = None):
    """The reply, which is whole."""
    last = list(session.ask(text))[-1]
    assert isinstance(last, Done), last
    return last.reply


def test_a_second_question_reads_only_what_is_new(assistant, scheduler, read) -> None:
    """The picture and the first turn stay in the cache; at the end of speech only the last units are left to read."""
    session = scheduler.open()
    session.show(RED)
    pictured = sum(read)
    assert pictured >= 4, "a picture is read when it is shown"
    for chunk in np.array_split(question(2.0), 9):
        session.hear(chunk)
    heard = len(session.question.sound.units)
    assert sum(read) - pictured >= heard > 30
    first = answers(session)
    length = session.history.context.length
    for chunk in np.array_split(question(2.0), 9):
        session.hear(chunk)
    read.clear()
    events = session.ask()
    next(events)
    # Units that were held back, the text around them, and the reply's forced beginning.
    assert read[0] < 16 + len(assistant.table.encode('{"user question text": "')) + 8
    last = [event for event in events][-1]
    assert isinstance(last, Done) and session.history.context.length > length
    chat = assistant.conversation()
    assert chat.chat(audio=question(2.0), image=RED).units == first.units
    assert chat.chat(audio=question(2.0)).units == last.reply.units


def test_room_is_made_while_the_question_is_spoken(assistant, scheduler, read) -> None:
    """A turn that has to be forgotten costs nothing at the end of speech: the question is read anew before."""
    session = scheduler.open()
    for turn in range(2):
        for chunk in np.array_split(question(13.0), 40):
            session.hear(chunk)
        assert len(session) == 0, "the first turn has left" if turn else ""
        read.clear()
        events = session.ask()
        next(events)
        assert read[0] < 16 + len(assistant.table.encode('{"user question text": "')) + 8
        assert isinstance(list(events)[-1], Done)


def test_a_cancel_stops_at_once(scheduler, read, monkeypatch) -> None:
    """Neither the language model nor the voice does anything more, and the queue is empty."""
    session = scheduler.open()
    events = session.ask("Hello.")
    while not isinstance(next(events), AudioChunk):
        pass
    speaking, steps = session.assembler.speaking, len(read)
    monkeypatch.setattr(speaking, "step", lambda *_: pytest.fail("spoken after the cancel"))
    session.cancel()
    assert [type(event) for event in events] == [Cancelled]
    assert len(read) == steps and not session._queue and session.request is None
    answers(session, "And now?")


def test_audio_that_ends_in_mid_frame(assistant, scheduler) -> None:
    session = scheduler.open()
    speech = question()[: 8_000 - 77]
    for chunk in np.split(speech, [1, 400, 401, 1_000, 7_000]):
        session.hear(chunk)
    reply = answers(session)
    assert reply.units == assistant.chat(audio=speech).units


def test_a_session_closed_in_mid_chunk(scheduler) -> None:
    session, other = scheduler.open(), scheduler.open()
    session.show(RED)
    session.hear(question()[:333])
    session.close()
    session.close()
    assert len(scheduler) == 1 and not session.history.turns
    with pytest.raises(InputError, match="closed"):
        session.hear(question()[:333])
    answers(other, "Hello.")


def test_another_sample_rate_in_mid_question(assistant, scheduler) -> None:
    session = scheduler.open()
    session.hear(question()[:4_000], 16_000)
    with pytest.raises(InputError, match="resample"):
        session.hear(question(), 44_100)
    session.hear(question()[4_000:], 16_000)
    assert answers(session).units == assistant.chat(audio=question()).units


def test_silence_beside_a_text_is_as_if_nothing_was_heard(scheduler) -> None:
    plain, session = scheduler.open(), scheduler.open()
    wanted = last_reply(plain.ask("How are you?"))
    session.hear(np.zeros(16_000, dtype=np.float32))
    told = list(session.ask("How are you?"))
    assert (told[-1].reply.text, told[-1].reply.units) == (wanted.text, wanted.units)
    assert session.asked_units == () and session.history.turns[0].question.ids == plain.history.turns[0].question.ids


def test_silence_and_a_minute_of_noise(assistant, scheduler) -> None:
    session, other = scheduler.open(), scheduler.open()
    wanted = answers(other, "Hello.").units
    for _ in range(3):
        session.hear(np.zeros(16_000, dtype=np.float32))
    (failed,) = session.ask()
    assert isinstance(failed, Failed) and "silence" in failed.message
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="shorter|stop earlier"):
        for _ in range(60):
            session.hear(rng.normal(scale=0.2, size=16_000).astype(np.float32))
    session.hear(rng.normal(scale=0.2, size=16_000).astype(np.float32))
    assert isinstance(list(session.ask())[-1], Done), "noise that fits is answered"
    fresh = scheduler.open()
    assert (
        answers(fresh, "Hello.").units == wanted and session.history.context.length <= scheduler.engine.llama.max_length
    )


def test_a_picture_replaced_in_mid_turn(assistant, scheduler) -> None:
    session = scheduler.open()
    session.show(BLUE)
    session.hear(question()[:5_000])
    session.show(RED)
    session.hear(question()[5_000:])
    assert answers(session).units == assistant.chat(audio=question(), image=RED).units
    with pytest.raises(InputError):
        session.show(b"no picture")
    answers(session, "And now?")


def test_a_picture_shown_while_a_reply_is_spoken_is_refused_and_the_reply_goes_on(assistant, scheduler) -> None:
    wanted = last_reply(scheduler.open().ask("Hello?"))
    session = scheduler.open()
    told = session.ask("Hello?")
    next(told)
    with pytest.raises(InputError, match="cancel it first"):
        session.show(RED)
    assert last_reply(told).units == wanted.units


def test_a_voice_that_emits_nan(scheduler) -> None:
    """A planted fault in one session's sound."""
    session, other = scheduler.open(), scheduler.open()
    reader = other.ask("Hello.")
    next(reader)

    class Damaged:
        def step(self, units):
            return torch.full((1, 960), float("nan"))

        finish = step

    events = session.ask("Hello.")
    session.assembler.speaking._stream = Damaged()
    *_, failed = events
    assert isinstance(failed, Failed) and "voice" in failed.message and len(session) == 0
    wanted = [event for event in reader][-1].reply.units
    assert answers(session, "Hello.").units == wanted


def test_reading_goes_on_after_a_long_pause(assistant) -> None:
    """Back-pressure: a reader that stops holds its own reply only, and finds it whole when it comes back."""
    scheduler = Scheduler(assistant)
    slow, quick = scheduler.open(), scheduler.open()
    waiting = slow.ask("Who is it?")
    next(waiting)
    for _ in range(2):
        answers(quick, "Hello.")
    assert len(slow._queue) <= scheduler.config.max_events + 3
    assert last_reply(waiting).units == assistant.chat(text="Who is it?").units


def test_a_round_that_fails_is_no_users_doing(assistant, scheduler, monkeypatch) -> None:
    """Whoever wrote in it gets an InternalFault, not an InputError; all go on after it."""
    session = scheduler.open()
    wanted = answers(session, "Hello.").units
    fresh, (sentence,) = scheduler.open(), assistant.reading("Hello.")
    events, task = fresh.ask("Hello."), scheduler.write(sentence.prompt, sentence.grammar())
    next(events)
    next(task)
    with monkeypatch.context() as planted:
        planted.setattr(scheduler.engine, "step", lambda _: 1 / 0)
        *_, failed = events
        with pytest.raises(InternalFault):
            list(task)
    assert isinstance(failed, Failed) and isinstance(failed.error, InternalFault) and "division" not in failed.message
    assert answers(fresh, "Hello.").units == wanted and len(scheduler) == 2


def test_what_is_wrong_with_a_question_is_a_type(scheduler) -> None:
    """A chunk that is no sound leaves the question as it was; one too many ends it; a full house says to come again."""
    session = scheduler.open()
    session.hear(question())
    heard = len(session.question.sound.units)
    for chunk in (np.zeros((2, 5)), "loud", np.full(5, np.nan), np.full(5, 3e4)):
        with pytest.raises(InputError) as wrong:
            session.hear(chunk)
        assert not isinstance(wrong.value, TooLongError) and len(session.question.sound.units) == heard > 0
    with pytest.raises(TooLongError):
        session.hear(question(61.0))
    assert session.question.empty and isinstance(list(session.ask("Hello."))[-1], Done)
    others = [scheduler.open() for _ in range(scheduler.config.max_sessions - 1)]
    with pytest.raises(BusyError):
        scheduler.open()
    others[0].close()
    with pytest.raises(ClosedError):
        others[0].hear(question())
