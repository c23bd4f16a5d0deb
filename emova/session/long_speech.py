"""Speech that is longer than what the model was trained on: the words of its beginning, the units of its end.

A model that learnt from a few seconds of speech writes rubble after thirty. So the beginning of long speech is written
down while the rest is still being said, and leaves the model's context between two words; the words stay. The model
answers to what it still hears. Whisper reads long recordings in such windows (Radford et al. 2022, section 3.8).

What is cut where depends on the units alone: not on how the sound came in, nor on what was said or shown before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from emova.decoding.alignment import align
from emova.session.protocol import DialogueModel

_BEHIND = 25
"""Units beyond the longest window before it is cut: the cut was found by then, and nobody waits for it."""
_EARLIEST, _LATEST = 0.5, 0.9
"""Where a window is cut, as shares of it: what comes later is not understood well yet."""
_SENTENCE = 8
"""An end of a sentence is as good a place to cut as so many positions of silence."""
_MOST_SILENCE = 6
"""Positions of the silence before a word that stay with the word."""


class _Cut(NamedTuple):
    """So many units leave, which say ``words``."""

    units: int
    words: str


class SpeechWindow:
    """Units of one recording as they come in.

    Attributes:
        lead: what the units said that left, up to where the words of the others begin.
        units: those that the model reads.
    """

    def __init__(self, model: DialogueModel) -> None:
        self._model, self._longest = model, model.speech_window
        self.lead = ""
        self.units: list[int] = []
        self._was_cut = False
        self._cut: _Cut | None = None  # where the window will be cut if it becomes too long

    @property
    def shed(self) -> int:
        """How many units more the model read before it was cut, at most; the same however they came in."""
        return self._longest + _BEHIND - len(self.units) if self._was_cut else 0

    @classmethod
    def of(cls, model: DialogueModel, units: Sequence[int]) -> SpeechWindow:
        """Of a whole recording."""
        window = cls(model)
        window.step(units)
        return window

    def step(self, units: Sequence[int]) -> None:
        """Take the next units."""
        self.units += units
        while len(self.units) > self._longest + _BEHIND:
            self.prepare()
            assert self._cut is not None
            words = self._cut.words.strip()
            self.lead += f"{words} " if words and words[-1] < "\u2e80" else words  # Chinese is written without spaces
            self.units, self._cut, self._was_cut = self.units[self._cut.units :], None, True

    def prepare(self) -> None:
        """Find out where the window will be cut, if it is long enough for that: now, while nobody waits."""
        if self._cut is None and len(self.units) >= self._longest:
            self._cut = self._find_cut(self.units[: self._longest])

    def _find_cut(self, units: list[int]) -> _Cut:
        model = self._model
        context = model.decoder.new_context()
        prompt, grammar = model.transcribing(units)
        written = model.decoder.write(context, prompt, grammar, model.config.sampling)
        tokens = [token for some in written for token in some if model.table.token_bytes[token]]
        places = align(context.ctc.log_probs, tokens) if tokens and context.ctc else None
        best, chosen = 0.0, _Cut(len(units), model.read_text(tokens))
        if places is None:
            return chosen
        for place in range(1, len(tokens)):
            first, silence = int(places[place, 0]), int(places[place, 0] - places[place - 1, 1])
            if not _EARLIEST <= first / len(units) <= _LATEST or not self._begins_word(tokens[place]):
                continue
            sentence = model.read_text(tokens[:place]).rstrip().endswith((".", "?", "!", "。", "？", "！"))
            goodness = silence + _SENTENCE * sentence + first / len(units)
            if goodness > best:
                cut = first - min(silence // 2, _MOST_SILENCE)
                best, chosen = goodness, _Cut(cut, model.read_text(tokens[:place]))
        return chosen

    def _begins_word(self, token: int) -> bool:
        said = self._model.table.token_bytes[token] or b""
        return said[0] == 0x20 or said[0] >= 0xE0  # a space, or a character of a script that writes none
