"""One page a validation: pictures, questions and answers in writing and, where a voice is given, to be heard."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emova.core.writing import write_text
from emova.speech.audio import save_wav
from emova.speech.style import Style
from emova.speech.voice import Voice

_HEAD = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px sans-serif;max-width:60em;margin:2em auto}} section{{border-top:1px solid #ccc;padding:1em 0}}
img{{float:right;max-width:14em}} dt{{color:#777}} dd{{margin:0 0 .5em 1em}} section::after{{content:"";display:block;
clear:both}}</style><h1>{title}</h1>
"""


@dataclass(frozen=True)
class Written:
    """One answer of the model; what a task does not have is empty."""

    task: str
    question: str
    expected: str
    answer: str
    transcript: str = ""
    expected_style: str = ""
    style: str = ""
    units: int = 0
    """0 also where the speech was not asked for."""


@dataclass(frozen=True)
class Shown:
    """An answer and what belongs to it."""

    written: Written
    picture: Image.Image | None
    heard: tuple[int, ...]
    """Units of the question, where it was spoken."""
    said: tuple[int, ...]
    """Units of the answer."""
    style: Style


def write_page(folder: Path, title: str, shown: Sequence[Shown], voice: Voice | None = None) -> Path:
    """Write ``index.html`` with its pictures and sounds into ``folder``; returns the page.

    Args:
        voice: an ``emova.speech.voice.Voice``; without it there are no sounds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD.format(title=html.escape(title))]
    for number, each in enumerate(shown):
        parts.append(f"<section><h2>{html.escape(each.written.task)}</h2>")
        if each.picture is not None:
            each.picture.save(folder / f"{number:03d}.png")
            parts.append(f'<img src="{number:03d}.png" alt="the picture">')
        parts.append("<dl>")
        for name, value in each.written.__dict__.items():
            if name != "task" and value not in ("", 0):
                parts.append(f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(str(value))}</dd>")
        for name, units, style in (("question", each.heard, Style()), ("answer", each.said, each.style)):
            if voice is not None and units:
                _save_sound(folder / f"{number:03d}-{name}.wav", voice, units, style)
                parts.append(f'<dt>{name}</dt><dd><audio controls src="{number:03d}-{name}.wav"></audio></dd>')
        parts.append("</dl></section>")
    page = folder / "index.html"
    write_text(page, "\n".join(parts))
    return page


def _save_sound(path: Path, voice: Voice, units: Sequence[int], style: Style) -> None:
    save_wav(path, voice.synthesize(units, style), voice.sample_rate)
