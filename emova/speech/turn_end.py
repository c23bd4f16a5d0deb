"""When a turn ends by what was said: the pause after a complete sentence is short, the one in its middle is long.

A pause of a little silence asks for the words so far; they, and not the silence alone, say how long to wait. The words
come from a transcript, which may be wrong, and the rules are few and English: what they cannot judge waits a middling
time. Every turn ends after the longest wait.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from emova.core.errors import InputError
from emova.speech.vad import RATE, WINDOW, Detector, Paused, Turn, TurnConfig, TurnTaking


class Completeness(Enum):
    """Whether somebody who stopped here has said it all."""

    COMPLETE = "complete"
    OPEN = "open"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Waits:
    """How long a silence ends a turn, in ms, after words that are complete, cannot be judged, or are incomplete."""

    complete_ms: int
    open_ms: int
    incomplete_ms: int

    def after(self, said: Completeness) -> int:
        """The wait, in ms."""
        waits = {Completeness.COMPLETE: self.complete_ms, Completeness.OPEN: self.open_ms}
        return waits.get(said, self.incomplete_ms)


_MEDIUM = Waits(480, 1200, 4000)
# The longest waits are those of OpenAI's semantic_vad.
EAGERNESS = {"low": Waits(900, 2500, 8000), "medium": _MEDIUM, "high": Waits(300, 700, 2000), "auto": _MEDIUM}


@dataclass(frozen=True)
class SemanticTurnConfig:
    """When a turn begins and ends.

    Attributes:
        heard_seconds: so much of a long turn's end is enough to judge it.
        eagerness: ``low``, ``medium``, ``high``, or ``auto``, which is medium: how soon to answer.
        sound: when it begins; its ``silence_ms`` is not used.
        look_ms: silence after which the words so far are asked for.

    Raises:
        InputError: there is no such eagerness.
    """

    eagerness: str = "auto"
    sound: TurnConfig = field(default_factory=TurnConfig)
    look_ms: int = 192
    heard_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.eagerness not in EAGERNESS:
            raise InputError(f"eagerness: none of {', '.join(EAGERNESS)}")

    @property
    def waits(self) -> Waits:
        """How long to wait."""
        return EAGERNESS[self.eagerness]


class SemanticTurnTaking(TurnTaking):
    """Sound to turns that end by their words.

    Give it no more than a window (512 samples) at a time, and answer each ``Paused`` before the next: a pause that
    nobody answers ends after the longest wait.
    """

    def __init__(self, config: SemanticTurnConfig, detector: Detector | None = None) -> None:
        super().__init__(config.sound, detector)
        self._look_ms, self._waits = config.look_ms, config.waits
        self._wait_ms = self._waits.incomplete_ms
        self._paused = False

    def said(self, text: str) -> None:
        """The words of the turn so far, at a pause."""
        self._wait_ms = self._waits.after(completeness(text))

    def patience_ms(self) -> int:
        """The silence, in ms, that ends the turn."""
        return self._wait_ms

    def _judge(self, window: np.ndarray, probability: float, needed: int) -> list[Turn]:
        turns = super()._judge(window, probability, needed)
        if not self.speaking or not self._silence:
            self._paused, self._wait_ms = False, self._waits.incomplete_ms
        elif not self._paused and self._silence * WINDOW * 1000 >= self._look_ms * RATE:
            self._paused = True
            turns.append(Paused(self._position * 1000 // RATE))
        return turns


# Words that hardly end an English sentence.
_LEADING_ON = """a an the my your our their every and or but because so if unless until while although whether than
um uh er erm hm hmm"""
# Nor do these, but for questions ("Where are you from?").
_PREPOSITIONS = "of to in on at for with from by about into onto between through under over near"
_ASKING = """what who whose whom which where when why how is are am was were do does did can could will would should
may has have had what's who's where's how's"""
# All of what one often says.
_WHOLE = """yes|no|yeah|yep|nope|okay|ok|sure|hello|hi|hey|thanks|thank you|bye|goodbye|good morning|good evening|
stop|wait|please|yes please|no thanks|no thank you|right|exactly|maybe|i don't know|go on|go ahead|that's it|
that's all"""
_leading_on, _prepositions, _asking = (frozenset(words.split()) for words in (_LEADING_ON, _PREPOSITIONS, _ASKING))
_whole = frozenset(said.strip() for said in _WHOLE.split("|"))
_SENTENCE_WORDS = 3
_QUESTION_WORDS = 4  # without its question mark


def completeness(text: str) -> Completeness:
    """Judge a transcript of English speech that was broken off by a pause."""
    said = text.strip().lower().rstrip("\"')")
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+", said.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    if not words:
        return Completeness.OPEN
    if said.endswith((",", "...", "\N{HORIZONTAL ELLIPSIS}", "-", "\N{EM DASH}", ":", ";")):
        return Completeness.INCOMPLETE
    start = re.split(r"[.!?]\s+", said.rstrip(".!? "))[-1].split()  # of the last sentence
    asks = bool(start) and start[0].strip(",") in _asking
    if words[-1] in _leading_on or (words[-1] in _prepositions and not asks):
        return Completeness.INCOMPLETE
    if " ".join(words) in _whole:
        return Completeness.COMPLETE
    ended = said.endswith((".", "!", "?"))
    needed = _SENTENCE_WORDS if ended else _QUESTION_WORDS
    return Completeness.COMPLETE if (ended or asks) and len(start) >= needed else Completeness.OPEN
