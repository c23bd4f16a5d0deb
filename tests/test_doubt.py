"""An answer that the model is not sure of gives way to what it says when it does not know, the same in every way of
asking; nothing else changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.core.errors import InputError
from emova.decoding.sampling import GREEDY
from emova.events import Done, Event, SessionEvent, TextDelta, TranscriptDelta
from emova.reply.doubt import Doubt, Uncertainty
from emova.reply.format import ReplyLimits
from emova.session.scheduler import Scheduler
from emova.speech.style import DEFAULT_STYLES

SAID = {"text": "I am not sure.", "emotion": "sad", "pitch": "low"}
ALWAYS = {"entropy": 1e-9, "picture_entropy": 1e-9, "admissions": [SAID]}
NEVER = {"entropy": 99, "picture_entropy": 99, "admissions": [SAID]}
SOUND = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=24, max_units=12)


@pytest.fixture()
def load(tiny_checkpoint, tmp_path):
    """The tiny assistant with a ``doubt`` of its checkpoint."""

    def load(doubt, reply_format=None, **options):
        folder = tmp_path / f"doubt{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_checkpoint, folder)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "doubt": doubt}), encoding="utf-8")
        settings = AssistantConfig(reply_limits=LIMITS, sampling=GREEDY, **options)
        return Assistant.from_pretrained(folder, config=settings, reply_format=reply_format)

    return load


def ask(assistant: Assistant, how: str, **question):
    """The reply to a question of its own."""
    if how == "chat":
        return assistant.chat(**question)
    if how == "stream":
        events = list[Event | SessionEvent](assistant.conversation().stream(**question))
    else:
        session = Scheduler(assistant).open()
        if (sound := question.pop("audio", None)) is not None:
            session.hear(sound)
        if (image := question.pop("image", None)) is not None:
            session.show(image)
        events = list[Event | SessionEvent](session.ask(**question))
    assert isinstance(events[-1], Done), events[-1]
    reply = events[-1].reply
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
    assert "".join(event.text for event in events if isinstance(event, TranscriptDelta)) == reply.transcript
    return reply


def test_uncertainty_is_the_highest_entropy():
    uncertainty = Uncertainty()
    assert uncertainty.highest == 0
    for scores, entropy in (([0.0, -1e4], 0.0), ([5.0] * 8, np.log(8)), ([1.0, 1.0, -1e4], np.log(8))):
        uncertainty.take(np.asarray(scores, dtype=np.float32))
        assert uncertainty.highest == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("how", ["chat", "stream", "session"])
@pytest.mark.parametrize("question", [{"text": "What is it?"}, {"audio": SOUND}, {"text": "A?", "image": "picture"}])
def test_what_is_not_trusted_is_admitted(load, how, question):
    from PIL import Image

    if "image" in question:
        question = {**question, "image": Image.new("RGB", (28, 28), "red")}
    plain, unsure = load(None), load(ALWAYS)
    usual, reply = ask(plain, how, **question), ask(unsure, how, **question)
    assert usual.text != reply.text == SAID["text"]
    assert (reply.emotion, reply.pitch) == ("sad", "low") and reply.transcript == usual.transcript and reply.units
    wished = ask(unsure, how, **question, emotion="happy")
    assert (wished.text, wished.emotion, wished.pitch) == (SAID["text"], "happy", "low")


def test_an_admission_is_no_longer_than_an_answer_may_be(load):
    """A client that asked for few tokens gets the beginning."""
    unsure = load(ALWAYS)
    whole = unsure.table.encode(SAID["text"])
    for most in (1, 2, len(whole) - 1, len(whole), len(whole) + 1):
        limits = replace(LIMITS, max_text_tokens=most)
        *_, done = Scheduler(unsure).open().ask("What is it?", limits=limits)
        assert isinstance(done, Done) and SAID["text"].startswith(done.reply.text)
        assert unsure.table.encode(done.reply.text) == whole[:most]


@pytest.mark.parametrize("how", ["chat", "stream", "session"])
def test_what_is_trusted_is_as_it_was(load, how):
    for question in ({"text": "What is it?"}, {"audio": SOUND}):
        usual = ask(load(None), how, **question)
        for other in (load(NEVER), load(ALWAYS, admit_doubt=False)):
            reply = ask(other, how, **question)
            assert (reply.text, reply.units, reply.pitch) == (usual.text, usual.units, usual.pitch)
            assert np.array_equal(reply.audio, usual.audio)


def test_a_conversation_goes_on_as_if_the_admission_was_the_first_answer(load):
    unsure = load(ALWAYS)
    session, chat = Scheduler(unsure).open(), unsure.conversation()
    for text in ("What is it?", "And now?", "Why?"):
        *_, done = session.ask(text)
        assert isinstance(done, Done) and done.reply.text == SAID["text"]
        assert chat.chat(text=text).units == done.reply.units
    restored = Scheduler(unsure).open()
    for turn in session.history.turns:
        assert len(turn.answer) > 10
    restored.history.turns, restored.history.unread = [], restored.history.opening()
    for turn in session.history.turns:
        restored.history.recall(turn.question, list(turn.answer))
    *_, one = session.ask("Last?")
    *_, other = restored.ask("Last?")
    assert isinstance(one, Done) and isinstance(other, Done) and one.reply.units == other.reply.units


def test_a_reply_whose_speech_begins_before_its_text_ends_is_left_alone(load):
    usual, unsure = load(None, "interleaved"), load(ALWAYS, "interleaved")
    assert ask(usual, "session", text="Hm?").units == ask(unsure, "session", text="Hm?").units


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"entropy": 1}, "and nothing else"),
        ({**ALWAYS, "entropy": 0}, "entropy 0 is no number above 0"),
        ({**ALWAYS, "picture_entropy": "1"}, "picture_entropy '1' is no number"),
        ({**ALWAYS, "admissions": []}, "no list of at least one"),
        ({**ALWAYS, "admissions": [{**SAID, "text": " "}]}, "text is empty"),
        ({**ALWAYS, "admissions": [{**SAID, "emotion": "smug"}]}, "smug"),
        ({**ALWAYS, "admissions": ["No."]}, "has text, emotion and pitch"),
    ],
)
def test_a_wrong_doubt_is_told(wrong, said, load):
    with pytest.raises(InputError, match=said):
        Doubt.from_dict(wrong, DEFAULT_STYLES)
    with pytest.raises(InputError):
        load(wrong)


def test_a_doubt_is_written_as_it_is_read():
    for values in (ALWAYS, {**ALWAYS, "picture_entropy": None}):
        doubt = Doubt.from_dict(values, DEFAULT_STYLES)
        assert Doubt.from_dict(json.loads(json.dumps(doubt.to_dict())), DEFAULT_STYLES) == doubt


def test_with_instructions_the_limit_says_nothing(load):
    unsure = load(ALWAYS)
    for instructions, admits in (("", True), ("Be brief.", False)):
        *_, done = Scheduler(unsure).open(instructions=instructions).ask("What is it?")
        assert isinstance(done, Done) and (done.reply.text == SAID["text"]) == admits


def test_pictures_may_be_trusted_where_nothing_else_is(load):
    from PIL import Image

    picture = Image.new("RGB", (28, 28), "red")
    session = Scheduler(load({**ALWAYS, "picture_entropy": None})).open()
    for sees, shown in ((False, False), (True, True), (True, False)):
        if shown:
            session.show(picture)
        *_, done = session.ask("What is it?")
        assert isinstance(done, Done) and (done.reply.text != SAID["text"]) == sees


def test_the_same_question_hears_the_same_admission_and_different_ones_hear_all():
    said = [{**SAID, "text": f"I am not sure {number}."} for number in range(3)]
    doubt = Doubt.from_dict({**ALWAYS, "admissions": said}, DEFAULT_STYLES)
    assert doubt.admission("Why?") == doubt.admission("Why?")
    assert len({doubt.admission(f"Why {number}?") for number in range(50)}) == 3


def test_the_shipped_model_admits_what_it_does_not_know_and_answers_what_it_knows():
    assistant = Assistant.from_pretrained()
    assert assistant.doubt is not None
    admitted = {each.text for each in assistant.doubt.admissions}
    outside = ["Who painted the ceiling of the Sistine Chapel?", "How tall is the Eiffel Tower?",
               "How many bones does a human have?", "What is the derivative of x squared?"]  # fmt: skip
    inside = ["What can you do?", "How many legs are on a butterfly?", "Hello, you can call me Anna."]
    assert [assistant.chat(text=text).text in admitted for text in (*outside, *inside)] == [True] * 4 + [False] * 3
    picture = Path(__file__).parents[1] / "emova" / "checkpoints" / "examples" / "photo.png"
    assert "two dollars" in assistant.chat(text="How much is the cheese?", image=picture).text
