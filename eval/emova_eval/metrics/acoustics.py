"""What a voice does, measured in the waveform: F0, level, spectral tilt; and an emotion classifier on these.

The features are the classical acoustic correlates of emotion (Banse & Scherer 1996; Juslin & Laukka 2003): F0 level
and range, energy and its spread, the balance of high and low frequencies. No emotion recogniser can be had offline,
so the classifier is trained on the data recipe's renderings of *other* voices than those it judges, and is named so.

T: samples, F: frames, N: utterances, D: features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from emova.speech.style import DEFAULT_STYLES

RATE = 16000
HOP_SECONDS = 0.01


@dataclass(frozen=True)
class Acoustics:
    """One utterance's measures; frequencies in Hz, spreads of F0 in semitones, levels in dB."""

    f0_median: float
    f0_spread: float
    f0_range: float
    level: float
    level_spread: float
    tilt: float
    high_band: float
    brightness: float

    def vector(self) -> np.ndarray:
        """The features [D] of the emotion classifier: all but the plain F0 level's unit, which becomes semitones."""
        return np.array(
            [
                12 * np.log2(max(self.f0_median, 1.0) / 100.0),
                self.f0_spread,
                self.f0_range,
                self.level,
                self.level_spread,
                self.tilt,
                self.high_band,
                self.brightness,
            ]
        )


def f0_track(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    """F0 [F] in Hz every 10 ms, 0 where unvoiced (WORLD's DIO refined by StoneMask)."""
    import pyworld

    signal = samples.astype(np.float64)
    coarse, times = pyworld.dio(signal, rate, f0_floor=55.0, f0_ceil=600.0, frame_period=1000 * HOP_SECONDS)
    return np.asarray(pyworld.stonemask(signal, coarse, times, rate))


def measure(samples: np.ndarray, rate: int = RATE) -> Acoustics:
    """The measures of one utterance ``samples`` [T]; frames 35 dB below the loudest count as silence."""
    track = f0_track(samples, rate)
    voiced = track[track > 0]
    if len(voiced) < 5:
        voiced = np.full(5, 1.0)
    semitones = 12 * np.log2(voiced / np.median(voiced))
    hop, window = int(rate * HOP_SECONDS), int(rate * 0.03)
    padded = np.pad(samples.astype(np.float64), (0, window))
    count = 1 + (len(padded) - window) // hop
    frames = np.stack([padded[i * hop : i * hop + window] for i in range(count)]) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2 + 1e-12
    energy = 10 * np.log10(power.sum(1))
    speech = energy > energy.max() - 35
    mean_power = power[speech].mean(0)
    frequency = np.fft.rfftfreq(512, 1 / rate)

    def band(low: float, high: float) -> float:
        return float(10 * np.log10(mean_power[(frequency >= low) & (frequency < high)].mean()))

    octaves = np.log2(np.maximum(frequency, 1) / 1000)
    inside = (frequency >= 300) & (frequency < 6000)
    tilt = float(np.polyfit(octaves[inside], 10 * np.log10(mean_power[inside]), 1)[0])
    return Acoustics(
        f0_median=float(np.median(voiced)),
        f0_spread=float(semitones.std()),
        f0_range=float(np.percentile(semitones, 95) - np.percentile(semitones, 5)),
        level=float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12)),
        level_spread=float(energy[speech].std()),
        tilt=tilt,
        high_band=band(2000, 6000) - band(100, 1000),
        brightness=float((frequency * mean_power).sum() / mean_power.sum() / 1000),
    )


class EmotionJudge(Protocol):
    """Hears one of the four emotions in samples [T] at 16 kHz, whose measures come along; ``name`` says how."""

    name: str

    def hear(self, samples: np.ndarray, acoustics: Acoustics) -> str: ...


class EmotionClassifier:
    """Quadratic discriminant analysis of ``Acoustics`` into the four emotions, trained on voices it will not judge."""

    name = "classifier of acoustic features"

    def __init__(self) -> None:
        from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._model = make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.05))

    def fit(self, features_ND: np.ndarray, emotions: Sequence[str]) -> EmotionClassifier:
        """Train on features [N, D] and their labels."""
        self._model.fit(features_ND, [DEFAULT_STYLES.emotions.index(emotion) for emotion in emotions])
        return self

    def hear(self, samples: np.ndarray, acoustics: Acoustics) -> str:
        """The likeliest emotion of one utterance."""
        return self.predict(acoustics.vector()[None])[0]

    def predict(self, features_ND: np.ndarray) -> list[str]:
        """The likeliest emotion of each row [N, D]."""
        return [DEFAULT_STYLES.emotions[int(index)] for index in self._model.predict(features_ND)]


FEATURES = Path(__file__).parents[1] / "fixtures" / "emotions.csv"


def shipped_judge(path: Path = FEATURES) -> EmotionClassifier:
    """The classifier trained on the shipped measures of rule-made voices; its name says how well it hears the recipe's.

    The file's rows ``train`` are voices that emova never speaks with; the rows ``check`` are the recipe's renderings of
    the two voices that it does, a ceiling for what can be heard (see ``eval/emova_eval/fixtures/README.md``).
    """
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    sets = {name: [row for row in rows if row[0] == name] for name in ("train", "check")}
    features = {name: np.array([row[2:] for row in found], float) for name, found in sets.items()}
    judge = EmotionClassifier().fit(features["train"], [row[1] for row in sets["train"]])
    found = judge.predict(features["check"])
    right = 100 * float(np.mean([heard == row[1] for heard, row in zip(found, sets["check"], strict=True)]))
    judge.name = (
        f"classifier trained on other voices by the recipe's rules; hears {right:.0f} % of the recipe's own right"
    )
    return judge
