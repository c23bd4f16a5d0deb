"""When a model had better say that it does not know: its answer was written without being sure of the words.

A model that has only met questions with answers answers all of them. How sure it was shows in the entropy of its
choices (Malinin and Gales 2021, arXiv 2002.07650), and an answer is as sure as its least sure word: their highest
entropy tells better than their mean what it does not know (docs/experiments/12-doubt.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from emova.core.errors import InputError
from emova.speech.style import StyleSet


class Uncertainty:
    """The entropy of the least sure of some choices, in nats; 0 before the first."""

    def __init__(self) -> None:
        self.highest = 0.0

    def take(self, scores: np.ndarray) -> None:
        """A choice by these scores ``[A]``."""
        shifted = scores - scores.max()
        weights = np.exp(shifted)
        total = float(weights.sum())
        self.highest = max(self.highest, float(np.log(total)) - float(weights @ shifted) / total)


@dataclass(frozen=True)
class Admission:
    """What is said in place of an answer, and how."""

    text: str
    emotion: str
    pitch: str


@dataclass(frozen=True)
class Doubt:
    """When an answer is not trusted, and what is said then.

    Attributes:
        entropy: of an answer's least sure token; above it the answer is not trusted. In nats.
        picture_entropy: the same where a picture is in view; None trusts every answer there.
        admissions: what the model has learnt to say when it does not know.
        distracted: of an answer behind other turns: above it, they are taken to have led the model astray
            (docs/experiments/15-led-astray.md); None never does.
    """

    entropy: float
    picture_entropy: float | None
    admissions: tuple[Admission, ...]
    distracted: float | None = None

    def led_astray(self, uncertainty: Uncertainty) -> bool:
        """Whether an answer had better be written without the turns before it."""
        return self.distracted is not None and uncertainty.highest > self.distracted

    def trusts(self, uncertainty: Uncertainty, sees: bool) -> bool:
        """Whether an answer is handed out; ``sees``: to a question with a picture in view."""
        limit = self.picture_entropy if sees else self.entropy
        return limit is None or uncertainty.highest <= limit

    def admission(self, question: str) -> Admission:
        """What is said to a question; the same question hears the same."""
        return self.admissions[zlib.crc32(question.encode()) % len(self.admissions)]

    def to_dict(self) -> dict[str, object]:
        """As a checkpoint's ``config.json`` has it."""
        return {**asdict(self), "admissions": [asdict(each) for each in self.admissions]}

    @classmethod
    def from_dict(cls, values: Mapping[str, object], styles: StyleSet) -> Doubt:
        """Raises: InputError: a field is missing or wrong, or a style is none of ``styles``."""
        if set(values) - {"distracted"} != {"entropy", "picture_entropy", "admissions"}:
            raise InputError(
                "doubt: it has entropy, picture_entropy, admissions and perhaps distracted, and nothing else"
            )
        admissions = values["admissions"]
        if not isinstance(admissions, Sequence) or isinstance(admissions, str) or not admissions:
            raise InputError("doubt: admissions is no list of at least one {text, emotion, pitch}")
        return cls(
            _entropy("entropy", values["entropy"]),
            _perhaps("picture_entropy", values["picture_entropy"]),
            tuple(_admission(each, styles) for each in admissions),
            _perhaps("distracted", values.get("distracted")),
        )


def _perhaps(name: str, value: object) -> float | None:
    return None if value is None else _entropy(name, value)


def _entropy(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"doubt: {name} {value!r} is no number above 0")
    return float(value)


def _admission(values: object, styles: StyleSet) -> Admission:
    if not isinstance(values, Mapping) or set(values) != {"text", "emotion", "pitch"}:
        raise InputError("doubt: an admission has text, emotion and pitch, and nothing else")
    text = values["text"]
    if not isinstance(text, str) or not text.strip():
        raise InputError("doubt: an admission's text is empty")
    return Admission(text, styles.check_emotion(values["emotion"]), styles.check_pitch(values["pitch"]))
