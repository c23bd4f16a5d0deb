"""How the demo looks and whether everybody can use it: four sizes, light and dark, axe-core, the keyboard alone.

The pictures of ``app/screenshots`` are made here.
"""

from __future__ import annotations

import io
import time
from importlib.resources import files

import pytest
from PIL import Image

from tests.app.fixtures_browser import (
    SCREENSHOTS,
    opened,
    recording,
    shoot,
    skip_without_browser,
    wait_for,
)
from tests.app.test_demo_browser import TEXT, answered, lines, phase, write

pytestmark = [skip_without_browser(), pytest.mark.slow, pytest.mark.timeout(900)]

SIZES = {"desktop": (1280, 720), "phone": (360, 740), "small": (320, 568), "landscape": (740, 360)}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# What is cut off, or lies under something else, where it should be seen: the words of each such element.
UNSEEN = """(selectors) => selectors.flatMap((selector) => [...document.querySelectorAll(selector)]).filter((each) => {
  if (each.disabled || !each.checkVisibility({ visibilityProperty: true })) return false;
  const { left, right, top, bottom, width, height } = each.getBoundingClientRect();
  if (!width || left < -0.5 || top < -0.5 || right > innerWidth + 0.5 || bottom > innerHeight + 0.5) return true;
  const at = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return !(at && (each.contains(at) || at.contains(each)));
}).map((each) => each.getAttribute("aria-label") || each.innerText || each.className)"""
ALWAYS = [".em-orb", ".em-note", TEXT, "[data-do=talk]", "[data-do=camera]", "[data-do=attach]", "[data-do=free]",
          ".em-head [data-do=settings]", ".em-head [data-do=new]"]  # fmt: skip


@pytest.fixture()
def quiet(tmp_path):
    return recording(tmp_path / "quiet.wav", 1.0)


def look(page, scheme, size):
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("(dark) => document.body.classList.contains('dark') === dark", arg=scheme == "dark")
    page.wait_for_timeout(400)  # colours change softly


def axe(page):
    """What axe-core finds: rule, and where."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate(
        "(rules) => axe.run(document, { runOnly: { type: 'tag', values: rules }, resultTypes: ['violations'] })", RULES
    )
    return [
        (each["id"], node["html"][:160], node["any"][0]["message"] if node["any"] else node["failureSummary"])
        for each in found["violations"]
        for node in each["nodes"]
    ]


def whole(page, *more):
    """Nothing of what must be seen is cut off, and the page is no wider than its window."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert page.evaluate(UNSEEN, [*ALWAYS, *more]) == []


def test_every_size_in_light_and_dark(served, quiet):
    with opened(served, quiet) as page:
        for scheme in ("light", "dark"):
            for size in SIZES:
                look(page, scheme, size)
                whole(page, ".em-welcome h2", ".em-welcome li:first-child button")
                shoot(page, f"{size}-{scheme}-first")
                assert axe(page) == [], (scheme, size)
        page.click(".em-welcome [data-example=points]")
        answered(page)
        write(page, "Which name has the lowest score?")
        answered(page, 2)
        for scheme in ("light", "dark"):
            for size in SIZES:
                look(page, scheme, size)
                last = ".em-assistant:last-child"
                whole(page, f"{last} p", f"{last} [data-do=replay]", f"{last} [data-do=more]", "[data-do=what]")
                # The conversation is the largest thing.
                areas = page.evaluate(
                    "['.em-conversation', '.em-stage', '.em-bar', '.em-head'].map((name) => { const box = "
                    "document.querySelector(name).getBoundingClientRect(); return box.width * box.height; })"
                )
                assert areas[0] == max(areas), (scheme, size, areas)
                shoot(page, f"{size}-{scheme}-talk")
                assert axe(page) == [], (scheme, size)
        assert page.evaluate("document.documentElement.lang") == "en"
        assert set(page.locator(".em-line p").evaluate_all("all => all.map((each) => each.dir)")) == {"auto"}
        assert set(page.locator(".em-assistant p").evaluate_all("all => all.map((each) => each.lang)")) == {"en"}


def test_what_opens_and_what_records(served, quiet):
    with opened(served, quiet) as page:
        page.click(".em-welcome [data-example=twister]")
        answered(page)
        for scheme, size in (("light", "desktop"), ("dark", "phone")):
            look(page, scheme, size)
            page.click("[data-do=talk]")
            phase(page, "recording")
            page.mouse.move(3, 3)
            whole_bar = [".em-recording [data-do=cancel]", ".em-recording .em-clock", "[data-do=send-recording]"]
            assert page.evaluate(UNSEEN, whole_bar) == []
            shoot(page, f"{size}-{scheme}-recording")
            assert axe(page) == [], scheme
            page.keyboard.press("Escape")
            phase(page, "idle")
            for panel in ("voice", "styles", "hood"):
                page.click(".em-head [data-do=settings]")
                page.click(f"#drawer-{panel}")
                if panel == "styles":
                    page.wait_for_function("document.querySelectorAll('.em-style:not([disabled])').length === 24")
                elif panel == "hood":
                    page.wait_for_selector(".em-waterfall")
                assert axe(page) == [], (scheme, panel)
                shoot(page, f"{size}-{scheme}-{panel}")
                page.keyboard.press("Escape")
            page.click("[data-do=what]")
            assert axe(page) == [], scheme
            shoot(page, f"{size}-{scheme}-ask")
            page.keyboard.press("Escape")
        for name in ("transcribe", "speak", "resynthesise"):
            page.click(f"#tab-{name}")
            page.click(f"#{name} [data-do={'speak' if name == 'speak' else 'example'}]")
            page.wait_for_selector(f"#{name} audio")
            for scheme, size in (("light", "desktop"), ("dark", "phone")):
                look(page, scheme, size)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                page.mouse.move(3, 3)
                shoot(page, f"{size}-{scheme}-{name}")
                assert axe(page) == [], (scheme, name)


def test_the_keyboard_alone(served, quiet):
    focused = "(() => { const it = document.activeElement; return it.dataset.do || it.dataset.tab || it.name || it.tagName; })()"  # noqa: E501

    def walk(page, wanted, most=40):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == wanted:
                # Where one is, is seen.
                assert page.evaluate(
                    "(() => { const it = document.activeElement; const style = getComputedStyle(it); const near = "
                    "getComputedStyle(it.closest('.em-field') || it.nextElementSibling || it); return style."
                    "outlineStyle !== 'none' || near.outlineStyle !== 'none' || near.boxShadow !== 'none'; })()"
                ), wanted
                return
        raise AssertionError(f"no way to {wanted}")

    with opened(served, quiet) as page:
        page.evaluate("document.activeElement.blur()")
        walk(page, "talk")  # the tabs
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.body.dataset.tab") == "transcribe"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "new"  # the tabs are one stop
        page.evaluate("document.querySelector('.em-welcome [data-example=cheese]').focus()")
        page.keyboard.press("Enter")
        answered(page)
        page.evaluate("document.querySelector('.em-lines').focus()")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "replay"
        page.keyboard.press("ArrowRight")
        assert page.evaluate(focused) == "copy"
        page.keyboard.press("End")
        assert page.evaluate(focused) == "more"
        page.keyboard.press("Tab")  # the answer's tools are one stop
        assert page.evaluate("!document.activeElement.closest('.em-tools')")
        walk(page, "talk")
        page.keyboard.press("Enter")
        phase(page, "recording")
        wait_for(lambda: page.evaluate(focused) == "send-recording")
        page.keyboard.press("Escape")
        phase(page, "idle")
        wait_for(lambda: page.evaluate(focused) == "talk")
        walk(page, "settings")
        page.keyboard.press("Enter")
        page.wait_for_selector(".em-drawer[open]")
        walk(page, "em-voice")
        page.keyboard.press("ArrowDown")
        wait_for(lambda: served.page_session().wish.voice == "male")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "em-emotion"  # each group is one stop
        page.keyboard.press("Escape")
        assert page.evaluate(focused) == "settings"  # and back where it was
        page.focus(TEXT)
        page.keyboard.type("Tell me a joke.")
        page.keyboard.press("Enter")
        page.wait_for_function("window.emova.player.sounding")
        page.keyboard.press("Escape")
        assert not page.evaluate("window.emova.player.sounding") and lines(page) == 4


def test_less_motion_is_respected_and_the_live_region_is_only_added_to(served, quiet):
    with opened(served, quiet, reduced_motion="reduce") as page:
        page.evaluate(
            "window.removed = 0; new MutationObserver((all) => all.forEach((each) => window.removed += "
            "each.removedNodes.length)).observe(document.querySelector('.em-lines'), { childList: true })"
        )
        for turn in range(3):
            write(page, "Hello, how are you?")
            answered(page, turn + 1)
        assert page.evaluate("window.removed") == 0 and lines(page) == 6
        moving = page.evaluate(
            "[...document.querySelectorAll('*')].filter((each) => { const style = getComputedStyle(each); return "
            "style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0; })"
            ".map((each) => each.className)"
        )
        assert [each for each in moving if "em-" in str(each)] == []


def test_a_talk_as_an_animated_picture(served, quiet):
    with opened(served, quiet, viewport={"width": 960, "height": 560}) as page:
        film = Film(page)
        film.take(1.0)
        page.click(".em-welcome [data-example=points]")
        film.until(lambda: page.evaluate("document.querySelector('.em-app').dataset.phase") == "idle")
        for letter in "Which name has the lowest score?":
            page.type(TEXT, letter)
            film.take(0.06)
        page.keyboard.press("Enter")
        film.until(lambda: page.evaluate(f"({TALKED})(2)"))
        page.click(".em-assistant:last-child [data-do=hear-angry]")
        film.until(lambda: not page.evaluate("window.emova.player.sounding"))
        assert page.locator(".em-assistant p").all_inner_texts() == [
            "Ivy has the most points.", "Anna has the fewest points."
        ]  # fmt: skip
        film.save(SCREENSHOTS / "talk.webp", 1.5)


TALKED = """(count) => document.querySelectorAll('.em-assistant .em-labels').length === count
  && document.querySelector('.em-app').dataset.phase === 'idle'"""


class Film:
    """Pictures of a page, as fast as they can be taken."""

    def __init__(self, page):
        self.page, self.pictures, self.seconds = page, [], []

    def take(self, seconds):
        self.pictures.append(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
        self.seconds.append(seconds)

    def until(self, done):
        while True:
            began = time.monotonic()
            self.take(0.0)
            ended = done()
            self.seconds[-1] = min(0.25, time.monotonic() - began)
            if ended:
                return

    def save(self, path, pause):
        self.take(pause)
        first, *others = self.pictures
        times = [round(1000 * each) for each in self.seconds]
        first.save(path, save_all=True, append_images=others, duration=times, loop=0, quality=55, method=4)
        assert path.stat().st_size < 1_500_000 and len(self.pictures) > 20
