"""The demo shows what is said while it is said: soon, at no pass of the model, and forgotten with the recording."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
pytest.importorskip("onnxruntime", reason="pip install 'emova[demo]'")
pytest.importorskip("silero_vad", reason="pip install 'emova[demo]'")

from emova.assistant import Assistant
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova.speech.vad import RATE
from emova_app.demo.conversation.captions import Caption, Captions
from emova_app.demo.conversation.pages import Pages
from emova_app.demo.conversation.service import TalkService
from emova_app.demo.uploads.files import Store
from emova_app.pcm import to_pcm
from tests.app.fixtures_browser import FIXTURES, question

PIECE = RATE // 10  # as the page sends it
SUN = question(FIXTURES / "questions" / "07.ogg")  # 3.2 s
BLOCK_SECONDS = 1.0  # of the shipped speech tokenizer, and what it looks ahead


@pytest.fixture(scope="module")
def pages():
    opened = Pages(Scheduler(Assistant.from_pretrained(), SchedulerConfig(max_sessions=1)), 1)
    yield opened
    opened.close_all()


@pytest.fixture()
def page(pages):
    found = pages.all[0] if len(pages) else pages.enter()
    found.restart()
    return found


@pytest.fixture()
def call(pages, page, tmp_path):
    service = {function.__name__: function for function in TalkService(pages, Store(tmp_path)).functions}

    async def called(name, given):
        return await service[name]({"ticket": page.ticket, **given})

    def answer(name, /, **given):
        return asyncio.run(called(name, given))

    return answer


def speak(call, samples, mode="push"):
    """What the page was answered to each piece."""
    pieces = [samples[at : at + PIECE] for at in range(0, len(samples), PIECE)]
    return [call("hear", mode=mode, pcm=base64.b64encode(to_pcm(each)).decode(), rate=RATE) for each in pieces]


def words_by(page):
    """When each word that CTC reads begins, in s of the sound."""
    table, frames = page.assistant.table, page.session.history.context.ctc
    path = frames.best
    new = np.flatnonzero((path != path.max()) & (path != np.concatenate([[-1], path[:-1]])))
    assert path.max() == frames.log_probs.shape[1] - 1, "there is a blank in it"
    begins = [at for at in new if table.token_bytes[path[at]].startswith(b" ") or at == new[0]]
    return [(at + 1) / 25 for at in begins]


def test_words_follow_the_speech_by_about_a_second_and_stay(page, call):
    told = speak(call, SUN)
    texts = [each["said"] + each["draft"] for each in told]
    starts = words_by(page)
    assert len(starts) > 6
    for number, text in enumerate(texts, 1):
        due = sum(start < number / 10 - BLOCK_SECONDS for start in starts)
        assert len(text.split()) >= due, (number, text)
    said = [each["said"] for each in told]
    assert all(later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False))
    # Of what is shown, only the last word is not certain.
    assert all(len(each["draft"].split()) <= 1 for each in told) and any(each["draft"] for each in told)


def test_the_last_transcript_is_the_one_without_captions(page, call):
    speak(call, SUN)
    assert call("ask", how="spoken") == {}
    page.wait_until_told()
    (done, _, _) = page.log.after(0)[0][-3:]
    assert done["item"]["content"][0]["transcript"] == page.assistant.chat(audio=SUN).transcript != ""
    assert speak(call, np.zeros(PIECE, np.float32))[0] == {"began": True, "ended": False, "said": "", "draft": ""}


def test_captions_take_no_pass_of_the_model_and_are_read_once_a_block(page, call, monkeypatch):
    llama, session = page.scheduler.engine.llama, page.session
    passes, read = [], []
    forward, so_far = llama.forward, session.so_far

    def counted(*given, **more):
        passes.append(1)
        return forward(*given, **more)

    def watched():
        before = len(passes)
        told = so_far()
        read.append(len(passes) - before)
        return told

    monkeypatch.setattr(llama, "forward", counted)
    monkeypatch.setattr(session, "so_far", watched)
    speak(call, SUN)
    assert passes and read == [0] * 3  # three blocks of units, however many pieces
    assert call("ask", how="spoken") == {}
    page.wait_until_told()
    assert len(read) == 3


def test_hands_free_has_them_too_and_not_behind_the_end(page, call):
    told = speak(call, np.concatenate([np.zeros(RATE // 2, np.float32), SUN, np.zeros(RATE * 2, np.float32)]), "free")
    (began,) = (at for at, each in enumerate(told) if each["began"])
    (ended,) = (at for at, each in enumerate(told) if each["ended"])
    assert not any(each["said"] or each["draft"] for each in told[:began])
    assert told[ended]["said"] == told[ended - 1]["said"] != ""
    call("ask", how="spoken")
    page.wait_until_told()
    assert speak(call, np.zeros(PIECE, np.float32), "free")[0]["said"] == ""


@pytest.mark.parametrize("how", ["drop", "restart", "enter", "another"])
def test_they_are_forgotten_with_what_was_heard(page, call, how):
    assert speak(call, SUN)[-1]["said"]
    if how == "drop":
        call("hear", drop=True)
    elif how == "restart":
        assert call("restart") == {}
    elif how == "enter":
        assert call("enter")["ticket"] == page.ticket
    else:
        call("hear", mode="push", pcm="", rate=8000)  # another microphone
    assert speak(call, SUN[:PIECE])[0] == {"began": True, "ended": False, "said": "", "draft": ""}
    call("hear", drop=True)


def test_a_silent_microphone_says_nothing(page, call):
    told = speak(call, np.zeros(2 * RATE, np.float32))
    assert not any(each["said"] or each["draft"] for each in told)
    call("hear", drop=True)


class Spoken:
    """A session that has read so far what it is told to have."""

    def __init__(self, *readings):
        self.readings = list(readings)
        self.question = SimpleNamespace(silent=False, units=())

    def so_far(self):
        return self.readings.pop(0)


@pytest.mark.parametrize(
    ("stays", "draft", "said", "tail"),
    [
        ("", "", "", ""),
        ("", " How much is", "How much ", "is"),
        ("", "Who", "", "Who"),
        ("The first words. ", "", "The first words. ", ""),
        ("The first words. ", "And then", "The first words. And ", "then"),
        ("", "你好吗", "你好", "吗"),
    ],
)
def test_the_last_word_is_a_draft_until_it_was_read_twice(stays, draft, said, tail):
    session, captions = Spoken((stays, draft), (stays, draft)), Captions()
    session.question.units = (1,)
    assert captions.step(session) == Caption(said, tail) == captions.step(session)
    session.question.units = (1, 2)
    assert captions.step(session) == Caption(said + tail, "") and not session.readings
    captions.clear()
    assert captions.now == Caption()
