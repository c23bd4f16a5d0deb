"""One question and its answer, as it changes what the page shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.events import AudioChunk, Cancelled, Done, Failed, SessionEvent, Timings
from emova.reply.parser import StyleChosen, TextDelta, TranscriptDelta
from emova_app.demo.page_sessions import Asked, Line, Visit

OWN = "mine"
REDRAW_SECONDS = 0.05
# The likeliest answer would come again; this one may differ.
AGAIN = Sampling(text_temperature=0.8, style_temperature=0.8, unit_temperature=0.6)


@dataclass(frozen=True)
class Wish:
    """How the user wants the answer; the assistant chooses what is None."""

    voice: str = ""
    emotion: str | None = None
    pitch: str | None = None


@dataclass
class Trace:
    """When the parts of a reply came, in s after the question was asked."""

    transcript: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    sound: list[tuple[float, float]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)

    def take(self, event: SessionEvent, before: float, now: float) -> None:
        """An event that came at ``now``; the one before it came at ``before``."""
        if isinstance(event, TranscriptDelta):
            self.transcript.append(now)
        elif isinstance(event, TextDelta):
            self.text.append(now)
        elif isinstance(event, AudioChunk):
            self.sound.append((before, now))
        elif isinstance(event, Done):
            self.timings = event.reply.timings


def ask(visit: Visit, question: Asked, wish: Wish, *, heard: bool = False, again: bool = False) -> Iterator[bool]:
    """Ask and let the answer be told; yields whenever the page should be drawn again, True once all is told.

    Args:
        question: what was said or written; its samples are at the ears' rate.
        heard: the session has heard the samples already, while they were spoken.
        again: the question was asked before; another answer is wanted.

    Raises:
        InputError: the question is unusable, with one line that says why.
    """
    session = visit.session
    visit.show_picture()
    if question.samples is not None and not heard:
        session.hear(question.samples)
    own = visit.own_voice if wish.voice == OWN else None
    if wish.voice == OWN and own is None:
        raise InputError("my voice: none has been recorded yet; record 5 seconds under My voice")
    styles = visit.assistant.styles
    session.voice = wish.voice if wish.voice in styles.voices else styles.default.gender
    session.speaker = own or visit.assistant.voice
    visit.asked = question
    user = Line("user", question.text or "", question.samples is not None, visit.take_thumbnail())
    line = Line("assistant")
    visit.lines += [user, line]
    visit.styles = {}
    generation, trace = visit.reel.begin(), Trace()
    yield False
    try:
        yield from _tell(visit, question, wish, generation, trace, user, line, AGAIN if again else None)
    finally:
        # Also when the page is gone and nobody reads on.
        visit.reel.end(generation)
        user.state = "done"
        line.state = "cut" if line.state == "open" else line.state
    yield True


def _tell(
    visit: Visit,
    question: Asked,
    wish: Wish,
    generation: int,
    trace: Trace,
    user: Line,
    line: Line,
    sampling: Sampling | None,
) -> Iterator[bool]:
    if visit.reel.tape.ended or visit.reel.tape.generation != generation:
        return  # interrupted before it began
    started = before = drawn = time.perf_counter()
    session = visit.session
    events = session.ask(question.text, emotion=wish.emotion, pitch=wish.pitch, sampling=sampling)
    if visit.picture is not None and not session.sees:
        # To make room, the session has just forgotten the turn that showed the picture.
        session.cancel(0.0)
        visit.show_picture()
        user.thumbnail = visit.take_thumbnail()
        if question.samples is not None:
            session.hear(question.samples)
        events = session.ask(question.text, emotion=wish.emotion, pitch=wish.pitch, sampling=sampling)
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
            voice = "my voice" if wish.voice == OWN else event.style.gender
            line.labels = (event.style.emotion, f"{event.style.pitch} pitch", voice)
        elif isinstance(event, AudioChunk):
            visit.reel.add(generation, event.samples, event.sample_rate)
        elif isinstance(event, Done):
            line.state = "done"
            visit.reply, visit.trace = event.reply, trace
        elif isinstance(event, Cancelled):
            line.state = "cut"
        elif isinstance(event, Failed):
            line.state = "failed"
            visit.shown = False  # a failed turn leaves no trace, so its picture is shown again
            raise InputError(event.message)
        if now - drawn > REDRAW_SECONDS or not isinstance(event, TranscriptDelta | TextDelta):
            drawn = now
            yield False


def ask_again(visit: Visit, wish: Wish) -> Iterator[bool]:
    """The last question once more. Raises: InputError: there is none."""
    question = visit.asked
    if question is None:
        raise InputError("nothing has been asked yet; ask something first")
    visit.interrupt(0.0)  # the turn is forgotten, the picture stays
    if len(visit.lines) >= 2:
        thumbnail = visit.lines[-2].thumbnail
        visit.lines = visit.lines[:-2]
        visit.thumbnail_due = visit.thumbnail_due or thumbnail
    yield from ask(visit, question, wish, again=True)


def say(visit: Visit, samples: np.ndarray, rate: int) -> None:
    """Let the page's player play ``[T]`` samples that are no answer."""
    generation = visit.reel.begin()
    visit.reel.add(generation, samples, rate)
    visit.reel.end(generation)
