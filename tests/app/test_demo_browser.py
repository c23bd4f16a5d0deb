"""The demo in a real browser: asking, hearing, interrupting, cancelling, looking, coming back; what goes wrong."""

from __future__ import annotations

import base64
import time
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emova.speech.audio import load_audio
from tests.app.fixtures_browser import (
    ENTERED,
    EXAMPLES,
    FIXTURES,
    ROOT,
    Served,
    browsing,
    opened,
    question,
    recording,
    skip_without_browser,
    visiting,
    wait_for,
)
from tests.hearing import understood

pytestmark = [skip_without_browser(), pytest.mark.slow, pytest.mark.timeout(600)]

# Records what the page really plays.
RECORD = """() => {
  const { player } = window.emova;
  player.wake();
  const out = player.context.createMediaStreamDestination();
  player.gain.connect(out);
  const recorder = new MediaRecorder(out.stream, { mimeType: "audio/webm;codecs=opus" });
  const blobs = [];
  recorder.ondataavailable = ({ data }) => blobs.push(data);
  recorder.start();
  window.recorded = () => new Promise((resolve) => {
    recorder.onstop = async () => {
      const bytes = new Uint8Array(await new Blob(blobs).arrayBuffer());
      resolve(btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
    };
    recorder.stop();
  });
}"""
# Gives the page a file as if it were pasted or dropped.
GIVE = """([kind, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""
WHISPER = ROOT / "data" / "nano" / "sources" / "whisper-base"
PHASE = "(phase) => document.querySelector('.em-app').dataset.phase === phase"
ANSWERS = "(count) => document.querySelectorAll('.em-assistant .em-labels').length === count"
TEXT = ".em-field textarea"


@pytest.fixture()
def quiet(tmp_path):
    return recording(tmp_path / "quiet.wav", 1.0)


@pytest.fixture()
def spoken(tmp_path):
    return recording(tmp_path / "question.wav", 0.4, question(), 20.0)


def phase(page, wanted):
    page.wait_for_function(PHASE, arg=wanted)


def answered(page, count=1):
    page.wait_for_function(ANSWERS, arg=count)
    phase(page, "idle")


def write(page, text):
    page.fill(TEXT, text)
    page.keyboard.press("Enter")


def give(page, how, path, kind):
    page.evaluate(GIVE, [how, path.name, kind, base64.b64encode(path.read_bytes()).decode()])


def note(page):
    return page.inner_text(".em-stage .em-note")


def wait_for_note(page, tab, words):
    """Until the note of a tab has these words."""
    try:
        wait_for(lambda: words in page.inner_text(f"{tab} .em-note"))
    except AssertionError:
        raise AssertionError(f"{tab} does not say {words!r} but {page.inner_text(f'{tab} .em-note')!r}") from None


def lines(page):
    return page.locator(".em-line").count()


def ask_aloud(page, press):
    """Speaks the question; what sounded, ``[T]`` at 24 kHz."""
    page.evaluate(RECORD)
    press()
    answered(page)
    page.wait_for_timeout(300)  # what sounds is on its way to the recorder
    return load_audio(base64.b64decode(page.evaluate("window.recorded()")), 24_000)


# --- talking ----------------------------------------------------------------------------------------------------------
def test_a_picture_and_a_spoken_question(served, spoken):
    with opened(served, spoken) as page:
        page.set_input_files(".em-writing input[type=file]", EXAMPLES / "photo.png")
        session = wait_for(lambda: served.page_session())
        picture = wait_for(lambda: session.picture)
        difference = np.asarray(picture).astype(int) - np.asarray(Image.open(EXAMPLES / "photo.png").convert("RGB"))
        assert np.abs(difference).mean() < 2 and page.is_visible(".em-picture img")

        def press():
            page.click("[data-do=talk]")
            wait_for(lambda: len(session.microphone) > 2.0 * 16_000)
            phase(page, "recording")
            page.click("[data-do=send-recording]")

        played = ask_aloud(page, press)
        answer = next(iter(session.answers.values()))
        assert understood(answer.reply.transcript), answer.reply.transcript
        assert answer.reply.text and page.inner_text(".em-assistant p") == answer.reply.text.strip()
        assert page.inner_text(".em-user p").strip() == answer.reply.transcript.strip()
        assert len(played) >= answer.seconds * 24_000 * 0.95
        # What sounded is the reply: as long, and as loud.
        loud = np.sqrt(np.mean(played[np.abs(played) > 0.01] ** 2))
        assert np.sqrt(np.mean(answer.sound() ** 2)) * 0.5 < loud
        write(page, "What is the price?")
        answered(page, 2)
        assert len(session.session) == 2 and session.session.sees and page.locator(".em-thumb").count() == 1


@pytest.mark.skipif(not WHISPER.is_dir(), reason="no Whisper model here (emova data fetch nano)")
def test_what_sounds_is_heard_by_whisper_as_the_reply(served, spoken):
    """How well the voice can be understood is the model's matter (emova eval); that all of it sounds is the page's."""
    import soxr

    from emova_eval.judges.words import WhisperJudge

    with opened(served, spoken) as page:
        played = ask_aloud(page, lambda: page.click(".em-welcome [data-example=twister]"))
        answer = next(iter(served.page_session().answers.values()))
    heard = WhisperJudge(WHISPER).transcribe(soxr.resample(played, 24_000, 16_000))
    alike = SequenceMatcher(None, heard.lower(), answer.reply.text.lower()).ratio()
    assert alike >= 0.7, f"{heard!r} sounded; the text is {answer.reply.text!r}"


def test_the_space_bar_is_held_to_talk_and_its_slip_asks_nothing(served, spoken):
    with opened(served, spoken) as page:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.down("Space")
        phase(page, "recording")
        wait_for(lambda: len(served.page_session().microphone) > 2.0 * 16_000)
        assert page.inner_text(".em-recording .em-clock") >= "0:02"
        page.keyboard.up("Space")
        answered(page)
        assert understood(page.inner_text(".em-user p"))
        page.focus(TEXT)
        page.keyboard.press("Space")  # in a text it is a space
        assert page.input_value(TEXT) == " " and lines(page) == 2


def test_a_finger_taps_to_talk_and_to_send_or_holds(served, spoken):
    with opened(served, spoken, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        page.tap("[data-do=talk]")
        phase(page, "recording")
        assert "Esc" not in note(page)  # there is no such key
        wait_for(lambda: len(served.page_session().microphone) > 2.0 * 16_000)
        page.tap("[data-do=send-recording]")
        answered(page)
        assert understood(page.inner_text(".em-user p"))
        page.dispatch_event(".em-orb", "pointerdown", {"button": 0})
        phase(page, "recording")
        wait_for(lambda: len(served.page_session().microphone) > 2.0 * 16_000)
        page.dispatch_event("body", "pointerup")
        answered(page, 2)
        assert lines(page) == 4


@pytest.mark.parametrize("cancel", ["Escape", "button"])
def test_a_recording_is_cancelled_and_what_was_typed_stays(served, spoken, cancel):
    with opened(served, spoken) as page:
        page.fill(TEXT, "half a thou")
        page.click("[data-do=talk]")
        wait_for(lambda: len(served.page_session().microphone) > 16_000)
        if cancel == "button":
            page.click("[data-do=cancel]")
        else:
            page.keyboard.press("Escape")
        phase(page, "idle")
        wait_for(lambda: len(served.page_session().microphone) == 0)
        assert lines(page) == 0 and page.input_value(TEXT) == "half a thou"
        page.reload()
        page.wait_for_function(ENTERED)
        assert page.input_value(TEXT) == "half a thou"


# The browser asks the visitor first, and is answered late.
SLOW_MICROPHONE = """() => {
  const devices = navigator.mediaDevices;
  const real = devices.getUserMedia.bind(devices);
  window.given = [];
  devices.getUserMedia = async (wanted) => {
    await new Promise((resolve) => setTimeout(resolve, 800));
    const stream = await real(wanted);
    window.given.push(stream);
    return stream;
  };
}"""
CLOSED = """(count) => window.given.length === count && window.given.every((stream) => stream.getTracks()
  .every((track) => track.readyState === "ended"))"""


@pytest.mark.parametrize("leave", ["Escape", "tab"])
def test_a_recording_is_cancelled_before_the_browser_gives_the_microphone(served, spoken, leave):
    with opened(served, spoken) as page:
        page.evaluate(SLOW_MICROPHONE)
        places = (("talk", "[data-do=talk]"), ("talk", "[data-do=free]"), ("transcribe", "#transcribe .em-record"))
        for count, (tab, button) in enumerate(places, 1):
            page.click(f"#tab-{tab}")
            page.click(button)
            page.keyboard.press("Escape") if leave == "Escape" else page.click("#tab-speak")
            page.wait_for_function(CLOSED, arg=count)
            assert page.get_attribute(button, "aria-pressed") == "false", button
        assert page.evaluate(PHASE, "idle") and lines(page) == 0 and len(served.page_session().microphone) == 0


def test_an_answer_is_silent_under_another_tab_and_whole_when_one_is_back(served, quiet):
    with opened(served, quiet) as page:
        for turn, early in enumerate((True, False), 1):
            write(page, "Can you tell me a fairy tale about a cat?")
            if not early:
                page.wait_for_function("window.emova.player.sounding")
            page.click("#tab-speak")
            while not page.evaluate(ANSWERS, turn):
                assert not page.evaluate("window.emova.player.sounding")
            assert not page.evaluate("window.emova.player.sounding")
            page.click("#tab-talk")
            phase(page, "idle")
            assert not page.locator(".em-state").count()  # not broken off
            page.click(".em-assistant:last-child [data-do=replay]")
            page.wait_for_function("window.emova.player.sounding")
            page.keyboard.press("Escape")


def test_what_is_written_while_another_question_is_on_its_way_is_asked_too(served, quiet):
    with opened(served, quiet) as page:
        page.evaluate("""() => {
          const real = window.fetch;
          window.fetch = async (...given) => {
            const body = String((given[1] || {}).body);
            if (/"(ask)"/.test(body) || /upload/.test(given[0])) await new Promise((done) => setTimeout(done, 800));
            return real(...given);
          };
        }""")
        page.click(".em-welcome [data-example=bicycle]")
        write(page, "Tell me a joke.")
        page.wait_for_function("document.querySelectorAll('.em-user').length === 2")
        assert page.locator(".em-user p").last.inner_text() == "Tell me a joke."
        wait_for(lambda: page.input_value(TEXT) == "")
        phase(page, "idle")
        # A picture that is still being sent is the question's.
        give(page, "drop", EXAMPLES / "photo.png", "image/png")
        assert not page.locator(".em-stage .em-alert").count()  # "Looking ..." is no alarm
        write(page, "What is the price?")
        page.wait_for_selector(".em-user .em-thumb")


def test_double_clicks_do_nothing_twice(served, quiet):
    with opened(served, quiet) as page:
        page.dblclick("[data-do=talk]")
        phase(page, "recording")
        page.keyboard.press("Escape")
        phase(page, "idle")
        page.dblclick(".em-welcome [data-example=cheese]")
        answered(page)
        assert lines(page) == 2
        page.fill(TEXT, "What is the price?")
        page.dblclick(".em-field [type=submit]")
        answered(page, 2)
        assert lines(page) == 4
        for _ in range(5):
            page.click("[data-do=again]", delay=5)
        answered(page, 2)
        assert lines(page) == 4 and not page.locator(".em-line p:empty").count()


def test_speaking_over_the_answer_stops_it_at_once(served, tmp_path):
    microphone = recording(tmp_path / "barge.wav", 0.8, question(), 30.0)
    with opened(served, microphone) as page:
        write(page, "Tell me a joke.")
        page.wait_for_function("window.emova.player.sounding")
        page.click("[data-do=free]")
        page.wait_for_function("!window.emova.player.sounding")
        # The pause after the question ends it, without a button.
        page.wait_for_function("document.querySelectorAll('.em-user').length === 2")
        phase(page, "ready")
        assert "Just speak" in note(page) and page.locator(".em-user .em-spoken").count() == 1
        page.click("[data-do=free]")
        phase(page, "idle")


def test_stop_and_escape_silence_the_voice(served, quiet):
    with opened(served, quiet) as page:
        for silence in (lambda: page.click("[data-do=stop]"), lambda: page.keyboard.press("Escape")):
            write(page, "Can you tell me a fairy tale about a cat?")
            page.wait_for_function("window.emova.player.sounding")
            silence()
            assert not page.evaluate("window.emova.player.sounding")
            wait_for(lambda: served.page_session().session.request is None)
            phase(page, "idle")


def test_an_answer_is_heard_again_copied_saved_and_in_other_feelings(served, quiet):
    with opened(served, quiet, permissions=["clipboard-read", "clipboard-write"]) as page:
        write(page, "Guess what, today is my birthday!")
        answered(page)
        answer = next(iter(served.page_session().answers.values()))
        lengths = {}
        for name in ("replay", "hear-sad", "hear-angry"):
            page.click(f".em-assistant [data-do={name}]")
            page.wait_for_function("window.emova.player.sounding")
            assert page.get_attribute(f".em-assistant [data-do={name}]", "aria-pressed") == "true"
            lengths[name] = page.evaluate("window.emova.player.seconds")
            page.keyboard.press("Escape")
            assert not page.evaluate("window.emova.player.sounding")
        assert abs(lengths["replay"] - answer.seconds) < 0.01
        assert page.locator(".em-assistant [data-do=hear-happy]").count() == 0  # as it is
        page.click(".em-assistant [data-do=copy]")
        wait_for(lambda: note(page) == "Copied.")
        assert page.evaluate("navigator.clipboard.readText()") == answer.reply.text.strip()
        with page.expect_download() as saved:
            page.click(".em-assistant [data-do=save]")
        sound = load_audio(Path(saved.value.path()).read_bytes(), 24_000)
        assert len(sound) == round(answer.seconds * 24_000) and "birthday" in saved.value.suggested_filename


def test_another_answer_has_other_words(served, quiet):
    with opened(served, quiet) as page:
        write(page, "Tell me a joke.")
        answered(page)
        said = {page.inner_text(".em-assistant p")}
        for count in (2, 3):
            page.click("[data-do=again]")
            page.wait_for_function(
                "(said) => { const p = document.querySelector('.em-assistant p'); "
                "return p && !document.querySelector('[aria-busy]') && !said.includes(p.innerText); }",
                arg=list(said)[-1:],
            )
            answered(page)
            said.add(page.inner_text(".em-assistant p"))
            assert lines(page) == 2 and len(said) >= min(count, 2)


# --- looking ----------------------------------------------------------------------------------------------------------
def test_a_picture_is_taken_pasted_dropped_and_taken_off(served, quiet):
    with opened(served, quiet) as page:
        session = wait_for(lambda: served.page_session())
        page.click("[data-do=camera]")
        page.wait_for_function("document.querySelector('.em-camera video').readyState === 4")
        page.click("[data-do=shutter]")
        taken = wait_for(lambda: session.picture)
        assert min(taken.size) > 100 and len(np.unique(np.asarray(taken))) > 10
        assert not page.evaluate("document.querySelector('.em-camera video').srcObject")  # the camera is off
        page.click("[data-do=no-picture]")
        wait_for(lambda: session.picture is None)
        for how, file in (("paste", EXAMPLES / "photo.png"), ("drop", FIXTURES / "pictures" / "signs-test-000029.png")):
            give(page, how, file, "image/png")
            size = Image.open(file).size
            wait_for(lambda size=size: session.picture is not None and session.picture.size == size)
        write(page, "Tell me what is written on the sign.")
        answered(page)
        assert "open" in page.inner_text(".em-assistant p")
        assert not [path for path in served.folder.rglob("*") if path.is_file()]


def test_a_dropped_recording_is_asked(served, quiet):
    with opened(served, quiet) as page:
        give(page, "drop", FIXTURES / "questions" / "04.ogg", "audio/ogg")
        answered(page)
        assert "Rome" in page.inner_text(".em-assistant p")


def test_a_camera_and_a_microphone_that_are_refused_say_so(served, quiet):
    with opened(served, quiet, camera=False) as page:
        page.click("[data-do=camera]")
        wait_for(lambda: "camera" in note(page) and "allow it" in note(page))
        assert not page.locator("dialog[open]").count()
        page.click("[data-do=talk]")
        wait_for(lambda: "microphone" in note(page))
        assert page.evaluate(PHASE, "idle")


def test_what_cannot_be_used_is_said_in_one_line(served, quiet, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((EXAMPLES / "photo.png").read_bytes()[:4000])
    sound = tmp_path / "broken.wav"
    sound.write_bytes((EXAMPLES / "question.wav").read_bytes()[:4000])
    video = tmp_path / "film.mp4"
    video.write_bytes(b"x")
    with opened(served, quiet) as page:
        for path, kind, words in (
            (broken, "image/png", "damaged or truncated"),
            (sound, "audio/wav", "truncated"),
            (video, "video/mp4", "is a video"),
            (tmp_path / "film.mp4", "application/pdf", "no picture and no recording"),
        ):
            give(page, "drop", path, kind)
            wait_for(lambda words=words: words in note(page))
            text = page.inner_text("body")
            assert "Traceback" not in text and str(tmp_path) not in text and "/tmp" not in text
            assert lines(page) == 0 and served.page_session().picture is None


# --- the drawer -------------------------------------------------------------------------------------------------------
def test_all_styles_of_an_answer_and_of_the_next(served, quiet):
    with opened(served, quiet) as page:
        write(page, "Hello, how are you?")
        answered(page)
        for words in ("Hello, how are you?", "Tell me a joke."):
            page.click(".em-assistant:last-child [data-do=more]")
            page.wait_for_function("document.querySelectorAll('.em-style:not([disabled])').length === 24")
            answer = next(reversed(served.page_session().answers.values()))
            assert page.inner_text(".em-of-styles").strip("“”") == answer.reply.text.strip()
            assert page.locator(".em-style.em-chosen").count() == 1
            page.click("[data-style='gender-male_emotion-angry_pitch-low']")
            page.wait_for_function("window.emova.player.sounding")
            page.click("#drawer-hood")
            cells = page.locator(".em-hood .em-units i")
            wait_for(lambda cells=cells, answer=answer: cells.count() == len(answer.reply.units))
            page.keyboard.press("Escape")
            if words.startswith("Hello"):
                write(page, "Tell me a joke.")
                answered(page, 2)


def test_how_to_be_answered_survives_a_reload(served, quiet):
    with opened(served, quiet) as page:
        page.click(".em-head [data-do=settings]")
        page.check(".em-drawer input[value=male]", force=True)
        page.check(".em-drawer input[value=sad]", force=True)
        wait_for(lambda: served.page_session().wish.emotion == "sad")
        page.reload()
        page.wait_for_function(ENTERED)
        page.click(".em-head [data-do=settings]")
        assert page.is_checked(".em-drawer input[value=male]") and page.is_checked(".em-drawer input[value=sad]")
        page.keyboard.press("Escape")
        write(page, "Hello.")
        answered(page)
        assert page.locator(".em-label").all_inner_texts()[::2] == ["sad", "male"]


def test_my_voice_is_made_of_five_seconds_and_forgotten(served, tmp_path):
    microphone = recording(tmp_path / "mine.wav", *(part for _ in range(5) for part in (question(), 0.1)))
    with opened(served, microphone) as page:
        page.click(".em-head [data-do=settings]")
        page.click(".em-drawer .em-record")
        page.wait_for_function("document.querySelector('.em-drawer .em-clock').innerText.startsWith('0:01')")
        page.keyboard.press("Escape")  # the recording ends, the drawer stays
        assert page.is_visible(".em-drawer") and served.page_session().own_voice is None
        page.click(".em-drawer .em-record")
        page.wait_for_function("document.querySelector('input[value=mine]').checked")
        page.wait_for_function("window.emova.player.sounding")
        page.keyboard.press("Escape")
        write(page, "Hello.")  # and the sample is silent
        page.wait_for_selector(".em-label >> text=my voice")
        page.click(".em-head [data-do=settings]")
        page.click("[data-do=forget]")
        wait_for(lambda: served.page_session().own_voice is None and served.page_session().wish.voice == "female")


# --- coming back ------------------------------------------------------------------------------------------------------
def test_a_reload_in_the_middle_of_an_answer_and_the_back_button(served, quiet):
    with opened(served, quiet) as page:
        page.click(".em-theme")
        dark = page.evaluate("document.body.classList.contains('dark')")
        page.click(".em-welcome [data-example=cheese]")
        answered(page)
        write(page, "Can you tell me the price?")
        page.wait_for_function("document.querySelectorAll('.em-assistant').length === 2")
        page.reload()
        page.wait_for_function(ENTERED)
        page.wait_for_function(ANSWERS, arg=2)
        assert not page.evaluate("window.emova.player.sounding")  # it was heard before, or is at a press
        words = page.locator(".em-line p").all_inner_texts()
        assert len(words) == 4 and words[2] == "Can you tell me the price?" and page.is_visible(".em-picture img")
        page.click(".em-assistant:last-child [data-do=replay]")
        page.wait_for_function("window.emova.player.sounding")
        page.click("#tab-speak")
        page.goto("about:blank")
        page.go_back()
        page.wait_for_function(ENTERED)
        assert page.get_attribute("#tab-speak", "aria-selected") == "true" and page.is_visible("#speak textarea")
        page.go_back()
        page.wait_for_function("document.body.dataset.tab === 'talk'")
        page.wait_for_function(ANSWERS, arg=2)
        assert page.locator(".em-line p").all_inner_texts() == words
        assert page.evaluate("document.body.classList.contains('dark')") is dark
        write(page, "What is it?")
        answered(page, 3)
        assert len(served.pages) == 1


def test_two_visitors_and_one_who_waits(quiet):
    from emova_app.demo.conversation.pages import PlaceLimits
    from emova_app.demo.page import DemoConfig

    small = Served(DemoConfig(max_pages=2, places=PlaceLimits(away_seconds=1.0)))
    try:
        with (
            browsing(quiet) as browser,
            visiting(browser, small) as second,
            visiting(browser, small) as first,
            visiting(browser, small, waits=True) as third,
        ):
            assert "You are number 1 in the line" in third.inner_text(".em-wait p")
            first.click(".em-welcome [data-example=storm]")
            second.click(".em-welcome [data-example=face]")
            answered(first)
            answered(second)
            assert "stormy" in first.inner_text(".em-assistant p")
            assert "sad" in second.inner_text(".em-assistant p")
            first.goto("about:blank")  # who leaves, gives way
            third.wait_for_function(ENTERED)
            third.click(".em-welcome [data-example=cheese]")
            answered(third)
    finally:
        small.close()


def test_one_conversation_in_two_tabs_goes_on_in_the_newer(served, quiet):
    with opened(served, quiet) as page:
        write(page, "Hello.")
        answered(page)
        ticket = page.evaluate("sessionStorage.getItem('emova-ticket')")
        other = page.context.new_page()
        other.goto(f"{served.address}/robots.txt")
        other.evaluate("(ticket) => sessionStorage.setItem('emova-ticket', ticket)", ticket)
        other.goto(served.address)
        other.wait_for_function(ANSWERS, arg=1)
        page.wait_for_selector(".em-wait >> text=another tab")
        page.click(".em-wait button")
        other.wait_for_selector(".em-wait >> text=another tab")
        page.wait_for_function(ANSWERS, arg=1)


def test_twenty_turns(served, quiet):
    said = ["Hello, how are you?", "Tell me a joke.", "What can you do?", "Guess what, today is my birthday!"]
    with opened(served, quiet) as page:
        for turn in range(20):
            write(page, said[turn % len(said)])
            page.wait_for_function(ANSWERS, arg=turn + 1)
        phase(page, "idle")
        assert lines(page) == 40 and not page.locator(".em-line p:empty").count()
        box = page.evaluate("(() => { const b = document.querySelector('.em-lines'); return [b.scrollTop, "
                            "b.scrollHeight - b.clientHeight]; })()")  # fmt: skip
        assert box[1] - box[0] < 4 and box[1] > 500  # the newest is in view
        page.reload()
        page.wait_for_function(ANSWERS, arg=20)
        page.click(".em-head [data-do=new]")
        page.wait_for_selector(".em-welcome >> visible=true")
        assert len(served.page_session().session) == 0


# --- one task each ----------------------------------------------------------------------------------------------------
def test_the_tabs_with_one_task(served, quiet, tmp_path):
    import soundfile

    long = tmp_path / "long.wav"
    soundfile.write(long, np.tile(question(), 60)[: 75 * 16_000], 16_000)
    with opened(served, quiet) as page:
        page.click("#tab-transcribe")
        page.click("#transcribe [data-do=example]")
        page.wait_for_selector("#transcribe audio")
        assert understood(page.inner_text(".em-text"))
        give(page, "drop", EXAMPLES / "photo.png", "image/png")
        wait_for_note(page, "#transcribe", "picture")
        assert not page.locator("#transcribe .em-out > *").count()  # what was there is gone
        give(page, "drop", long, "audio/wav")
        wait_for_note(page, "#transcribe", "75 s long")
        page.focus("#transcribe >> text=Use the first 60 s")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.dataset.do") == "file"  # the button is gone, the focus is not
        page.wait_for_selector("#transcribe .em-sound >> text=60.0 s")

        page.click("#tab-speak")
        began = time.monotonic()
        page.click("[data-do=speak]")
        page.wait_for_function("window.emova.player.sounding")
        print(f"first sound of Speak after {time.monotonic() - began:.2f} s")
        page.wait_for_selector("#speak .em-sound >> text=female, neutral")
        page.check("#speak input[value=angry]", force=True)
        page.wait_for_selector("#speak .em-sound >> text=female, angry")
        give(page, "paste", EXAMPLES / "photo.png", "image/png")
        wait_for_note(page, "#speak", "under Talk")
        page.fill("#speak textarea", "")
        assert not page.locator("#speak .em-out > *").count()
        page.click("[data-do=speak]")
        wait_for_note(page, "#speak", "write a sentence")

        page.click("#tab-resynthesise")
        page.click("#resynthesise [data-do=example]")
        page.wait_for_selector("#resynthesise .em-sound >> text=male, neutral")
        page.check("#resynthesise input[value=happy]", force=True)
        page.wait_for_selector("#resynthesise .em-sound >> text=male, happy")
        assert page.locator("#resynthesise .em-sound").count() == 2
        page.locator("#resynthesise audio").first.evaluate("sound => sound.play()")
        page.locator("#resynthesise audio").last.evaluate("sound => sound.play()")
        assert page.evaluate("[...document.querySelectorAll('audio')].filter(sound => !sound.paused).length") == 1
