"""All four kinds as web pages in a headless browser: tables with their styles, bars of boxes, cards, plates.

The page says itself where its words lie, so the regions are the browser's own.
"""

from __future__ import annotations

import html
import io
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from emova.core.errors import InputError
from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import Colour, Rng
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.programs.content import Content, finished
from emova_data.nano.pictures.regions import Box

if TYPE_CHECKING:
    from playwright.sync_api import Browser as PlaywrightBrowser
    from playwright.sync_api import Page, Playwright

KINDS = ("charts", "tables", "price_tags", "signs")
_FAMILIES = ("sans-serif", "serif", "monospace", "DejaVu Sans", "Liberation Serif", "system-ui", "FreeSans")
_BOXES = """() => [...document.querySelectorAll('[data-row]')].map(e => {
  const r = e.getBoundingClientRect();
  return [Number(e.dataset.row), r.left, r.top, r.right, r.bottom];
})"""


def _css(colour: Colour) -> str:
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"


@dataclass
class Browser:
    """One headless browser for many pictures; ``close`` ends it.

    Raises: InputError: there is no chromium.
    """

    _opened: tuple[Playwright, PlaywrightBrowser, Page] | None = None

    def page(self) -> Page:
        """The browser's one page."""
        if self._opened is None:
            path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
            if path is None:
                raise InputError("chromium is not installed; install it, or leave out the program html")
            from playwright.sync_api import sync_playwright

            play = sync_playwright().start()
            browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            self._opened = play, browser, browser.new_page()
        return self._opened[2]

    def close(self) -> None:
        """End the browser; the next page starts another."""
        if self._opened:
            play, browser, _ = self._opened
            browser.close()
            play.stop()
            self._opened = None

    def draw(self, content: Content, rng: Rng) -> Drawn:
        """The content as a page of a size that is drawn."""
        page = self.page()
        size = (int(rng.integers(220, 449)), int(rng.integers(220, 449)))
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.set_content(write(content, size, rng))
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        boxes: list[list[Box]] = [[] for _ in content.rows]
        for row, *box in page.evaluate(_BOXES):
            boxes[int(row)].append(tuple(box))
        return finished(content, image, boxes)


def write(content: Content, size: tuple[int, int], rng: Rng) -> str:
    """The page; every element that shows part of a row carries the row's number."""
    family = _FAMILIES[int(rng.integers(len(_FAMILIES)))]
    dark = rng.random() < 0.2
    paper: Colour = canvas.jitter(rng, (34, 36, 42) if dark else (250, 250, 250), 5)
    ink = (235, 235, 235) if dark else (20, 20, 20)
    body = {"charts": _chart, "tables": _table, "price_tags": _tag, "signs": _sign}[content.kind](content, size, rng)
    return f"""<html><body style="margin:0;width:{size[0]}px;height:{size[1]}px;overflow:hidden;
background:{_css(paper)};color:{_css(ink)};font-family:'{family}';display:flex;align-items:center;justify-content:center">{body}</body></html>"""


def _chart(content: Content, size: tuple[int, int], rng: Rng) -> str:
    colour, varied, most = canvas.vivid(rng), rng.random() < 0.5, max(content.values)
    font = int(min(size[0] / 14, size[1] / 10, 30))
    radius = int(rng.integers(0, 10))
    if rng.random() < 0.5:
        rows = "".join(
            f"<tr><td data-row={number} style='text-align:right;padding-right:8px'>{html.escape(label)}</td>"
            f"<td style='width:65%'><div style='display:flex;align-items:center'><div data-row={number} style='height:"
            f"{int(font * 1.3)}px;border-radius:{radius}px;width:{int(value) / most * 80:.1f}%;background:"
            f"{_css(canvas.vivid(rng) if varied else colour)}'></div><span data-row={number} style='padding-left:6px'>"
            f"{value}</span></div></td></tr>"
            for number, (label, value) in enumerate(content.rows)
        )
        return f"<table style='width:96%;font-size:{font}px;border-spacing:0 {int(font * 0.4)}px'>{rows}</table>"
    tall = size[1] - font * 4
    bars = "".join(
        f"<div style='display:flex;flex-direction:column;align-items:center;justify-content:flex-end'>"
        f"<span data-row={number}>{value}</span><div data-row={number} style='width:{int(size[0] / 7)}px;height:"
        f"{int(value) / most * tall:.0f}px;border-radius:{radius}px {radius}px 0 0;background:"
        f"{_css(canvas.vivid(rng) if varied else colour)}'></div>"
        f"<span data-row={number}>{html.escape(label)}</span></div>"
        for number, (label, value) in enumerate(content.rows)
    )
    font = int(min(font, size[0] / (len(content.rows) * 5.4)))
    return f"<div style='display:flex;gap:{int(size[0] / 30)}px;align-items:flex-end;font-size:{font}px'>{bars}</div>"


def _table(content: Content, size: tuple[int, int], rng: Rng) -> str:
    head, shade = canvas.vivid(rng), int(rng.integers(0, 30))
    border = ("1px solid #999", "2px solid #333", "0", "0;border-bottom:1px solid #bbb")[int(rng.integers(4))]
    names = [("Name", "Points"), ("Player", "Score"), ("NAME", "POINTS")][int(rng.integers(3))]
    font = int(min(size[1] / (len(content.rows) + 1) / 1.9, size[0] / 9, 40))
    cell = f"border:{border};padding:{int(font * rng.uniform(0.15, 0.5))}px {int(font * 0.6)}px"
    side = ("right", "center", "left")[int(rng.integers(3))]
    top = (
        f"<tr style='background:{_css(head)};color:{_css(canvas.ink_on(rng, head))}'><th style='{cell}'>{names[0]}</th>"
        f"<th style='{cell}'>{names[1]}</th></tr>"
        if rng.random() < 0.6
        else ""
    )
    rows = "".join(
        f"<tr style='background:rgba(128,128,128,{shade / 100 if number % 2 else 0})'><td data-row={number} "
        f"style='{cell}'>{name}</td><td data-row={number} style='{cell};text-align:{side}'>{points}</td></tr>"
        for number, (name, points) in enumerate(content.rows)
    )
    return f"<table style='border-collapse:collapse;font-size:{font}px'>{top}{rows}</table>"


def _tag(content: Content, size: tuple[int, int], rng: Rng) -> str:
    (word, price), paper = content.rows[0], canvas.vivid(rng)
    if rng.random() < 0.4:
        paper = (255, 255, 255)
    ink = _css(canvas.ink_on(rng, paper))
    small, large = int(min(size) / rng.uniform(8, 11)), int(min(size) / rng.uniform(4, 5.5))
    turn = f"transform:rotate({rng.uniform(-6, 6):.1f}deg)" if rng.random() < 0.3 else ""
    return (
        f"<div style='background:{_css(paper)};color:{ink};padding:{small // 2}px {small}px;text-align:center;"
        f"border-radius:{int(rng.integers(0, 30))}px;box-shadow:2px 2px 8px rgba(0,0,0,.4);{turn}'>"
        f"<div data-row=0 style='font-size:{small}px;display:table;margin:auto'>{word}</div>"
        f"<div data-row=0 style='font-size:{large}px;font-weight:bold;display:table;margin:auto'>{price}</div></div>"
    )


def _sign(content: Content, size: tuple[int, int], rng: Rng) -> str:
    name, shown = content.rows[0]
    colour = canvas.jitter(rng, v.SIGN_COLOURS[name], 12)
    font = int(min(size[0] / (0.8 * max(map(len, shown.split(" ")))) * 0.8, size[1] / 4))
    round_ = ("0", "16px", "50%")[int(rng.integers(3))]
    words = "<br>".join(shown.split(" "))
    return (
        f"<div data-row=0 style='background:{_css(colour)};color:{_css(canvas.ink_on(rng, colour))};"
        f"width:88%;height:72%;"
        f"border-radius:{round_};border:{int(rng.integers(0, 6))}px solid #222;display:flex;align-items:center;"
        f"justify-content:center;text-align:center;font-size:{font}px;font-weight:bold;line-height:1.05'>"
        f"<span data-row=0>{words}</span></div>"
    )
