"""One question and its answer, as it changes what the page shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.events import AudioChunk, Cancelled, Done, Failed
from emova.reply.parser import StyleChosen, TextDelta, TranscriptDelta
from emova_app.demo.page_sessions import Asked, Line, PageSession
from emova_app.demo.trace import Trace

OWN = "mine"
REDRAW_SECONDS = 0.05
# The likeliest answer would come again; this one may differ.
AGAIN = Sampling(text_temperature=0.8, style_temperature=0.8, unit_temperature=0.6)


@dataclass(frozen=True)
class ReplyStyle:
    """How the user wants the answer; the assistant chooses what is None."""

    voice: str = ""
    emotion: str | None = None
    pitch: str | None = None


def ask(
    page: PageSession, question: Asked, style: ReplyStyle, *, heard: bool = False, again: bool = False
) -> Iterator[bool]:
    """Ask and let the answer be told; yields whenever the page should be drawn again, True once all is told.

    Args:
        question: what was said or written; its samples are at the session's rate.
        heard: the session has heard the samples already, while they were spoken.
        again: the question was asked before; another answer is wanted.

    Raises:
        InputError: the question is unusable, with one line that says why.
    """
    session = page.session
    page.show_picture()
    if question.samples is not None and not heard:
        session.hear(question.samples)
    own = page.own_voice if style.voice == OWN else None
    if style.voice == OWN and own is None:
        raise InputError("my voice: none has been recorded yet; record 5 seconds under My voice")
    styles = page.assistant.styles
    session.voice = style.voice if style.voice in styles.voices else styles.default.gender
    session.speaker = own or page.assistant.voice
    page.asked = question
    user = Line("user", question.text or "", question.samples is not None, page.take_thumbnail())
    line = Line("assistant")
    page.lines += [user, line]
    page.styles = {}
    generation, trace = page.playback.begin(), Trace()
    yield False
    try:
        yield from _tell(page, question, style, generation, trace, user, line, AGAIN if again else None)
    finally:
        # Also when the page is gone and nobody reads on.
        page.playback.end(generation)
        user.state = "done"
        line.state = "cut" if line.state == "open" else line.state
    yield True


def _tell(
    page: PageSession,
    question: Asked,
    style: ReplyStyle,
    generation: int,
    trace: Trace,
    user: Line,
    line: Line,
    sampling: Sampling | None,
) -> Iterator[bool]:
    if page.playback.sound.ended or page.playback.sound.generation != generation:
        return  # interrupted before it began
    started = before = drawn = time.perf_counter()
    session = page.session
    events = session.ask(question.text, emotion=style.emotion, pitch=style.pitch, sampling=sampling)
    if page.picture is not None and not session.sees:
        # To make room, the session has just forgotten the turn that showed the picture.
        session.cancel(0.0)
        page.show_picture()
        user.thumbnail = page.take_thumbnail()
        if question.samples is not None:
            session.hear(question.samples)
        events = session.ask(question.text, emotion=style.emotion, pitch=style.pitch, sampling=sampling)
    for event in events:
        now = time.perf_counter()
        trace.take(event, before - started, now - started)
        before = now
        if isinstance(event, TranscriptDelta):
            if question.samples is not None and question.text is None:
                user.text += event.text
        elif isinstance(event, TextDelta):
            line.text += event.text
        elif isinstance(event, StyleChosen):
            voice = "my voice" if style.voice == OWN else event.style.gender
            line.labels = (event.style.emotion, f"{event.style.pitch} pitch", voice)
        elif isinstance(event, AudioChunk):
            page.playback.add(generation, event.samples, event.sample_rate)
        elif isinstance(event, Done):
            line.state = "done"
            page.reply, page.trace = event.reply, trace
        elif isinstance(event, Cancelled):
            line.state = "cut"
        elif isinstance(event, Failed):
            line.state = "failed"
            page.shown = False  # a failed turn leaves no trace, so its picture is shown again
            raise InputError(event.message)
        if now - drawn > REDRAW_SECONDS or not isinstance(event, TranscriptDelta | TextDelta):
            drawn = now
            yield False


def ask_again(page: PageSession, style: ReplyStyle) -> Iterator[bool]:
    """The last question once more. Raises: InputError: there is none."""
    question = page.asked
    if question is None:
        raise InputError("nothing has been asked yet; ask something first")
    page.interrupt(0.0)  # the turn is forgotten, the picture stays
    if len(page.lines) >= 2:
        thumbnail = page.lines[-2].thumbnail
        page.lines = page.lines[:-2]
        page.thumbnail_due = page.thumbnail_due or thumbnail
    yield from ask(page, question, style, again=True)


def say(page: PageSession, samples: np.ndarray, rate: int) -> None:
    """Let the page's player play ``[T]`` samples that are no answer."""
    generation = page.playback.begin()
    page.playback.add(generation, samples, rate)
    page.playback.end(generation)
