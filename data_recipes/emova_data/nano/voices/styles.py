"""The acoustic recipe of each speaking style: emotion and pitch as changes of F0, energy, spectral tilt and noise.

No corpus of acted emotion is in the package registries, so the styles are made by rule from the correlates that the
literature agrees on:

- Banse & Scherer (1996), "Acoustic profiles in vocal emotion expression", table 6: hot anger and elation raise mean F0,
  F0 variability and energy, and move energy above 1 kHz; sadness lowers all of them.
- Scherer (2003), "Vocal communication of emotion", table 2: anger and joy have high intensity, F0 level, F0 range and
  high-frequency energy; sadness has low ones.
- Juslin & Laukka (2003), "Communication of emotions in vocal expression and music performance", table 7: anger has
  much high-frequency energy, fast onsets and irregular microstructure; happiness a high, variable F0 with rising
  contours and medium-high intensity; sadness a low F0 with little variability, falling contours, low intensity and
  little high-frequency energy.
- Juslin & Laukka (2003) and Gobl & Ní Chasaide (2003), "The role of voice quality in communicating emotion": breathy
  voice goes with sadness, tense voice and jitter with anger.

Tempo is a known correlate too (sadness slow, anger and joy fast) but stays the same here: one unit is 40 ms in every
style, and the style embedding alone must carry the emotion while the units carry the words.

Pitch (EMOVA §4.2: low, normal, high) scales F0 as a whole. The F0 level of an emotion is kept small beside it, so that
low < normal < high holds within each emotion, and an emotion is told by range, contour, energy and tilt, not by level.
"""

from __future__ import annotations

from dataclasses import dataclass

from emova.speech.style import StyleSet


@dataclass(frozen=True)
class Rendering:
    """What is done to a neutral rendering.

    Args:
        f0_level: factor on F0.
        f0_range: factor on the deviations of log F0 from the utterance's mean.
        f0_slope: change of log F0 from the start to the end of the utterance (nepers).
        gain_db: level change of the finished waveform.
        effort: change of the energy that the synthesizer's decoder is conditioned on (its own scale; about 3 dB a
            unit), which changes the vowels' strength as speaking louder or softer does.
        tilt_db: spectral tilt, dB an octave around 1 kHz.
        breath_db: change of the noise part.
        jitter: standard deviation of the cycle-scale F0 irregularity, relative.
    """

    f0_level: float = 1.0
    f0_range: float = 1.0
    f0_slope: float = 0.0
    gain_db: float = 0.0
    effort: float = 0.0
    tilt_db: float = 0.0
    breath_db: float = 0.0
    jitter: float = 0.0


EMOTION_RENDERINGS: dict[str, Rendering] = {
    "neutral": Rendering(f0_range=0.80),
    "happy": Rendering(f0_level=1.06, f0_range=1.65, f0_slope=0.10, gain_db=1.5, effort=0.3, tilt_db=1.4),
    "sad": Rendering(f0_level=0.96, f0_range=0.35, f0_slope=-0.12, gain_db=-4.0, effort=-0.8, tilt_db=-2.5,
                     breath_db=5.0),
    "angry": Rendering(f0_level=1.03, f0_range=1.2, f0_slope=-0.06, gain_db=4.5, effort=1.0, tilt_db=2.8,
                       jitter=0.02),
}  # fmt: skip
PITCH_FACTORS: dict[str, float] = {"normal": 1.0, "low": 0.80, "high": 1.25}
NANO_STYLES = StyleSet(emotions=tuple(EMOTION_RENDERINGS), pitches=tuple(PITCH_FACTORS))
"""The styles that the recipe has data for; the first emotion and pitch are the plain ones."""


def rendering(emotion: str, pitch: str) -> Rendering:
    """The recipe of one of the twelve (emotion, pitch) pairs."""
    base = EMOTION_RENDERINGS[emotion]
    values = {**base.__dict__, "f0_level": base.f0_level * PITCH_FACTORS[pitch]}
    return Rendering(**values)
