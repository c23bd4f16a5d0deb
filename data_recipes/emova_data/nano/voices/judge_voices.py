"""Voices that only judges learn from: pseudo-voices outside the numbers that any training set draws, in every style.

The emotion classifier of the evaluation is trained on these, so that it never has heard the two voices it judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import soxr

from emova.core.seeding import generator
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import PSEUDO_VOICES, Voices

_FIRST = PSEUDO_VOICES + 100  # far from the numbers of the training voices
_SENTENCES = (
    "The train to the coast leaves at nine.",
    "She put the yellow bowl on the table.",
    "I did not know that you were at home.",
    "We walked along the river until it got dark.",
    "There is a letter for you in the kitchen.",
    "My brother will bring the tickets tomorrow.",
    "They opened all the windows of the house.",
    "Nobody told me about the new plan.",
    "He wants to talk to you about the garden.",
    "This road goes over the hill to the village.",
)


def render_judge_voices(per_style: int, seed: int, sample_rate: int) -> Iterator[tuple[str, np.ndarray]]:
    """``per_style`` utterances of each (emotion, pitch), each by another voice: (emotion, samples [T])."""
    voices = Voices(Path())
    for emotion, pitch in product(NANO_STYLES.emotions, NANO_STYLES.pitches):
        for index in range(per_style):
            rng = generator("judge", emotion, pitch, index, seed)
            voice = f"hibari/p{_FIRST + index}"
            text = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
            spoken = voices.speak(voice, text, emotion, pitch, seed)
            yield emotion, soxr.resample(spoken.samples, spoken.sample_rate, sample_rate).astype(np.float32)
