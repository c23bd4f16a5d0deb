"""Realtime talk with the real OpenAI client, unchanged: events in order, turns by voice, interruption, bounds."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import numpy as np
import pytest

import emova
from emova.speech.audio import load_audio

openai = pytest.importorskip("openai")
pytest.importorskip("websockets")
pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")

MODEL = "emova-nano"
RATE = 24_000
QUESTION = load_audio(Path(emova.__file__).parent / "checkpoints" / "examples" / "question.wav", RATE)
SILENCE = np.zeros(RATE, dtype=np.float32)
MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def encoded(samples: np.ndarray) -> str:
    return base64.b64encode((samples * 32767).astype("<i2").tobytes()).decode()


class Talk:
    """A connection, and all events that it gave."""

    def __init__(self, connection) -> None:
        self.connection = connection
        self.events: list = []
        self.until("session.created")

    def until(self, kind: str):
        """The next event of a kind; what came before it is kept too."""
        while True:
            event = self.connection.recv()
            self.events.append(event)
            if event.type == kind:
                return event
            assert event.type != "error", event

    def send(self, kind: str, **fields) -> None:
        self.connection.send({"type": kind, **fields})

    def play(self, *sounds: np.ndarray) -> None:
        for piece in np.array_split(np.concatenate(sounds), 12):
            self.connection.input_audio_buffer.append(audio=encoded(piece))

    def write(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})

    def kinds(self) -> list[str]:
        """Types of the events since the last call, repetitions once."""
        found, self.events = [event.type for event in self.events], []
        return [kind for index, kind in enumerate(found) if index == 0 or kind != found[index - 1]]

    def manual(self) -> None:
        self.connection.session.update(session=MANUAL)
        self.until("session.updated")


def only_session(running):
    """The session of the connection that is open; earlier ones may still be closing."""
    for _ in range(300):
        with running.service.scheduler.lock:
            found = list(running.service.scheduler._participants)
        if len(found) == 1:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("other sessions are open")


@pytest.fixture()
def talk(client):
    with client.realtime.connect(model=MODEL) as connection:
        yield Talk(connection)


ANSWERED = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


def test_a_written_question(talk, nano) -> None:
    talk.connection.session.update(
        session={**MANUAL, "audio": {"input": {"turn_detection": None}, "output": {"voice": "onyx"}}, "emotion": "sad"}
    )
    assert talk.until("session.updated").session.audio.output.voice == "male"
    talk.write("Hello.")
    talk.until("conversation.item.done")
    talk.kinds()
    talk.connection.response.create()
    done = talk.until("response.done").response
    sound = b"".join(
        base64.b64decode(event.delta) for event in talk.events if event.type.endswith("output_audio.delta")
    )
    assert talk.kinds() == ANSWERED
    wanted = nano.chat(text="Hello.", voice="male", emotion="sad")
    assert done.status == "completed" and done.emotion == "sad" and done.pitch == wanted.pitch
    assert done.output[0].content[0].transcript == wanted.text
    assert np.abs(np.frombuffer(sound, "<i2") / 32768 - wanted.audio).max() < 1e-3


def test_a_spoken_question_by_hand(talk) -> None:
    audio = {"input": {"turn_detection": None, "transcription": {"model": MODEL}}}
    talk.connection.session.update(session={"type": "realtime", "audio": audio, "output_modalities": ["text"]})
    talk.until("session.updated")
    talk.play(QUESTION[: RATE // 2])
    talk.connection.input_audio_buffer.clear()
    talk.until("input_audio_buffer.cleared")
    talk.play(QUESTION)
    talk.connection.input_audio_buffer.commit()
    committed = talk.until("input_audio_buffer.committed")
    talk.connection.response.create()
    heard = talk.until("conversation.item.input_audio_transcription.completed")
    assert heard.item_id == committed.item_id and heard.transcript
    done = talk.until("response.done").response
    assert done.output[0].content[0].text and "response.output_text.delta" in talk.kinds()
    talk.send("conversation.item.retrieve", item_id=done.output[0].id)
    assert talk.until("conversation.item.retrieved").item.role == "assistant"


def test_sound_that_is_not_committed_is_no_part_of_the_question(talk, running) -> None:
    talk.manual()
    talk.play(QUESTION)
    talk.write("Hello.")
    talk.connection.response.create(response={"output_modalities": ["text"]})
    talk.until("response.done")
    session = only_session(running)
    table = running.service.assistant.table
    assert not any(int(table.unit_of[token]) >= 0 for token in session.history.turns[-1].question.ids)
    talk.connection.input_audio_buffer.commit()
    talk.until("input_audio_buffer.committed")
    talk.connection.response.create(response={"output_modalities": ["text"]})
    talk.until("response.done")
    assert any(int(table.unit_of[token]) >= 0 for token in session.history.turns[-1].question.ids)


def test_voice_activity_and_barge_in(talk, running) -> None:
    talk.play(SILENCE, QUESTION, SILENCE)
    talk.until("response.output_audio.delta")
    kinds = talk.kinds()
    assert kinds[1:5] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
    ]
    before = running.service.metrics.cancelled.labels("turn_detected")._value.get()
    talk.play(QUESTION, SILENCE)
    talk.until("input_audio_buffer.speech_started")
    talk.events = []
    talk.until("input_audio_buffer.committed")
    after = talk.kinds()
    assert "response.output_audio.delta" not in after, "no sound of the answer follows the interruption"
    assert running.service.metrics.cancelled.labels("turn_detected")._value.get() == before + 1
    assert talk.until("response.done").response.status == "completed"


def test_a_cancel_stops_at_once_and_only_what_was_heard_is_remembered(talk, running) -> None:
    talk.manual()
    talk.write("Hello, how are you?")
    talk.connection.response.create()
    talk.until("response.output_audio.delta")
    talk.events = []
    talk.connection.response.cancel()
    done = talk.until("response.done").response
    assert talk.kinds().count("response.output_audio.delta") <= 1
    if done.status == "cancelled":  # it may have been complete already
        assert done.status_details.reason == "client_cancelled"
        session = only_session(running)
        assert sum(len(turn.answer) for turn in session.history.turns) < 60
    talk.write("And now?")
    talk.connection.response.create()
    assert talk.until("response.done").response.status == "completed"
    talk.send("response.cancel")
    assert talk.connection.recv().error.code == "response_cancel_not_active"


def test_a_truncation_is_remembered(talk, running) -> None:
    talk.manual()
    talk.write("Hello.")
    talk.connection.response.create()
    item = talk.until("response.done").response.output[0]
    session = only_session(running)
    table = running.service.assistant.table
    talk.connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=120)
    talk.until("conversation.item.truncated")
    assert sum(int(table.unit_of[token]) >= 0 for token in session.history.turns[-1].answer) == 3
    talk.connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=900_000)
    assert talk.connection.recv().error.param == "audio_end_ms"


def test_a_history_is_read_back(talk) -> None:
    talk.manual()
    talk.write("What is this?")
    content = [{"type": "output_text", "text": "A red ball."}]
    talk.send("conversation.item.create", item={"type": "message", "role": "assistant", "content": content})
    said = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]}
    talk.send("conversation.item.create", item=said)
    talk.write("And its colour?")
    talk.connection.response.create(response={"output_modalities": ["text"], "metadata": {"topic": "x"}})
    done = talk.until("response.done").response
    assert done.status == "completed" and done.metadata == {"topic": "x"}


def chosen(**audio) -> dict:
    return {"type": "session.update", "session": {"audio": audio}}


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "nothing"}, "invalid_event"),
        ({"type": "session.update"}, "invalid_event"),
        (
            {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/mp3"}}}}},
            "invalid_event",
        ),
        ({"type": "session.update", "session": {"audio": {"output": {"voice": "../../x"}}}}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "!!"}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "QQ=="}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "AAAA" * 200_000}, "invalid_value"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": "response.create"}, "empty_conversation"),
        ({"type": "response.cancel"}, "response_cancel_not_active"),
        ({"type": "conversation.item.retrieve", "item_id": "../../etc/passwd"}, "item_retrieve_invalid_item_id"),
        (
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1},
            "item_not_found",
        ),
        ({"type": "conversation.item.create", "item": {"type": "function_call", "name": "f"}}, "invalid_event"),
    ],
)
def test_wrong_events_get_an_error_and_the_session_goes_on(wrong_talk, event: dict, code: str) -> None:
    wrong_talk.connection.send({**event, "event_id": "mine"})
    error = wrong_talk.connection.recv()
    assert error.type == "error" and error.error.code == code and error.error.event_id == "mine"
    assert "passwd" not in error.error.message and len(error.error.message) < 300
    wrong_talk.manual()


@pytest.fixture(scope="module")
def wrong_talk(client):
    with client.realtime.connect(model=MODEL) as connection:
        yield Talk(connection)


def test_what_is_no_event_at_all(wrong_talk) -> None:
    socket = wrong_talk.connection._connection
    for text in ("{", "[]", "null", '"x"', "[" * 50_000, "1" * 10_000, '{"type": ["a"]}', '{"type":"\\ud800"}'):
        socket.send(text)
        assert wrong_talk.connection.recv().type == "error", text[:20]
    wrong_talk.manual()


def test_sound_is_bounded(talk) -> None:
    """More than a question may have is refused, whatever the size of its pieces; the session goes on."""
    talk.manual()
    for _ in range(6):
        talk.connection.input_audio_buffer.append(audio=encoded(np.zeros(RATE * 2, dtype=np.float32)))
    error = talk.connection.recv()
    assert error.type == "error" and "longer than 10 s" in error.error.message
    talk.write("Hello.")
    talk.until("conversation.item.done")


def test_refusals_before_the_talk(client, running) -> None:
    from websockets.exceptions import InvalidStatus

    def status(key: str, model: str = MODEL) -> int:
        other = openai.OpenAI(base_url=running.url, api_key=key, max_retries=0)
        with pytest.raises(InvalidStatus) as refused, other.realtime.connect(model=model):
            pass
        return refused.value.response.status_code

    assert status("wrong") == 401 and status("secret-of-tests", "gpt-realtime") == 404
    running.service.realtime += 100
    try:
        assert status("secret-of-tests") == 429
    finally:
        running.service.realtime -= 100


def test_a_client_that_leaves_frees_its_session(client, running) -> None:
    before = running.service.realtime  # the module's other connection may be open
    with client.realtime.connect(model=MODEL) as connection:
        talk = Talk(connection)
        talk.manual()
        talk.write("Hello, how are you?")
        connection.response.create()
        talk.until("response.created")
    for _ in range(200):
        if running.service.realtime == len(running.service.scheduler) == before:
            return
        time.sleep(0.1)
    raise AssertionError("the session is still open")
