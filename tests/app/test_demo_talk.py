"""The demo's conversations without a browser: what a page is told, what it may ask, and who waits for a place."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="pip install 'emova[demo]'")
pytest.importorskip("onnxruntime", reason="pip install 'emova[demo]'")
pytest.importorskip("silero_vad", reason="pip install 'emova[demo]'")

from PIL import Image

from emova.core.errors import InputError
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova.speech.vad import RATE
from emova_app.demo.conversation.asking import ask, ask_again
from emova_app.demo.conversation.events import AUDIO, MAX_EVENTS, EventLog
from emova_app.demo.conversation.examples import EXAMPLES, example
from emova_app.demo.conversation.page_session import MAX_ANSWERS, OWN, Asked, Wish
from emova_app.demo.conversation.pages import MovedError, Pages, PlaceLimits, Waiting
from emova_app.demo.conversation.service import TalkService
from emova_app.demo.conversation.speaker import own_prototypes
from emova_app.demo.tools import MAX_STREAMS, ToolService
from emova_app.demo.uploads.files import Store
from emova_app.pcm import from_pcm, to_pcm
from tests.app.fixtures_browser import question
from tests.hearing import understood


@pytest.fixture()
def pages(tiny_assistant):
    opened = Pages(Scheduler(tiny_assistant, SchedulerConfig(max_sessions=2)), 2)
    yield opened
    opened.close_all()


@pytest.fixture()
def page(pages):
    return pages.enter()


@pytest.fixture()
def service(pages, tmp_path):
    return {function.__name__: function for function in TalkService(pages, Store(tmp_path)).functions}


@pytest.fixture()
def call(page, service):
    """Calls a function in the page's name."""

    def answer(name, /, **given):
        return asyncio.run(service[name]({"ticket": page.ticket, **given}))

    return answer


def tell(page, text="Hello."):
    ask(page, Asked(None, text)).join()
    return next(reversed(page.answers.values()))


def kinds(page, after=0):
    return [event["type"] for event in page.log.after(after)[0]]


def items(page):
    """The conversation as a page that is loaded now shows it: role and words of each item."""
    shown: dict[str, tuple[str, str]] = {}
    for event in page.log.after(0)[0]:
        if event["type"] in ("conversation.item.added", "conversation.item.done"):
            item = event["item"]
            words = [part.get("text") or part.get("transcript") or "" for part in item["content"]]
            shown[item["id"]] = (item["role"], "".join(words))
        elif event["type"] == "conversation.item.deleted":
            shown.pop(event["item_id"], None)
    return list(shown.values())


# --- events -----------------------------------------------------------------------------------------------------------
def test_an_answer_is_told_in_the_order_of_realtime_events(page):
    answer = tell(page)
    told = kinds(page)
    assert told[:3] == ["conversation.item.added", "response.created", "conversation.item.added"]
    assert told[-3:] == ["conversation.item.done", "conversation.item.done", "response.done"]
    sounds = [event for event in page.log.after(0)[0] if event["type"] == AUDIO]
    heard = np.concatenate([from_pcm(base64.b64decode(event["delta"])) for event in sounds])
    assert np.abs(heard - answer.sound()).max() < 1e-3  # made again, it is the same
    assert page.log.after(0)[0][-1]["response"]["status"] == "completed"
    # The pieces of what is told as a whole are gone.
    assert "response.output_audio_transcript.delta" not in told


def test_who_follows_is_told_each_event_once_and_in_order(page):
    last = page.log.last
    thread = ask(page, Asked(None, "Hello."))
    seen = []
    while thread.is_alive() or page.log.last > last:
        events, last = page.log.after(last)
        seen += events
    numbers = [int(str(event["event_id"])[6:]) for event in seen]
    assert numbers == sorted(set(numbers)) and seen[-1]["type"] == "response.done"


def test_a_log_is_bounded():
    log = EventLog()
    for number in range(MAX_EVENTS + 50):
        log.add("x", item_id=str(number))
    assert len(log.after(0)[0]) == MAX_EVENTS and log.last == MAX_EVENTS + 50 and not log.after(log.last)[0]


def test_a_page_that_is_loaded_again_in_the_middle_of_an_answer_gets_all_of_it(pages, page):
    thread = ask(page, Asked(None, "Tell me a story."))
    again = pages.enter(page.ticket)
    assert again is page
    thread.join()
    assert [role for role, _ in items(page)] == ["user", "assistant"] and items(page)[0][1] == "Tell me a story."


def test_the_sound_of_earlier_answers_is_not_kept(page):
    tell(page)
    first = page.log.after(0)[0][-1]["response"]["id"]
    tell(page)
    assert {event["response_id"] for event in page.log.after(0)[0] if event["type"] == AUDIO} != {first}
    assert first not in {event.get("response_id") for event in page.log.after(0)[0]}
    for _ in range(MAX_ANSWERS):
        answer = tell(page)
    assert len(page.answers) == MAX_ANSWERS and not len(answer.reply.audio)
    assert len(page.log.after(0)[0]) < 8 * (MAX_ANSWERS + 2)


# --- asking -----------------------------------------------------------------------------------------------------------
def test_the_picture_stays_until_it_is_changed(page):
    page.new_picture(Image.new("RGB", (28, 28), "red"))
    for _ in range(8):
        tell(page)
        assert page.session.sees
    # The context holds fewer turns, so the picture had to be shown again.
    assert len(page.session) < 8
    shown = [event for event in page.log.after(0)[0] if event["type"] == "conversation.item.done"]
    thumbnails = [event for event in shown if event["item"]["content"][0]["type"] == "input_image"]
    assert 1 < len(thumbnails) < 8


def test_answering_again_replaces_the_last_turn(page):
    tell(page)
    before = tell(page, "And now?")
    remembered = len(page.session)
    page.wish = Wish("female", "sad")
    ask_again(page).join()
    again = next(reversed(page.answers.values()))
    assert len(page.session) == remembered and len(items(page)) == 4 and len(page.answers) == 2
    assert again.reply.emotion == "sad" and again.reply.text != before.reply.text and items(page)[2][1] == "And now?"


def test_answering_again_hears_the_question_again(page):
    ask(page, Asked(question(), None)).join()
    ask_again(page).join()
    ask_again(page).join()
    assert len(page.session) == 1 and [role for role, _ in items(page)] == ["user", "assistant"]


def test_quick_questions_leave_one_answer_and_no_empty_bubble(page, call):
    for _ in range(5):
        assert call("ask", how="written", text="Hello.", heard=0) == {}
    page.wait_until_told()
    told = items(page)
    assert told[-1][0] == "assistant" and all(words for _, words in told), told
    assert page.log.after(0)[0][-1]["response"]["status"] == "completed"


def test_an_interruption_at_any_moment_ends_the_answer(page, call):
    for pause in (0, 0.005, 0.02, 0.05):
        call("ask", how="written", text="Hello.")
        time.sleep(pause)
        call("interrupt", heard=0.0)
        page.wait_until_told()
        assert page.session.request is None and page.log.after(0)[0][-1]["type"] == "response.done"


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.25])
def test_a_recording_that_is_too_short_leaves_nothing(page, call, seconds):
    sound = base64.b64encode(to_pcm(question()[: int(RATE * seconds)])).decode()
    call("hear", mode="push", pcm=sound, rate=RATE)
    assert "too short" in call("ask", how="spoken")["error"] and not kinds(page)
    assert call("ask", how="written", text="Hello.") == {}


def test_a_silent_recording_leaves_nothing(page, call):
    call("hear", mode="push", pcm=base64.b64encode(bytes(2 * RATE)).decode(), rate=RATE)
    assert "nothing was heard" in call("ask", how="spoken")["error"].lower() and not kinds(page)
    assert call("ask", how="written", text="Hello.") == {}


def test_the_microphone_reaches_the_session_and_interrupts(page, call):
    thread = ask(page, Asked(None, "Hello."))
    sound = base64.b64encode(to_pcm(question())).decode()
    heard = call("hear", mode="push", pcm=sound, rate=RATE, heard=0.0)
    assert heard["began"] and not heard["ended"]
    thread.join()
    assert call("ask", how="spoken") == {}
    page.wait_until_told()
    assert items(page)[-1][0] == "assistant" and page.asked.samples is not None
    assert len(page.asked.samples) == len(question())


def test_a_closed_microphone_leaves_nothing(page, call):
    sound = base64.b64encode(to_pcm(question())).decode()
    call("hear", mode="push", pcm=sound, rate=RATE)
    call("hear", drop=True)
    assert page.microphone.take() is None and page.session.question.sound is None


def test_what_a_page_recorded_when_it_was_loaded_again_is_forgotten(page, call):
    """Neither a written question nor the next recording has it."""
    sound = base64.b64encode(to_pcm(question())).decode()
    call("hear", mode="push", pcm=sound, rate=RATE)
    assert call("enter")["ticket"] == page.ticket
    assert len(page.microphone) == 0 and page.session.question.sound is None
    call("hear", mode="push", pcm=sound, rate=RATE)
    assert call("ask", how="spoken") == {}
    page.wait_until_told()
    assert len(page.asked.samples) == len(question())


def test_an_own_voice_is_used(page, tiny_assistant):
    page.wish = Wish(OWN)
    with pytest.raises(InputError, match="my voice"):
        ask(page, Asked(None, "Hello."))
    assert not kinds(page)
    voice = tiny_assistant.voice
    vector = voice.prototypes[tiny_assistant.styles.default] + 0.05
    page.own_voice = type(voice)(voice.detokenizer, own_prototypes(voice.prototypes, vector))
    answer = tell(page)
    assert answer.speaker is page.own_voice
    assert not np.allclose(answer.sound(), voice.synthesize(answer.reply.units, answer.style()))
    assert page.log.after(0)[0][-2]["item"]["style"]["voice"] == OWN


def test_an_answer_is_heard_with_other_emotions(page, call):
    answer = tell(page)
    (item,) = page.answers
    heard = {emotion: call("sound", item=item, emotion=emotion)["pcm"] for emotion in ("angry", "sad", "happy")}
    assert len({*heard.values(), call("sound", item=item)["pcm"]}) >= 3
    offline = page.assistant.render(answer.reply.units, answer.style("sad")).audio
    assert np.abs(from_pcm(base64.b64decode(heard["sad"])) - offline).max() < 1e-3
    assert "no such" in call("card", item=item, style="none")["error"]


# --- examples ---------------------------------------------------------------------------------------------------------
def test_there_are_eight_examples_with_pictures_and_spoken_ones():
    assert len(EXAMPLES) == 8 and sum(bool(each.picture) for each in EXAMPLES) >= 3
    assert sum(bool(each.sound) for each in EXAMPLES) >= 2 and example("cheese").image is not None


@pytest.mark.parametrize("first", [None, "storm", "twister"])
def test_the_shipped_model_answers_the_examples_rightly(nano_page, first, tmp_path):
    """Whatever was asked before."""
    service = {function.__name__: function for function in TalkService(nano_page[0], Store(tmp_path)).functions}
    page = nano_page[1]

    async def asked(fields):
        return await service["ask"](fields)

    for each in EXAMPLES:
        for name in filter(None, (first, each.name)):
            assert asyncio.run(asked({"ticket": page.ticket, "how": "example", "name": name})) == {}
            page.wait_until_told()
        reply = next(reversed(page.answers.values())).reply
        assert each.answer.lower() in reply.text.lower() and understood(reply.transcript, each.asks), reply


@pytest.fixture(scope="module")
def nano_page():
    from emova.assistant import Assistant

    pages = Pages(Scheduler(Assistant.from_pretrained(), SchedulerConfig(max_sessions=1)), 1)
    yield pages, pages.enter()
    pages.close_all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_long_talk_takes_no_more_memory_than_a_short_one(nano_page):
    """What is kept of an answer is its words and units; its sound is made again."""

    page = nano_page[1]

    def talk(turns):
        for turn in range(turns):
            ask(page, Asked(None, ("Tell me a joke.", "How are you?", "What can you do?")[turn % 3])).join()
            next(reversed(page.answers.values())).sound("sad")
        (size,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line]
        return int(size) / 1024

    page = nano_page[1]
    warm = talk(40)  # memory of the libraries' own, which is taken once
    assert talk(60) - warm < 15  # MB; a second of sound takes 0.1


# --- places -----------------------------------------------------------------------------------------------------------
def test_visitor_three_waits_in_line_until_a_place_is_free(pages):
    first, second = pages.enter(), pages.enter()
    third, fourth = pages.enter(), pages.enter()
    assert isinstance(third, Waiting) and third.number == 1 and fourth.number == 2
    assert pages.enter(name=third.name).number == 1 and pages.enter(first.ticket) is first
    first.seen -= pages.limits.away_seconds + 1  # it was left
    assert isinstance(pages.enter(name=fourth.name), Waiting)  # not before the one who came first
    page = pages.enter(name=third.name)
    assert page not in (first, second) and first.session.closed and len(pages) == 2
    assert pages.enter(name=fourth.name).number == 1
    with pytest.raises(InputError, match="ended"):
        pages.find(first.ticket)


def test_who_does_not_ask_loses_the_place_in_line(pages):
    pages.limits = PlaceLimits(patience_seconds=0.05)
    pages.enter(), pages.enter()
    first, second = pages.enter(), pages.enter()
    time.sleep(0.1)
    assert pages.enter(name=second.name).number == 1 and pages.enter(name=first.name).number == 2


def test_the_line_is_bounded(pages):
    pages.limits = PlaceLimits(max_waiting=3)
    for _ in range(5):
        pages.enter()
    with pytest.raises(InputError, match="wait already"):
        pages.enter()


def test_one_address_leaves_places_to_others(pages):
    """However many names it invents for itself; its own pages that were left give way to its new ones."""
    pages.most_of_one = 1
    first = pages.enter(visitor="a")
    for _ in range(5):
        with pytest.raises(InputError, match="from your address"):
            pages.enter(visitor="a")
    assert pages.enter(first.ticket, visitor="a") is first and len(pages._line) == 0
    second = pages.enter(visitor="b")
    assert not isinstance(second, Waiting) and len(pages) == 2
    waiting = pages.enter(visitor="c")
    for _ in range(5):
        with pytest.raises(InputError, match="from your address"):
            pages.enter(visitor="c")  # neither does it fill the line
    assert pages.enter(name=waiting.name, visitor="c").number == 1
    first.seen -= pages.limits.away_seconds + 1
    again = pages.enter(name=waiting.name, visitor="c")
    assert not isinstance(again, Waiting) and first.session.closed
    again.seen -= pages.limits.away_seconds + 1
    assert pages.enter(visitor="c") is not again and again.session.closed and not second.session.closed


def test_pages_that_were_left_for_long_are_forgotten(pages, page):
    tell(page)
    pages.tidy()
    assert len(pages) == 1
    page.seen -= pages.limits.kept_seconds + 1
    pages.tidy()
    assert len(pages) == len(pages.scheduler) == 0 and not page.answers and not page.log.after(0)[0]


def test_a_conversation_goes_on_in_the_tab_that_was_opened_last(pages, page, service):
    before = page.owner
    assert pages.enter(page.ticket) is page and pages.watch(page.ticket, page.owner) is page
    with pytest.raises(MovedError):
        pages.watch(page.ticket, before)
    told = asyncio.run(service["receive"]({"ticket": page.ticket, "owner": before, "after": 0}))
    assert told["ended"] == "moved"
    assert asyncio.run(service["receive"]({"ticket": "no", "owner": "", "after": 0}))["ended"] == "closed"


def test_a_session_that_was_closed_for_idleness_begins_anew(page, call):
    tell(page)
    page.session.close()
    assert call("ask", how="written", text="Hello.") == {}
    page.wait_until_told()
    assert len(page.session) == 1 and len(items(page)) == 4 and "session.created" in kinds(page)


def test_a_new_conversation_keeps_picture_and_wishes(page, call):
    page.new_picture(Image.new("RGB", (28, 28)))
    assert call("settle", voice="male", emotion="sad", pitch="auto") == {}
    tell(page)
    assert call("restart") == {} and not items(page) and not page.answers and page.picture is not None
    assert page.state["wish"] == {"voice": "male", "emotion": "sad", "pitch": "auto"}


def test_a_microphone_that_is_ahead_of_its_questions_is_bounded(page, call, monkeypatch):
    """Turns that are over, one after the other, and none of them asked."""
    from emova_app.demo.conversation import microphone

    loud = lambda window: float(np.abs(window).max() > 0.1)  # noqa: E731
    monkeypatch.setattr("emova.speech.vad.SpeechDetector", lambda: loud)
    turn = np.concatenate([np.full(RATE // 2, 0.5, np.float32), np.zeros(RATE, np.float32)])
    block = base64.b64encode(to_pcm(np.tile(turn, 20))).decode()
    told, most = [], 0
    for _ in range(8):
        told.append(call("hear", mode="free", pcm=block, rate=RATE))
        most = max(most, page.microphone._behind)
    assert any("than can be heard" in each.get("error", "") for each in told)
    assert most < (microphone.MAX_BEHIND_SECONDS + microphone.MAX_BLOCK_SECONDS) * RATE
    assert "error" not in call("hear", mode="free", pcm=block, rate=RATE)
    long = base64.b64encode(bytes(2 * 140 * 8000)).decode()
    assert "than can be heard" in call("hear", mode="free", pcm=long, rate=8000)["error"]


# --- one task each ----------------------------------------------------------------------------------------------------
@pytest.fixture()
def tools(tiny_assistant, tmp_path):
    return {each.__name__: each for each in ToolService(Scheduler(tiny_assistant), Store(tmp_path)).functions}


STYLE = {"voice": "male", "emotion": "sad", "pitch": "low"}


def test_a_text_sounds_while_it_is_read_and_whole_it_is_the_same(tools, tiny_assistant):
    async def listen():
        (stream,) = (await tools["speak"]({"text": "Hello you. And you.", **STYLE})).values()
        pieces: list = []
        position, ended = 0, False
        while not ended:
            got = await tools["listen"]({"stream": stream, "position": position})
            pieces, position, ended = [*pieces, got["pcm"]], got["position"], got["ended"]
        assert "audio" in got["html"] and "error" in await tools["listen"]({"stream": stream, "position": 0})
        return np.concatenate([from_pcm(base64.b64decode(piece)) for piece in pieces])

    heard = asyncio.run(listen())
    whole = tiny_assistant.speak("Hello you. And you.", tiny_assistant.styles.parse(**STYLE)).audio
    assert len(heard) == len(whole) and np.abs(heard - whole).max() < 2e-3


def test_readings_are_bounded(tools):
    async def many():
        return [await tools["speak"]({"text": "Hello you. " * 40, **STYLE}) for _ in range(MAX_STREAMS + 4)]

    answers = asyncio.run(many())
    assert "stream" in answers[0] and "visitors are at work" in answers[-1]["error"]
    for answer in answers:
        if "stream" in answer:
            asyncio.run(tools["listen"]({"stream": answer["stream"], "position": 0, "stop": True}))


def test_what_was_heard_is_said_again_in_another_style(tools, tiny_assistant):
    heard = asyncio.run(tools["resynthesise"]({"example": True, **STYLE}))
    assert heard["units"] == list(tiny_assistant.tokenize(question()))
    again = asyncio.run(tools["resynthesise"]({"units": heard["units"], **STYLE, "emotion": "happy"}))
    assert again["units"] == heard["units"] and again["html"] != heard["html"]
    for units in ([], [1.5], ["1"], [10**9], [-1], [1] * 5000, "1", {"a": 1}, [True]):
        assert set(asyncio.run(tools["resynthesise"]({"units": units, **STYLE}))) == {"error"}, units


def test_a_long_recording_offers_its_beginning(tools, monkeypatch):
    monkeypatch.setattr("emova_app.demo.recordings.sent_recording.__defaults__", (1.0,))
    sound = {"pcm": base64.b64encode(to_pcm(np.tile(question(), 2))).decode(), "rate": RATE}
    told = asyncio.run(tools["transcribe"](sound))
    assert set(told) == {"error", "first"} and "can be used" in told["error"]
    assert "1.0 s" in asyncio.run(tools["transcribe"]({**sound, "first": True}))["html"]


# --- forged calls -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", [None, [], {}, {"ticket": 3}, {"ticket": "no"}, {"ticket": "x", "pcm": "%"}])
def test_a_forged_call_gets_one_line(service, given):
    for name, function in service.items():
        if name != "enter":
            assert set(asyncio.run(function(given))) <= {"error", "ended"}, name


@pytest.mark.parametrize(
    "name, given",
    [
        ("ask", {"how": "written"}),
        ("ask", {"how": "written", "text": " "}),
        ("ask", {"how": "written", "text": "x" * 2001}),
        ("ask", {"how": "written", "text": {"path": "/etc/passwd"}}),
        ("ask", {"how": "example", "name": "../x"}),
        ("ask", {"how": "again"}),
        ("settle", {"voice": "<b>", "emotion": "auto", "pitch": "auto"}),
        ("settle", {"voice": "male", "emotion": ["sad"], "pitch": "auto"}),
        ("sound", {"item": "item_0", "emotion": "sad"}),
        ("hood", {"item": ["item_0"]}),
        ("own_voice", {"pcm": "AAAA", "rate": RATE}),
    ],
)
def test_what_no_page_sends_changes_nothing(page, call, name, given):
    assert set(call(name, **given)) == {"error"} and not kinds(page) and page.wish == Wish("female")
