"""Sessions on tiny parts: what is streamed in equals what is given whole; faults and cancels stay where they happen."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError
from emova.engine.engine import EngineConfig
from emova.events import AudioChunk, Cancelled, Done, Failed
from emova.reply.format import ReplyLimits
from emova.reply.parser import SpokenReply, StyleChosen, TextDelta, TranscriptDelta, merge_deltas
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova.session.takes import read_sentence
from tests.fixtures_speech import BABBLE
from tests.replies import last_reply

LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=8, max_units=40)
RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")


def question(seconds: float = 0.5, pitch: float = 300.0) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * pitch / 16_000 * 2 * np.pi)).astype(np.float32)


@pytest.fixture(scope="module")
def assistant(tiny_checkpoint) -> Assistant:
    # A prompt that is read in other pieces has other last digits. Rounded to float16, as keys and values else are, they
    # can differ enough to move a draw, on one processor or another.
    config = AssistantConfig(reply_guard=BABBLE, reply_limits=LIMITS, engine=EngineConfig(half_cache=False))
    return Assistant.from_pretrained(tiny_checkpoint, config=config)


@pytest.fixture()
def scheduler(assistant) -> Scheduler:
    return Scheduler(assistant)


def speak(session, seconds: float = 0.5, image=None) -> None:
    for chunk in np.array_split(question(seconds), 7):
        session.hear(chunk)
    if image is not None:
        session.show(image)


def test_a_session_equals_a_conversation(assistant, scheduler) -> None:
    """Heard in chunks, a picture that comes late and is replaced, two turns: the replies of the offline way."""
    session, chat = scheduler.open("male"), assistant.conversation("male")
    speak(session, image=BLUE)
    session.show(RED)
    events = list(session.ask())
    wanted = chat.chat(audio=question(), image=RED)
    order: list[type] = [type(event) for event in merge_deltas(events)]
    first = order.index(AudioChunk)
    assert order[:first] == [TranscriptDelta, TextDelta, StyleChosen][-first:] and order[-1] is Done
    reply = last_reply(events)
    assert (reply.transcript, reply.text, reply.units) == (wanted.transcript, wanted.text, wanted.units)
    assert np.abs(reply.audio - wanted.audio).max() < 1e-4
    chunks = [len(event.samples) // 960 for event in events if isinstance(event, AudioChunk)]
    assert np.array_equal(np.concatenate([e.samples for e in events if isinstance(e, AudioChunk)]), reply.audio)
    assert chunks[0] == 5 and len(reply.units) > 10
    second = last_reply(session.ask("And now?", emotion="sad"))
    assert second.units == chat.chat(text="And now?", emotion="sad").units and second.emotion == "sad"
    assert len(session) == len(chat) == 2
    assert all(value >= 0 for value in vars(reply.timings).values())


def test_streaming_thoughts_in_a_session(assistant, scheduler) -> None:
    """The other reply format, chosen at run time, behind the same protocol; the voice starts before the text ends."""
    thoughts = Assistant(assistant.parts, assistant.config, assistant.parts.model.config.reply_format("thoughts"))
    session, chat = Scheduler(thoughts).open(), thoughts.conversation()
    speak(session, image=RED)
    events, wanted = list(session.ask()), chat.chat(audio=question(), image=RED)
    reply = last_reply(events)
    assert (reply.text, reply.emotion, reply.units) == (wanted.text, wanted.emotion, wanted.units) and reply.text
    order = [type(event) for event in events]
    assert order.index(StyleChosen) < order.index(AudioChunk) and TranscriptDelta not in order
    second = last_reply(session.ask("And now?"))
    assert second.units == chat.chat(text="And now?").units
    # Broken off, only what was heard is remembered, in this format.
    told = session.ask("And then?")
    for event in told:
        if isinstance(event, AudioChunk):
            break
    session.cancel(heard_seconds=0.08)
    answer = session.history.turns[-1].answer
    assert sum(int(thoughts.table.unit_of[token]) >= 0 for token in answer) == 2 and len(session) == 3
    assert isinstance(list(session.ask("Hello?"))[-1], Done)
    with pytest.raises(InputError, match="unknown"):
        assistant.parts.model.config.reply_format("xml")


def test_thoughts_are_written_in_the_ratio_that_the_model_was_taught(tiny_checkpoint, tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "thoughts_ratio": [3, 7]}))
    assistant = Assistant.from_pretrained(folder, reply_format="thoughts")
    reply = assistant.chat(text="Hello?")
    tokens = assistant.reply_format.encode(
        SpokenReply("", reply.text, reply.emotion, reply.pitch, reply.units), assistant.table
    )
    runs = [len(list(run)) for unit, run in groupby(tokens, lambda token: assistant.table.unit_of[token] >= 0) if unit]
    assert len(runs) > 1 and set(runs[:-1]) == {7}
    events = list(Scheduler(assistant).open().ask("Hello?"))
    assert last_reply(events).units == reply.units


def test_the_question_is_read_while_it_is_spoken(scheduler) -> None:
    session = scheduler.open()
    session.show(RED)
    before = session.history.context.length
    speak(session, 2.0)
    heard = len(session.question.sound.units)
    assert heard > 40 and session.history.context.length >= before + heard
    list(session.ask())


def test_sessions_do_not_disturb_each_other(assistant, scheduler) -> None:
    wanted = [assistant.chat(text=text).units for text in ("Hello.", "Who is it?", "Red or blue?")]
    sessions = [scheduler.open() for _ in wanted]
    readers = [
        session.ask(text) for session, text in zip(sessions, ("Hello.", "Who is it?", "Red or blue?"), strict=True)
    ]
    replies: dict[int, object] = {}
    while len(replies) < 3:
        for index, reader in enumerate(readers):
            event = next(reader, None)
            if isinstance(event, Done):
                replies[index] = event.reply.units
    assert [replies[index] for index in range(3)] == wanted


def test_a_cancel_keeps_what_was_heard(scheduler) -> None:
    session = scheduler.open()
    events = session.ask("Hello.")
    for event in events:
        if isinstance(event, AudioChunk):
            break
    generation = session.generation
    session.cancel(heard_seconds=0.12)
    assert list(events) == [Cancelled(generation + 1, 3)]
    assert len(session) == 1 and session.request is None
    table = scheduler.assistant.table
    answer = session.history.turns[0].answer
    assert sum(int(table.unit_of[token]) >= 0 for token in answer) == 3 and answer[-1] == table.end_of_turn
    assert isinstance(list(session.ask("And?"))[-1], Done) and len(session) == 2


def test_a_cancel_while_the_last_sound_plays(scheduler) -> None:
    session = scheduler.open()
    reply = last_reply(session.ask("Hello."))
    session.cancel(heard_seconds=0.04)
    answer = session.history.turns[0].answer
    assert len(session) == 1 and sum(int(scheduler.assistant.table.unit_of[token]) >= 0 for token in answer) == 1
    session.cancel()
    assert len(session) == 1 and len(reply.units) > 1
    assert isinstance(list(session.ask("And?"))[-1], Done)
    generation = session.generation
    session.cancel()
    assert session.generation == generation and len(session) == 2, "all of it was heard"


def test_a_cancel_before_anything_was_heard_leaves_the_picture(assistant, scheduler) -> None:
    session = scheduler.open()
    session.show(RED)
    events = session.ask("What is it?")
    next(events)
    session.cancel()
    assert isinstance(list(events)[-1], Cancelled) and len(session) == 0
    assert last_reply(session.ask("Which?")).units == assistant.chat(text="Which?", image=RED).units


def test_a_reader_that_leaves_cancels(scheduler) -> None:
    session = scheduler.open()
    events = session.ask("Hello.")
    next(events)
    events.close()
    assert session.request is None and isinstance(list(session.ask("Hi."))[-1], Done)


def test_a_reader_that_stops_pauses_only_itself(assistant) -> None:
    scheduler = Scheduler(assistant, SchedulerConfig(max_events=2))
    stopped, other = scheduler.open(), scheduler.open()
    waiting = stopped.ask("Hello.")
    assert isinstance(list(other.ask("Who is it?"))[-1], Done)
    assert len(stopped._queue) <= 2 + 3 and not stopped.wants_tokens
    assert last_reply(waiting).units == assistant.chat(text="Hello.").units


def test_wrong_input_is_told_and_leaves_no_trace(assistant, scheduler) -> None:
    session = scheduler.open()
    wanted = assistant.chat(audio=question()).units
    for chunk in (np.zeros(9_000, dtype=np.float32), np.zeros(0, dtype=np.float32)):
        session.hear(chunk)
        (failed,) = session.ask()
        assert isinstance(failed, Failed)
    (failed,) = session.ask()
    assert "no question" in failed.message
    (failed,) = session.ask("Hi", emotion="odd")
    assert isinstance(failed, Failed)
    speak(session)
    with pytest.raises(InputError, match="resample"):
        session.hear(question(), 48_000)
    with pytest.raises(InputError, match="row"):
        session.hear(np.full(10, np.nan))
    assert last_reply(session.ask()).units == wanted, "the turn stayed as it was"
    with pytest.raises(InputError, match="shorter"):
        for _ in range(50):
            session.hear(question(1.0))
    assert isinstance(list(session.ask("Hi"))[-1], Done)


def test_planted_faults_stay_in_their_session(assistant, scheduler, monkeypatch) -> None:
    session, other = scheduler.open(), scheduler.open()
    wanted = assistant.chat(text="Hello.").units
    reader = other.ask("Hello.")
    next(reader)

    events = session.ask("Hello.")
    session.request.reading.left = session.request.reading.left * float("nan")
    *_, failed = events
    assert isinstance(failed, Failed) and "damaged" in failed.message

    events = session.ask("Hello.")
    monkeypatch.setattr(session.assembler.speaking, "step", lambda *_: 1 / 0)
    assert isinstance(list(events)[-1], Failed)

    assert last_reply(session.ask("Hello.")).units == wanted
    assert last_reply(reader).units == wanted


def test_a_session_closed_in_mid_reply(scheduler) -> None:
    session = scheduler.open()
    events = session.ask("Hello.")
    next(events)
    session.close()
    assert [type(event) for event in events] == [Failed] and len(scheduler) == 0
    with pytest.raises(InputError, match="closed"):
        session.hear(question())
    assert isinstance(next(session.ask("Hi")), Failed)


def test_idle_sessions_make_room(assistant) -> None:
    now = [0.0]
    scheduler = Scheduler(assistant, SchedulerConfig(max_sessions=2, idle_seconds=10), clock=lambda: now[0])
    first, second = scheduler.open(), scheduler.open()
    with pytest.raises(InputError, match="in use"):
        scheduler.open()
    now[0] = 11.0
    list(second.ask("Hi"))
    scheduler.open()
    assert first.closed and not second.closed and len(scheduler) == 2


def test_an_idle_session_ends_while_others_work(assistant) -> None:
    now = [0.0]
    scheduler = Scheduler(assistant, SchedulerConfig(max_sessions=8, idle_seconds=10), clock=lambda: now[0])
    idle, busy = scheduler.open(), scheduler.open()
    cache = weakref.ref(idle.history.context.cache.keys)
    for _ in range(5):
        now[0] += 3.0
        assert isinstance(list(busy.ask("Hi"))[-1], Done)
    assert idle.closed and not busy.closed and len(scheduler) == 1
    gc.collect()
    assert cache() is None, "its memory is still held"


def test_old_turns_leave_and_memory_is_bounded(scheduler) -> None:
    session = scheduler.open()
    for _ in range(5):
        speak(session, 3.0, RED)
        assert isinstance(list(session.ask())[-1], Done)
        assert session.history.context.length <= scheduler.engine.llama.max_length
    assert 1 <= len(session) < 5


def test_readers_in_threads_leave_no_thread(assistant, scheduler) -> None:
    before = threading.active_count()
    wanted = assistant.chat(text="Hello.").units
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(last_reply(scheduler.open().ask("Hello.")).units))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [wanted] * 3 and threading.active_count() == before


def test_a_recalled_turn_equals_one_that_happened(assistant, scheduler) -> None:
    """History that a client sends back is read as the model wrote it: the next reply is the same."""
    lived, recalled = scheduler.open(), scheduler.open()
    for session in (lived, recalled):
        speak(session, image=RED)
    reply = last_reply(lived.ask("What?"))
    said = SpokenReply(reply.transcript, reply.text, reply.emotion, reply.pitch, reply.units)
    recalled.recall(said, "What?")
    assert recalled.history.turns[0].question.ids == lived.history.turns[0].question.ids
    assert recalled.history.turns[0].answer == lived.history.turns[0].answer
    assert last_reply(lived.ask("And?")).units == last_reply(recalled.ask("And?")).units
    with pytest.raises(InputError, match="without a question"):
        scheduler.open().recall(said)


def test_what_was_heard_can_be_forgotten(assistant, scheduler) -> None:
    session = scheduler.open()
    session.show(RED)
    speak(session, 1.0)
    session.unhear()
    speak(session)
    assert last_reply(session.ask()).units == assistant.chat(audio=question(), image=RED).units


@pytest.mark.parametrize("seconds", [0.12, 0.0, 99.0])
def test_a_late_truncation_equals_an_early_one(scheduler, seconds: float) -> None:
    """Also when the next question is already being heard."""
    early, late = scheduler.open(), scheduler.open()
    replies = [last_reply(session.ask("Hello.")) for session in (early, late)]
    early.cancel(heard_seconds=seconds)
    speak(early)
    speak(late)
    kept = late.truncate(seconds)
    assert kept == min(round(seconds * 25), len(replies[1].units)) and len(late) == len(early) == bool(kept)
    assert [turn.answer for turn in late.history.turns] == [turn.answer for turn in early.history.turns]
    assert last_reply(late.ask()).units == last_reply(early.ask()).units


def test_single_tasks_run_beside_sessions(assistant, scheduler) -> None:
    session = scheduler.open()
    events = session.ask("Hello.")
    next(events)
    units: list[int] = []
    for sentence in assistant.reading("Hello there. How are you?"):
        units += read_sentence(assistant, sentence, scheduler.write_aloud, scheduler.lock)
    assert tuple(units) == assistant.speak("Hello there. How are you?").units
    assert last_reply(events).units == assistant.chat(text="Hello.").units
    heard = assistant.listen(question())
    assert assistant.read_text(scheduler.write(*assistant.transcribing(heard))).strip() == assistant.transcribe(
        question()
    )
    assert len(scheduler) == 1


def test_instructions_are_read_as_a_system_message(scheduler) -> None:
    plain, told = scheduler.open(), scheduler.open(instructions="Be kind.")
    assert told.history.context.length > plain.history.context.length
    assert isinstance(list(told.ask("Hi"))[-1], Done)
