"""The speech codec on held-out data: phones from units, words through the round trip, styles in the waveform.

T: samples, U: units, S: style size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import soxr

from emova.edits import edit_distance
from emova.style import EMOTIONS, GENDERS, PITCHES, Style
from eval.acoustics import EmotionClassifier, measure
from eval.judges import JUDGE_RATE, NaturalnessJudge, WhisperJudge
from eval.nano_data import ShardSample
from eval.report import Row
from eval.text import ErrorRate, token_errors, word_errors

if TYPE_CHECKING:
    from emova.assistant import Assistant

Advance = Callable[[], None]


def for_judge(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """``samples`` [T] at the judges' 16 kHz."""
    return np.asarray(soxr.resample(samples, sample_rate, JUDGE_RATE), dtype=np.float32)


def phone_error_row(assistant: Assistant, samples: Sequence[ShardSample], name: str, goal: float) -> Row:
    """Greedy CTC phones of the S2U tokenizer's own phone decoder, read from the *units*, against G2P of the labels."""
    import torch

    tokenizer = assistant.speech_tokenizer
    total = ErrorRate(0, 0)
    for sample in samples:
        audio = torch.from_numpy(sample.audio(tokenizer.sample_rate))[None]
        phones = tokenizer.phones(tokenizer.encode(audio))[0]
        total += token_errors(sample.facts["phones"], phones)
    return Row(name, 100 * total.rate, goal, False, "%", len(samples), "labels: Whisper base + G2P")


def round_trip_row(assistant: Assistant, samples: Sequence[ShardSample], judge: WhisperJudge) -> Row:
    """Speech → units → speech in the neutral female style, judged by its words."""
    total, original = ErrorRate(0, 0), ErrorRate(0, 0)
    for sample in samples:
        audio = sample.audio(JUDGE_RATE)
        reply = assistant.resynthesize(audio, Style("female", "neutral", "normal"))
        total += word_errors(sample.facts["text"], judge.transcribe(for_judge(reply.audio, reply.sample_rate)))
        original += word_errors(sample.facts["text"], judge.transcribe(audio))
    note = f"{judge.name}; the recordings themselves: {100 * original.rate:.1f} %"
    return Row("units round trip, word error", 100 * total.rate, 12, False, "%", len(samples), note)


def spoken_reply_rows(
    assistant: Assistant, texts: Sequence[str], judge: WhisperJudge, natural: NaturalnessJudge
) -> list[Row]:
    """Text → units by the language model → speech, for each gender: its words and its naturalness."""
    rows, scores = [], []
    for gender in GENDERS:
        total = ErrorRate(0, 0)
        for text in texts:
            spoken = assistant.speak(text, Style(gender, "neutral", "normal"))
            heard = for_judge(spoken.audio, spoken.sample_rate)
            total += word_errors(text, judge.transcribe(heard))
            scores.append(natural.score(heard))
        rows.append(
            Row(f"spoken reply, word error, {gender}", 100 * total.rate, 12, False, "%", len(texts), judge.name)
        )
    rows.append(Row("naturalness", float(np.mean(scores)), 3.3, True, "", len(scores), natural.name))
    return rows


@dataclass(frozen=True)
class StyleFigures:
    """What the styles do in the waveform; ``confusion_NN`` has the asked emotion in rows, the heard one in columns."""

    triples_in_order: int
    triples: int
    confusion_NN: np.ndarray
    same_units: bool

    def rows(self, note: str) -> list[Row]:
        """The table's rows."""
        total = int(self.confusion_NN.sum())
        right = 100 * float(np.trace(self.confusion_NN)) / max(total, 1)
        ordered = 100 * self.triples_in_order / max(self.triples, 1)
        return [
            Row("pitch low < normal < high", ordered, 95, True, "%", self.triples, "median F0 of triples"),
            Row("emotion heard in the waveform", right, 75, True, "%", total, note),
            Row("same units in every style", 100.0 * self.same_units, 100, True, "%", total, "unit sequences compared"),
        ]


def judge_styles(assistant: Assistant, unit_sequences: Sequence[np.ndarray], judge: EmotionClassifier) -> StyleFigures:
    """Render each unit sequence [U] in all 24 styles; measure F0 order and the emotion that is heard."""
    in_order = triples = 0
    confusion = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    same = True
    for units in unit_sequences:
        length = None
        for gender, emotion in product(GENDERS, EMOTIONS):
            medians = []
            for pitch in PITCHES:
                spoken = assistant.render(units, Style(gender, emotion, pitch))
                same &= np.array_equal(spoken.units, units) and length in (None, len(spoken.audio))
                length = len(spoken.audio)
                acoustics = measure(for_judge(spoken.audio, spoken.sample_rate))
                medians.append((pitch, acoustics.f0_median))
                confusion[EMOTIONS.index(emotion), EMOTIONS.index(judge.predict(acoustics.vector()[None])[0])] += 1
            f0 = dict(medians)
            in_order += f0["low"] < f0["normal"] < f0["high"]
            triples += 1
    return StyleFigures(in_order, triples, confusion, same)


@dataclass(frozen=True)
class UnitDistances:
    """Mean normalised edit distance between units: of one sentence in two ways of saying it, and of two sentences."""

    same_sentence: float
    same_voice: float


def unit_distances(groups: dict[str, list[np.ndarray]]) -> UnitDistances:
    """Distances over ``groups``: sentence → its unit sequences [U], one a (voice, emotion), in the same order."""
    same, other = [], []
    names = sorted(groups)
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        renderings = groups[name]
        same += [distance(renderings[0], rendering) for rendering in renderings[1:]]
        other.append(distance(renderings[0], groups[following][0]))
    return UnitDistances(float(np.mean(same)), float(np.mean(other)))


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """Edit distance of two unit sequences over the longer length."""
    edits = edit_distance(list(left), list(right))
    return edits / max(len(left), len(right), 1)
