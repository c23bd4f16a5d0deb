"""The page's microphone: its samples reach the session while they are spoken, and questions are found among them.

Shape letters: T samples.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import soxr

from emova.core.errors import InputError
from emova.session.session import Session
from emova.speech.vad import RATE, Going, Started, Stopped, Turn, TurnConfig, TurnTaking
from emova_app.demo.conversation.captions import Caption, Captions
from emova_app.pcm import from_pcm

MAX_CHUNK_LETTERS = 3 << 20  # of base64; a minute at 16 kHz takes 2.6 million
# Hands-free, a page sends what it hears at once, ten times a second; more has waited for a slow line.
MAX_BLOCK_SECONDS, MAX_BEHIND_SECONDS = 60.0, 60.0
# A visitor thinks while speaking, so a longer pause ends a question than a program's clients want by default.
TURNS = TurnConfig(silence_ms=700, start_windows=3)
Mode = Literal["push", "free"]
"""Push-to-talk, or hands-free."""


class Conversation(Protocol):
    """What the microphone needs of its page."""

    @property
    def session(self) -> Session:
        """What hears the samples; another one after ``alive`` has said False."""
        ...

    def alive(self) -> bool:
        """See that the session is open."""
        ...

    def interrupt(self, heard_seconds: float | None) -> None:
        """Break off what is being told."""
        ...

    def show_picture(self) -> bool:
        """Show the picture with the next question, if need be."""
        ...


@dataclass(frozen=True)
class Heard:
    """What a block of samples changed.

    Attributes:
        began: a question begins; what sounds must stop.
        ended: it is over and can be asked.
        caption: what was said of it so far.
    """

    began: bool
    ended: bool
    caption: Caption


@dataclass
class _Recording:
    """A recording that goes on; ``turns`` is None if a button tells where the question begins and ends."""

    mode: Mode
    rate: int
    resampler: soxr.ResampleStream | None
    turns: TurnTaking | None


class Microphone:
    """One page's microphone."""

    def __init__(self, page: Conversation) -> None:
        self._page = page
        self._recording: _Recording | None = None
        self._waiting: list[Turn] = []  # found, but behind the end of a question that is not asked yet
        self._question: list[np.ndarray] = []
        self._captions = Captions()

    def __len__(self) -> int:
        """How many samples of a question were heard."""
        return sum(map(len, self._question))

    @property
    def mode(self) -> Mode | None:
        """How it listens; None while it is closed."""
        return None if self._recording is None else self._recording.mode

    def step(self, mode: Mode, rate: int, samples: np.ndarray, heard_seconds: float | None) -> Heard:
        """The next ``[T]`` samples at ``rate`` Hz.

        Args:
            heard_seconds: what the page has played of the reply that still sounds; None if none does.

        Raises:
            InputError: the question is too long; it is forgotten.
        """
        recording = self._opened(mode, rate)
        if recording.resampler is not None:
            samples = recording.resampler.resample_chunk(samples)
        began = ended = False
        if recording.turns is None:
            began = not self._question
        else:
            if len(samples) > MAX_BLOCK_SECONDS * RATE or self._behind > MAX_BEHIND_SECONDS * RATE:
                self.drop()
                raise InputError("the microphone: more came than can be heard at once; speak again")
            self._waiting += recording.turns.step(samples, echo=heard_seconds is not None)
            samples, began, ended = self._next_turn()
        if began:
            self._begin(heard_seconds)
        if len(samples):
            self._question.append(samples)
            try:
                self._page.session.hear(samples)
            except InputError:
                self.drop()
                raise
            if not ended:  # what is over is asked at once
                self._captions.step(self._page.session)
        return Heard(began, ended, self._captions.now)

    @property
    def _behind(self) -> int:
        """How many samples wait behind a question's end."""
        return sum(len(turn.samples) for turn in self._waiting if isinstance(turn, Started | Going))

    def _next_turn(self) -> tuple[np.ndarray, bool, bool]:
        """Samples ``[T]`` up to the end of a question, whether it begins in them, whether it ends there."""
        parts: list[np.ndarray] = []
        began = ended = False
        while self._waiting and not ended:
            turn = self._waiting.pop(0)
            if isinstance(turn, Stopped):
                ended = True
            elif isinstance(turn, Started | Going):
                began = began or isinstance(turn, Started)
                parts.append(turn.samples)
        return (np.concatenate(parts) if parts else np.zeros(0, np.float32)), began, ended

    def _opened(self, mode: Mode, rate: int) -> _Recording:
        if self._recording is None or (self._recording.mode, self._recording.rate) != (mode, rate):
            self.drop()
            resampler = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, dtype="float32")
            self._recording = _Recording(mode, rate, resampler, TurnTaking(TURNS) if mode == "free" else None)
        return self._recording

    def _begin(self, heard_seconds: float | None) -> None:
        recording, waiting = self._recording, self._waiting
        self._page.alive()
        # A conversation that was closed for idleness begins anew; the microphone goes on.
        self._recording, self._waiting = recording, waiting
        self._page.interrupt(heard_seconds)
        self._forget()
        self._page.show_picture()

    def take(self) -> np.ndarray | None:
        """The question ``[T]`` that was heard and goes to the session now; None if there was none."""
        question, self._question = self._question, []
        self._captions.clear()
        if self._recording is not None and self._recording.mode == "push":
            self._recording = None
        return np.concatenate(question) if question else None

    def drop(self) -> None:
        """The microphone was closed: what was not asked is forgotten."""
        self._recording, self._waiting = None, []
        self._forget()

    def _forget(self) -> None:
        self._captions.clear()
        if self._question:
            self._question = []
            if not self._page.session.closed and self._page.session.request is None:
                self._page.session.unhear()


def decode_chunk(pcm: object, rate: object) -> tuple[np.ndarray, int]:
    """Samples ``[T]`` and rate of what the page's microphone sent. Raises: InputError: it is no sound."""
    if not isinstance(pcm, str) or len(pcm) > MAX_CHUNK_LETTERS or not isinstance(rate, int | float):
        raise InputError("the microphone: no sound came; check it and try again")
    if not 8_000 <= rate <= 192_000:
        raise InputError(f"the microphone: {rate:g} Hz; choose one between 8000 and 192000 Hz")
    try:
        data = base64.b64decode(pcm, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the microphone: no sound came; check it and try again") from None
    return from_pcm(data), int(rate)
