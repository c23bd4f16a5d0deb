"""Items of a realtime conversation wherever they are put, answers of every kind, and what must not be answered."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")

from emova.session.session import Session
from tests.app.fixtures_realtime import CASES, QUESTION, RATE, Caller, calling, pcm, silence
from tests.app.test_server_realtime import only_session
from tests.hearing import understood


@pytest.fixture()
def caller(running):
    with calling(running.url) as caller:
        yield caller


@pytest.fixture()
def manual(caller) -> Caller:
    caller.manual()
    return caller


@pytest.fixture()
def session(caller, running) -> Session:
    return only_session(running)


def asked(session: Session, running) -> list[str]:
    """The questions that the session remembers, as text."""
    decode = running.service.assistant.parts.processor.tokenizer.decode
    return [decode(turn.question.ids, skip_special_tokens=True) for turn in session.history.turns]


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- items ------------------------------------------------------------------------------------------------------------
def test_rt_root_item_json(caller) -> None:
    caller.socket.send((CASES / "rt_root_item.json").read_text())
    added = caller.recv()
    assert added["type"] == "conversation.item.added" and added["previous_item_id"] is None
    assert caller.answer()["status"] == "completed"


def test_items_go_where_they_are_put(manual, session, running) -> None:
    manual.item("user", "What is this?", id="q1")
    manual.item("assistant", "A red ball.", id="a1")
    manual.item("user", "And now?", id="q2")
    first = manual.item("user", "Hello.", "root", id="q0")
    assert first["previous_item_id"] is None
    between = manual.item("assistant", "Hello to you.", "q0", id="a0")
    assert between["previous_item_id"] == "q0"
    assert manual.answer()["status"] == "completed"
    found = asked(session, running)
    assert len(found) == 3
    for question, text in zip(found, ("Hello.", "What is this?", "And now?"), strict=True):
        assert text in question
    manual.send("conversation.item.create", previous_item_id="nowhere", item=USER)
    assert manual.recv()["error"]["param"] == "previous_item_id"
    manual.send("conversation.item.create", item={**USER, "id": "q1"})
    assert manual.recv()["error"]["code"] == "item_create_duplicate_item_id"


USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}


def test_an_answer_first_and_two_in_a_row(manual, session, running) -> None:
    manual.item("assistant", "Hello, I am here.")
    manual.item("assistant", "What can I do?")
    manual.item("user", "What is this?")
    assert manual.answer()["status"] == "completed"
    assert len(asked(session, running)) == 2 and "What is this?" in asked(session, running)[-1]


def test_what_is_deleted_is_forgotten(manual, session, running) -> None:
    manual.item("user", "What is this?", id="q1")
    answer = manual.answer()["output"][0]["id"]
    manual.item("user", "Hello.", id="q2")
    for item_id in ("q1", answer):
        manual.send("conversation.item.delete", item_id=item_id)
        assert manual.until("conversation.item.deleted")["item_id"] == item_id
    assert manual.answer()["status"] == "completed"
    (only,) = asked(session, running)
    assert "Hello." in only and "What is this?" not in only
    manual.send("conversation.item.delete", item_id="q1")
    assert manual.recv()["error"]["code"] == "item_delete_invalid_item_id"


@pytest.mark.parametrize("answered", [False, True])
def test_a_removed_picture_is_not_seen_any_more(manual, session, running, answered: bool) -> None:
    content = [{"type": "input_image", "image_url": picture("red")}]
    item = {"type": "message", "role": "user", "content": content, "id": "shown"}
    manual.send("conversation.item.create", item=item)
    manual.until("conversation.item.done")
    manual.item("user", "What is this?")
    if answered:
        manual.answer()
        manual.item("user", "And now?")
    assert session.sees
    manual.send("conversation.item.delete", item_id="shown")
    manual.until("conversation.item.deleted")
    assert manual.answer()["status"] == "completed"
    assert not session.sees and len(asked(session, running)) == 1 + answered


def test_an_earlier_answer_is_truncated(manual, session, running) -> None:
    table = running.service.assistant.table
    manual.item("user", "Hello.")
    first = manual.answer(output_modalities=["audio"])["output"][0]["id"]
    manual.item("user", "What is this?")
    manual.answer(output_modalities=["audio"])
    manual.send("conversation.item.truncate", item_id=first, content_index=0, audio_end_ms=120)
    manual.until("conversation.item.truncated")
    manual.item("user", "And now?")
    manual.answer()
    units = [sum(int(table.unit_of[token]) >= 0 for token in turn.answer) for turn in session.history.turns]
    assert units[0] == 3 and units[1] > 3


def test_a_deleted_item_while_an_answer_is_given(manual, session, running) -> None:
    manual.item("user", "Hello.", id="q1")
    manual.send("response.create")
    manual.until("response.created")
    manual.send("conversation.item.delete", item_id="q1", event_id="mine")
    manual.send("conversation.item.delete", item_id="q9", event_id="other")
    assert manual.until("response.done")["response"]["status"] == "completed"
    manual.until("conversation.item.deleted")
    assert manual.recv()["error"]["event_id"] == "other"


# --- answers ----------------------------------------------------------------------------------------------------------
def test_instructions_alone_are_answered(manual, session, running) -> None:
    done = manual.answer(instructions="Say hello to the user.", metadata={"client_event_id": "x"})
    assert done["status"] == "completed" and done["output"][0]["content"][0]["text"]
    assert done["metadata"] == {"client_event_id": "x"}
    manual.item("user", "And now?")
    assert manual.answer(instructions="Answer in one word.")["status"] == "completed"
    assert "Say hello" not in "".join(asked(session, running)), "instructions are no words of the user"
    manual.item("user", "And then?")
    manual.answer()
    assert session.instructions == "", "they were for one answer"


@pytest.mark.parametrize("options", [{"input": []}, {"input": [], "instructions": "Be kind."}, {"input": [USER]}])
def test_another_input(manual, session, options: dict) -> None:
    manual.item("user", "What is this?", id="q1")
    manual.events = []
    done = manual.answer(conversation="none", **options)
    assert done["status"] == "completed" and done["conversation_id"] is None
    assert not any(event["type"].startswith("conversation.item") for event in manual.events)
    assert not len(session)
    assert manual.answer()["status"] == "completed", "the question waits for its own answer"


def test_an_answer_beside_the_conversation_knows_it(manual, session) -> None:
    manual.item("user", "What is this?", id="q1")
    alone = manual.answer(conversation="none")["output"][0]["content"][0]["text"]
    reference = [{"type": "item_reference", "id": "q1"}]
    assert manual.answer(conversation="none", input=reference)["output"][0]["content"][0]["text"] == alone
    assert manual.answer()["output"][0]["content"][0]["text"] == alone
    manual.send("response.create", response={"input": [{"type": "item_reference", "id": "nothing"}]})
    assert manual.recv()["error"]["param"] == "response.input"


def test_an_answer_to_another_input_may_stay(manual, session) -> None:
    done = manual.answer(input=[USER])
    manual.send("conversation.item.retrieve", item_id=done["output"][0]["id"])
    assert manual.until("conversation.item.retrieved")["item"]["role"] == "assistant"
    manual.item("user", "And now?")
    manual.answer()
    assert len(session) == 2


# --- what must not be answered ----------------------------------------------------------------------------------------
def test_a_question_whose_answer_was_refused_is_no_part_of_the_next(manual, session, running) -> None:
    manual.play(QUESTION)
    manual.send("input_audio_buffer.commit")
    first = manual.until("conversation.item.done")["item"]["id"]
    manual.send("response.create", response={"audio": {"output": {"voice": "my voice"}}})
    refused = manual.recv()
    assert refused["type"] == "error" and refused["error"]["param"] == "voice"
    manual.item("user", "Hello.")
    deleted = [event["item_id"] for event in manual.events if event["type"] == "conversation.item.deleted"]
    assert deleted == [first]
    manual.answer()
    (only,) = session.history.turns
    table = running.service.assistant.table
    assert not any(int(table.unit_of[token]) >= 0 for token in only.question.ids)


def test_a_refused_answer_can_be_asked_for_again(manual, session, running) -> None:
    manual.play(QUESTION)
    manual.send("input_audio_buffer.commit")
    manual.send("response.create", response={"audio": {"output": {"voice": "my voice"}}})
    while manual.recv()["type"] != "error":
        pass
    assert manual.answer()["status"] == "completed"
    assert session.asked_units


def test_a_failed_turn_is_no_part_of_the_next(manual, session, running) -> None:
    manual.play(silence(0.4))
    manual.send("input_audio_buffer.commit")
    done = manual.answer()
    assert done["status"] == "failed" and "silence" in done["status_details"]["error"]["message"]
    manual.item("user", "Hello.", "root")
    manual.item("user", "What is this?")
    assert manual.answer()["status"] == "completed"
    (only,) = session.history.turns
    table = running.service.assistant.table
    assert not any(int(table.unit_of[token]) >= 0 for token in only.question.ids)


def test_a_silence_before_a_text_takes_nothing_with_it(manual, session, running) -> None:
    """A click on the microphone and off again, then a question by the keyboard."""
    manual.update(audio={"input": {"turn_detection": None, "transcription": {"model": "x"}}})
    manual.play(silence(0.4))
    manual.send("input_audio_buffer.commit")
    manual.item("user", "Hello.")
    assert manual.answer()["status"] == "completed"
    (only,) = session.history.turns
    table = running.service.assistant.table
    assert not any(int(table.unit_of[token]) >= 0 for token in only.question.ids)
    kind = "conversation.item.input_audio_transcription.completed"
    assert [event["transcript"] for event in manual.events if event["type"] == kind] == [""]


# --- sound ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by_hand", [True, False])
def test_100_ms_are_100_ms(caller, by_hand: bool) -> None:
    if by_hand:
        caller.manual()
    tenth = QUESTION[RATE // 4 : RATE // 4 + RATE // 10]
    for sound, enough in ((tenth, True), (tenth[:-24], False), (tenth, True)):
        caller.send("input_audio_buffer.clear")
        caller.until("input_audio_buffer.cleared")
        caller.play(sound, pieces=7)
        caller.send("input_audio_buffer.commit")
        event = caller.recv()
        while event["type"] == "input_audio_buffer.speech_started":
            event = caller.recv()
        if enough:
            assert event["type"] == "input_audio_buffer.committed"
        else:
            assert event["error"]["code"] == "input_audio_buffer_commit_empty"


@pytest.mark.parametrize("created", [True, False])
def test_a_commit_by_hand_under_voice_activity_gives_one_answer(caller, session, created: bool) -> None:
    caller.update(output_modalities=["text"])
    caller.play(silence(0.5), QUESTION)
    caller.send("input_audio_buffer.commit")
    if created:
        caller.send("response.create")
    caller.play(silence(2))
    found = [event["type"] for event in caller.rest(3.0)]
    assert found.count("response.done") == found.count("input_audio_buffer.committed") == 1
    assert "error" not in found and len(session) == 1


def test_half_a_sample_is_told(manual) -> None:
    for length in (1, 3, 961):
        manual.send("input_audio_buffer.append", audio=base64.b64encode(bytes(length)).decode())
        assert f"{length} bytes" in manual.recv()["error"]["message"]
    manual.update(input_audio_format="g711_ulaw")
    manual.send("input_audio_buffer.append", audio=base64.b64encode(bytes(961)).decode())
    manual.update()


def test_a_binary_frame_is_refused(caller) -> None:
    from websockets.exceptions import ConnectionClosed

    caller.socket.send(pcm(QUESTION))
    assert "binary" in caller.recv()["error"]["message"]
    with pytest.raises(ConnectionClosed):
        caller.recv()
    assert caller.socket.close_code == 1003 and "base64" in (caller.socket.close_reason or "")


# --- turns by what is said --------------------------------------------------------------------------------------------
def said(caller: Caller, eagerness: str, *sounds: np.ndarray) -> list[str]:
    """What was understood of each turn that ended in sounds."""
    turns = {"type": "semantic_vad", "eagerness": eagerness}
    heard = {"turn_detection": turns, "transcription": {"model": "x"}}
    caller.update(output_modalities=["text"], audio={"input": heard})
    caller.play(*sounds, pieces=60)
    found = caller.rest(4.0)
    kind = "conversation.item.input_audio_transcription.completed"
    return [event["transcript"] for event in found if event["type"] == kind]


def test_a_pause_in_the_middle_is_waited_for(caller) -> None:
    cut = len(QUESTION) // 2
    sounds = (silence(0.5), QUESTION[:cut], silence(1.5), QUESTION[cut:], silence(2))
    (heard,) = said(caller, "low", *sounds)
    assert understood(heard), heard


def test_a_complete_question_is_answered(caller) -> None:
    (heard,) = said(caller, "high", silence(0.5), QUESTION, silence(0.6))
    assert understood(heard), heard
