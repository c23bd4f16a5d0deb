"""The words of who speaks, in a real browser: nothing moves for them, and they go with the recording."""

from __future__ import annotations

import pytest

from tests.app.fixtures_browser import FIXTURES, opened, question, recording, skip_without_browser, wait_for
from tests.app.test_demo_browser import answered, lines, phase, write
from tests.app.test_demo_looks import axe, look

pytestmark = [skip_without_browser(), pytest.mark.slow, pytest.mark.timeout(600)]

SOUNDS = [question(FIXTURES / "questions" / f"{name}.ogg") for name in ("07", "11", "17")]
WATCH = """() => {
  window.told = [];
  window.removed = 0;
  new MutationObserver((all) => all.forEach((each) => {
    const said = document.querySelector(".em-caption span").textContent.trim();
    window.told.push(...[...each.addedNodes].map((node) => [node.textContent.trim(), said]));
    window.removed += each.removedNodes.length;
  })).observe(document.querySelector(".em-unseen"), { childList: true, subtree: true, characterData: true });
}"""
PLACES = """() => [".em-head", ".em-stage", ".em-orb", ".em-note", ".em-bar", ".em-conversation", ".em-lines",
  ".em-welcome", ".em-line:last-child"].map((name) => {
  const each = document.querySelector(name);
  const box = each && each.getBoundingClientRect();
  return box && [name, box.left, box.top, box.width, box.height].join(" ");
})"""
WORDS = "(count) => document.querySelector('.em-caption').innerText.trim().split(/\\s+/).length >= count"
CAPTION = ".em-caption"


@pytest.fixture()
def spoken(tmp_path):
    return recording(tmp_path / "spoken.wav", 0.4, *SOUNDS, 20.0)


def inside(page):
    """The caption is within the conversation, and its newest word is seen."""
    return page.evaluate("""() => {
      const box = document.querySelector(".em-caption").getBoundingClientRect();
      const around = document.querySelector(".em-conversation").getBoundingClientRect();
      const word = document.querySelector(".em-caption p").getBoundingClientRect();
      return box.left >= around.left && box.right <= around.right && box.bottom <= around.bottom
        && box.top >= around.top && word.bottom <= box.bottom && document.documentElement.scrollWidth <= innerWidth;
    }""")


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark"), ("small", "light")])
def test_what_is_said_is_read_until_its_transcript_stands_there(served, spoken, size, scheme, tmp_path):
    with opened(served, spoken) as page:
        look(page, scheme, size)
        page.click("[data-do=talk]")
        phase(page, "recording")
        page.evaluate(WATCH)
        places = page.evaluate(PLACES)
        assert page.is_hidden(CAPTION)
        for count in (3, 8, 16):
            page.wait_for_function(WORDS, arg=count)
            assert page.evaluate(PLACES) == places and inside(page)
        assert axe(page) == []
        page.screenshot(path=tmp_path / f"{size}-{scheme}.png")
        assert page.get_attribute(CAPTION, "aria-hidden") == "true"
        # A screen reader was told each word once, as it stood then; where long speech is cut, the page has the
        # transcript's words in their place.
        told = page.evaluate("window.told")
        assert told and all(said.endswith(words) for words, said in told)
        assert len(" ".join(words for words, _ in told).split()) >= 8
        assert page.evaluate("window.removed") == 0
        session = served.page_session()
        page.click("[data-do=send-recording]")
        answered(page)
        assert page.is_hidden(CAPTION) and page.locator(".em-lines .em-tail").count() == 0
        answer = next(iter(session.answers.values()))
        assert page.inner_text(".em-user p").strip() == answer.reply.transcript.strip()
        offline = session.assistant.chat(audio=session.asked.samples)
        assert answer.reply.transcript == offline.transcript


@pytest.mark.parametrize("how", ["Escape", "cancel", "new", "tab"])
def test_they_go_with_the_recording(served, spoken, how):
    with opened(served, spoken) as page:
        page.click("[data-do=talk]")
        page.wait_for_function(WORDS, arg=3)
        if how == "Escape":
            page.keyboard.press("Escape")
        elif how == "tab":
            page.click("#tab-speak")
            page.click("#tab-talk")
        else:
            page.click(f"[data-do={how}]")
        phase(page, "idle")
        assert page.is_hidden(CAPTION) and not page.inner_text(".em-unseen")
        wait_for(lambda: len(served.page_session().microphone) == 0)
        page.wait_for_timeout(400)
        assert page.is_hidden(CAPTION) and lines(page) == 0
        write(page, "Hello, how are you?")
        answered(page)
        assert page.locator(".em-tail:visible").count() == 0


def test_hands_free_shows_them_over_an_earlier_answer_and_stop_ends_them(served, tmp_path):
    microphone = recording(tmp_path / "free.wav", 0.8, SOUNDS[0], 30.0)
    with opened(served, microphone) as page:
        write(page, "Tell me a joke.")
        answered(page)
        before = page.evaluate(PLACES)
        page.click("[data-do=free]")
        page.wait_for_function(WORDS, arg=3)
        assert [each for each in page.evaluate(PLACES) if ".em-note" not in each] == [
            each for each in before if ".em-note" not in each
        ]
        page.wait_for_function("document.querySelectorAll('.em-user').length === 2")
        assert page.is_hidden(CAPTION)
        page.click("[data-do=free]")
        page.evaluate("document.querySelector('[data-do=stop]').click()")
        assert page.is_hidden(CAPTION) and not page.inner_text(".em-unseen")
