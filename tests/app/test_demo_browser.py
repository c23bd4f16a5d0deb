"""The demo in a real browser: a picture, a spoken question, an answer that sounds; interrupting; what goes wrong."""

from __future__ import annotations

import base64
import os
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emova.speech.audio import load_audio
from tests.app.fixtures_browser import (
    EXAMPLES,
    FIXTURES,
    PATIENCE,
    ROOT,
    Served,
    opened,
    question,
    recording,
    shoot,
    skip_without_browser,
    wait_for,
)

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
# Puts a PNG on the browser's clipboard.
COPY = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const png = new Blob([bytes], { type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}"""
WHISPER = ROOT / "data" / "nano" / "sources" / "whisper-base"
TOLD = "() => window.emova.player.chunks.length && !window.emova.player.open && !window.emova.player.sounding"


@pytest.fixture(scope="module")
def served():
    demo = Served()
    yield demo
    folder = os.environ["GRADIO_TEMP_DIR"]
    demo.close()
    assert not Path(folder).exists()


@pytest.fixture()
def quiet(tmp_path):
    return recording(tmp_path / "quiet.wav", 1.0)


def upload_picture(page, path=EXAMPLES / "photo.png"):
    page.set_input_files("#picture input[type=file]", path)


def write(page, text):
    page.fill("#question textarea", text)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator(".em-line.em-assistant")


def ask_aloud(page, served, picture=EXAMPLES / "photo.png"):
    """Show a picture, play the question into the microphone; what the page plays of the answer, at 24 kHz."""
    upload_picture(page, picture)
    wait_for(lambda: served.page_session().picture is not None)
    page.evaluate(RECORD)
    page.click("[data-do=talk]")
    wait_for(lambda: len(served.page_session().microphone) > 32_000)
    page.click("[data-do=talk]")
    page.wait_for_function(TOLD)
    return load_audio(base64.b64decode(page.evaluate("window.recorded()")), 24_000)


def test_a_spoken_question_about_a_picture_and_a_second_turn(served, tmp_path):
    microphone = recording(tmp_path / "question.wav", 0.4, question(FIXTURES / "questions" / "26.ogg"), 20.0)
    with opened(served, microphone) as page:
        shoot(page, "empty")
        played = ask_aloud(page, served, FIXTURES / "pictures" / "tables-test-000015.png")
        session, reply = served.page_session(), served.page_session().reply
        assert session.lines[0].thumbnail and session.lines[0].spoken
        assert page.inner_text(".em-line.em-user p").strip() == reply.transcript.strip() != ""
        assert page.inner_text(".em-line.em-assistant p").strip() == reply.text.strip() != ""
        labels = page.locator(".em-line.em-assistant .em-label").all_inner_texts()
        assert labels == [reply.emotion, f"{reply.pitch} pitch", "female"]
        # What sounded is the reply: as long, and as loud.
        loud = np.abs(played) > 0.01
        assert np.sqrt(np.mean(reply.audio**2)) * 0.5 < np.sqrt(np.mean(played[loud] ** 2))
        assert abs(page.evaluate("window.emova.player.seconds") - len(reply.audio) / 24_000) < 0.01
        assert len(played) >= len(reply.audio) * 0.95

        write(page, "Which name has the lowest score?")
        page.wait_for_function("document.querySelectorAll('.em-line.em-assistant footer').length == 2")
        page.wait_for_function(TOLD)
        assert len(session.session) == 2 and session.session.sees and not session.lines[2].thumbnail
        shoot(page, "desktop")
        page.click("#hood button")
        page.locator("#hood .em-waterfall").scroll_into_view_if_needed()
        assert page.locator("#hood .em-units i").count() == len(session.reply.units)
        shoot(page, "under-the-hood")

        page.click("#again")
        page.wait_for_function("document.querySelectorAll('.em-label.em-state').length == 0")
        wait_for(lambda: session.playback.sound.ended and session.lines[-1].state == "done")
        assert len(session.session) == 2 and len(session.lines) == 4
        page.click("#new")
        page.wait_for_selector(".em-empty")
        assert len(session.session) == 0 and session.picture is not None


@pytest.mark.skipif(not WHISPER.is_dir(), reason="no Whisper model here (emova data fetch nano)")
def test_what_sounds_is_heard_by_whisper_as_the_reply(served, tmp_path):
    """How well the voice can be understood is the model's matter (emova eval); that all of it sounds is the page's."""
    import soxr

    from emova_eval.judges.words import WhisperJudge

    microphone = recording(tmp_path / "question.wav", 0.4, question(), 20.0)
    with opened(served, microphone) as page:
        played, reply = ask_aloud(page, served), served.page_session().reply
    ears = WhisperJudge(WHISPER)
    heard, wanted = (ears.transcribe(soxr.resample(sound, 24_000, 16_000)) for sound in (played, reply.audio))
    assert heard.strip()
    alike = SequenceMatcher(None, heard.lower(), wanted.lower()).ratio()
    assert alike >= 0.7, f"{heard!r} sounded, {wanted!r} was said; the text is {reply.text!r}"


def test_speaking_over_the_answer_stops_it_at_once(served, tmp_path):
    microphone = recording(tmp_path / "barge.wav", 0.8, question(), 30.0)
    with opened(served, microphone) as page:
        write(page, "Tell me a joke.")
        page.wait_for_function("window.emova.player.sounding")
        page.click("[data-do=free]")
        session = served.page_session()
        wait_for(
            lambda: (
                session.lines[1].state == "cut" or session.playback.sound.generation == 2 or len(session.microphone) > 0
            )
        )
        page.wait_for_function("!window.emova.player.sounding")
        # The pause after the question ends it, without a button.
        wait_for(lambda: len(session.lines) >= 4 and session.lines[3].state == "done")
        assert session.lines[2].spoken and session.lines[2].text
        page.wait_for_function(TOLD)
        page.click("[data-do=free]")


def test_stop_and_escape_silence_the_voice(served, quiet):
    with opened(served, quiet) as page:
        session = served.page_session()
        for silence in (lambda: page.click("[data-do=stop]"), lambda: page.keyboard.press("Escape")):
            write(page, "Tell me a story about the sea.")
            page.wait_for_function("window.emova.player.sounding")
            silence()
            assert not page.evaluate("window.emova.player.sounding")
            wait_for(lambda: session.playback.sound.ended and session.session.request is None)


def test_a_picture_from_the_camera_and_none(served, quiet):
    with opened(served, quiet) as page:
        page.click("#picture button[aria-label='Capture from camera']")
        page.click("#picture button:has(.icon-wrap)")
        page.wait_for_function("document.querySelector('#picture video').readyState == 4")
        page.click("#picture button[aria-label='capture photo']")
        picture = wait_for(lambda: served.page_session().picture)
        assert min(picture.size) > 100 and len(np.unique(np.asarray(picture))) > 10
        assert Path(served.page_session().picture_file).is_file()
        page.click("#picture button[aria-label='Remove Image']")
        wait_for(lambda: served.page_session().picture is None and served.page_session().picture_file is None)


def test_a_pasted_picture(served, quiet):
    with opened(served, quiet, permissions=["clipboard-read", "clipboard-write"]) as page:
        photo = EXAMPLES / "photo.png"
        page.evaluate(COPY, base64.b64encode(photo.read_bytes()).decode())
        page.locator("#picture button[aria-label='Paste from clipboard']").first.click()
        picture = wait_for(lambda: served.page_session().picture)
        difference = np.asarray(picture).astype(int) - np.asarray(Image.open(photo).convert("RGB"))
        assert np.abs(difference).mean() < 2


def test_the_same_words_in_24_styles(served, quiet):
    with opened(served, quiet) as page:
        write(page, "Hello, how are you?")
        page.wait_for_function(TOLD)
        page.click("#styles button")
        page.click("#speak-styles")
        page.wait_for_function("document.querySelectorAll('#cards .em-style:not([disabled])').length == 24")
        session = served.page_session()
        sounds = {style: speech.audio for style, speech in session.styles.items()}
        assert len({speech.units for speech in session.styles.values()}) == 1
        assert len({audio.tobytes() for audio in sounds.values()}) == 24
        page.click("[data-style='gender-male_emotion-angry_pitch-low']")
        page.wait_for_function("window.emova.player.sounding")
        page.locator("#cards").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#styles').scrollIntoView()")
        shoot(page, "styles")


def test_my_voice_is_made_of_five_seconds(served, tmp_path):
    microphone = recording(tmp_path / "mine.wav", *(part for _ in range(5) for part in (question(), 0.1)))
    with opened(served, microphone) as page:
        page.click("#my-voice button")
        page.click("#my-voice .em-record button")
        page.wait_for_function("document.querySelector('#voice input[value=mine]').checked")
        assert served.page_session().own_voice is not None
        shoot(page, "my-voice")
        write(page, "Hello.")
        page.wait_for_selector(".em-label >> text=my voice")
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_broken_upload_gives_a_message_and_a_whole_one_is_answered(served, quiet, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((EXAMPLES / "photo.png").read_bytes()[:4000])
    sound = tmp_path / "broken.wav"
    sound.write_bytes((EXAMPLES / "question.wav").read_bytes()[:4000])
    with opened(served, quiet) as page:
        upload_picture(page, broken)
        page.wait_for_selector(".toast-body >> text=damaged or truncated")
        assert served.page_session().picture is None
        shoot(page, "message")
        page.set_input_files("#talk-tab input[type=file][accept*=audio]", sound)
        page.wait_for_selector(".toast-body >> text=truncated; copy or record it again")
        text = page.inner_text("body")
        assert "Traceback" not in text and str(tmp_path) not in text and "/tmp" not in text
        page.set_input_files("#talk-tab input[type=file][accept*=audio]", EXAMPLES / "question.wav")
        wait_for(lambda: served.page_session().lines and served.page_session().lines[0].spoken)
        page.wait_for_function(TOLD)


def test_the_other_tabs(served, quiet):
    with opened(served, quiet) as page:
        page.get_by_role("tab", name="Transcribe").click()
        page.locator("button:visible", has_text="Use the example").click()
        page.wait_for_selector(".em-text")
        assert page.inner_text(".em-text").strip()
        page.get_by_role("tab", name="Speak").click()
        page.click("#speak")
        page.wait_for_selector("#spoken audio")
        shoot(page, "speak")
        page.get_by_role("tab", name="Resynthesise").click()
        page.locator("button:visible", has_text="Use the example").click()
        page.wait_for_function("[...document.querySelectorAll('.em-sound')].filter(e => e.offsetParent).length == 2")
        shoot(page, "resynthesise")


def test_phone_dark_and_keyboard(served, quiet):
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1, "color_scheme": "dark"}
    with opened(served, quiet, **phone) as page:
        page.click("#example")
        page.wait_for_function(TOLD, timeout=PATIENCE)
        page.click("#new")
        page.wait_for_selector(".em-empty")
        upload_picture(page, FIXTURES / "pictures" / "signs-test-000029.png")
        wait_for(lambda: served.page_session().picture_file is not None)
        page.set_input_files("#talk-tab input[type=file][accept*=audio]", FIXTURES / "questions" / "28.ogg")
        wait_for(lambda: [line.state for line in served.page_session().lines] == ["done", "done"])
        page.wait_for_function(TOLD, timeout=PATIENCE)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate("document.body.classList.contains('dark')")
        shoot(page, "phone-dark", full_page=True)
        order = ["picture", "talk", "bar", "question", "style-choice", "my-voice", "styles"]
        tops = [page.locator(f"#{name}").first.bounding_box()["y"] for name in order]
        assert tops == sorted(tops)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate("window.scrollTo(0, 0)")
        shoot(page, "desktop-dark")
        page.focus("#question textarea")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Send"
        page.focus("[data-do=replay]")
        page.keyboard.press("Enter")
        page.wait_for_function("window.emova.player.sounding")
        page.keyboard.press("Escape")
        assert not page.evaluate("window.emova.player.sounding")
