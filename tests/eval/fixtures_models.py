"""A model to derive stand-ins from: it is asked nothing but what a stand-in answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emova.speech.style import Style
from emova_eval.models.assistant import EvalModel
from emova_eval.suite.samples import Output


class Unasked(EvalModel):
    """Every question is one too many."""

    name = "unasked"

    def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
        raise AssertionError("asked for a reply")

    def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
        raise AssertionError("asked for a text")

    def transcribe(self, audio: str) -> Output:
        raise AssertionError("asked for a transcript")

    def speak(self, text: str, voice: str = "female") -> Output:
        raise AssertionError("asked to speak")

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        raise AssertionError("asked for units")

    def phones(self, audio: str) -> list[str]:
        raise AssertionError("asked for phones")

    def render(self, units: Sequence[int], style: Style) -> Output:
        raise AssertionError("asked to render")

    def resynthesize(self, audio: str, style: Style) -> Output:
        raise AssertionError("asked to resynthesize")

    def log_likelihood(self, context_units: Sequence[int], units: Sequence[int] = (), text: str = "") -> float:
        raise AssertionError("asked for a likelihood")
