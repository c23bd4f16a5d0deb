"""An answer that earlier turns made unsure is the answer without them; where that is unsure too, they come back; the
turns themselves stay, and what was handed out is one reply."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.decoding.protocol import Prompt
from emova.decoding.sampling import GREEDY
from emova.engine.decoder import EngineDecoder
from emova.events import AudioChunk, Cancelled, Reply, SessionEvent, StyleChosen, TextDelta, TranscriptDelta
from emova.reply.format import ReplyLimits
from emova.session.history import TurnContext
from emova.session.scheduler import Scheduler
from tests.replies import last_reply

SAID = {"text": "I am not sure.", "emotion": "sad", "pitch": "low"}
LIMITS = ReplyLimits(max_transcript_tokens=6, max_text_tokens=16, max_units=12)
ALONE = {"entropy": 99.0, "picture_entropy": None, "admissions": [SAID], "distracted": 1e-9}
"""Whatever stands behind earlier turns is distracted by them, and the answer without them is trusted."""
BACK = {"entropy": 1e-9, "picture_entropy": 1e-9, "admissions": [SAID], "distracted": 1e-9}
"""Neither is trusted."""
NEVER = {"entropy": 99.0, "picture_entropy": None, "admissions": [SAID]}
SOUND = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
Ask = Callable[..., list[SessionEvent]]


@pytest.fixture()
def load(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[dict[str, object]], Assistant]:
    def load(doubt: dict[str, object]) -> Assistant:
        folder = tmp_path / f"doubt{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_checkpoint, folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "doubt": doubt}), encoding="utf-8")
        return Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS, sampling=GREEDY))

    return load


@pytest.fixture()
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return str(path)


def dialogue(assistant: Assistant, through: str) -> tuple[Ask, TurnContext]:
    """How questions are asked one behind the other, and what is remembered of them."""
    if through == "conversation":
        conversation = assistant.conversation()
        return lambda **question: list(conversation.stream(**question)), conversation.history
    session = Scheduler(assistant).open()

    def ask(text: str | None = None, audio: np.ndarray | None = None, image: str | None = None) -> list[SessionEvent]:
        if image is not None:
            session.show(image)
        if audio is not None:
            session.hear(audio)
        return list(session.ask(text))

    return ask, session.history


def content(reply: Reply) -> tuple[str, str, str, str, tuple[int, ...]]:
    return reply.transcript, reply.text, reply.emotion, reply.pitch, reply.units


@pytest.mark.parametrize("through", ["conversation", "session"])
@pytest.mark.parametrize("question", [{"text": "And now?"}, {"audio": SOUND}])
def test_what_earlier_turns_made_unsure_is_answered_without_them(load, picture, through, question) -> None:
    assistant = load(ALONE)
    ask, history = dialogue(assistant, through)
    first = last_reply(ask(text="What is this?", image=picture))
    events = ask(**question)
    reply = last_reply(events)
    assert content(reply) == content(assistant.chat(**question))
    assert "".join(event.text for event in events if isinstance(event, TranscriptDelta)) == reply.transcript
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.text
    assert sum(isinstance(event, StyleChosen) for event in events) == 1
    heard = [event.samples for event in events if isinstance(event, AudioChunk)]
    assert np.array_equal(np.concatenate(heard or [np.zeros(0, np.float32)]), reply.audio)
    # Both turns are remembered, the picture too.
    assert len(history) == 2 and history.sees and not history.alone
    assert content(first) == content(assistant.chat(text="What is this?", image=picture))


@pytest.mark.parametrize("through", ["conversation", "session"])
@pytest.mark.parametrize("question", [{"text": "And now?"}, {"audio": SOUND}])
def test_what_is_unsure_without_them_too_is_answered_behind_them(load, picture, through, question) -> None:
    replies = []
    for doubt in (BACK, NEVER):
        ask, history = dialogue(load({**doubt, "picture_entropy": None}), through)
        ask(text="What is this?", image=picture)
        replies.append(content(last_reply(ask(**question))))
        assert len(history) == 2 and not history.alone
    assert replies[0] == replies[1]


@pytest.mark.parametrize("through", ["conversation", "session"])
def test_a_turn_written_alone_is_remembered_like_any_other(load, through) -> None:
    """What is asked next reads the same tokens as behind the same turns said otherwise."""
    assistant = load(ALONE)
    ask, history = dialogue(assistant, through)
    for text in ("One.", "Two.", "Three."):
        ask(text=text)
    plain = TurnContext(assistant)
    for turn in history.turns:
        plain.add(turn.question, turn.answer[: len(turn.answer) - len(assistant.frame.assistant_end)])
    assert [(turn.question.ids, turn.answer) for turn in history.turns] == [
        (turn.question.ids, turn.answer) for turn in plain.turns
    ]
    assert history.length == len(history.opening().ids) + sum(map(len, history.turns))


def test_breaking_off_brings_the_turns_back(load) -> None:
    session = Scheduler(load(ALONE)).open()
    list(session.ask("One."))
    events = session.ask("Two.")
    next(iter(events))
    while not session.history.alone and session.request is not None:
        session.scheduler.pump()
    session.cancel(0.0)
    assert isinstance(list(events)[-1], Cancelled)
    assert len(session.history) == 1 and not session.history.alone
    assert last_reply(list(session.ask("Two."))).text
    assert len(session.history) == 2


def test_without_the_limit_nothing_is_written_again(load, monkeypatch) -> None:
    monkeypatch.setattr(TurnContext, "put_aside", lambda self: pytest.fail("nothing is put aside"))
    ask, _ = dialogue(load(NEVER), "conversation")
    for text in ("One.", "Two."):
        ask(text=text)


@pytest.mark.parametrize("through", ["conversation", "session"])
@pytest.mark.parametrize("doubt", [ALONE, {**BACK, "picture_entropy": None}])
def test_nothing_of_the_turns_is_read_again_and_a_picture_is_looked_at_once(
    load, picture, monkeypatch, through, doubt
) -> None:
    assistant = load(doubt)
    ask, history = dialogue(assistant, through)
    ask(text="One.")
    looked: list[int] = []
    assert isinstance(assistant.decoder, EngineDecoder)
    model = assistant.decoder.engine.model
    look = model.get_image_features

    def watched(*given):
        looked.append(1)
        return look(*given)

    monkeypatch.setattr(model, "get_image_features", watched)
    monkeypatch.setattr(TurnContext, "_rebuild", lambda *_: pytest.fail("the turns are read again"))
    ask(audio=SOUND, image=picture)
    ask(text="Two.")
    assert len(history) == 3 and len(looked) == 1


def test_the_question_is_read_without_the_turns_while_it_is_spoken(load, monkeypatch) -> None:
    assistant = load(ALONE)
    session = Scheduler(assistant).open()
    list(session.ask("One."))
    for start in range(0, len(SOUND), 640):
        session.hear(SOUND[start : start + 640])
    left: list[int] = []
    rest = TurnContext.rest

    def watched(self: TurnContext, question: Prompt) -> Prompt:
        left.append(len(rest(self, question).ids))
        return rest(self, question)

    monkeypatch.setattr(TurnContext, "rest", watched)
    units = len(last_reply(list(session.ask())).transcript) and len(session.asked_units)
    behind, alone = left
    assert behind <= alone <= behind + 16 < units


def test_an_answer_is_left_at_its_first_word_that_is_not_sure(load, monkeypatch) -> None:
    session = Scheduler(load(ALONE)).open()
    list(session.ask("One."))
    texts: list[str] = []
    put_aside = TurnContext.put_aside

    def watched(self: TurnContext) -> None:
        assert session.assembler is not None
        texts.append(session.assembler.written.text)
        put_aside(self)

    monkeypatch.setattr(TurnContext, "put_aside", watched)
    session.ask("Two.")
    while not session.history.alone and session.request is not None:
        session.scheduler.pump()
    assert len(texts) == 1 and len(session.scheduler.assistant.table.encode(texts[0])) <= 2
    session.close()
