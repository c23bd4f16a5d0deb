"""A style for a voice that has none: a finished recording analysed by WORLD, changed as ``Rendering`` says, made anew.

hibari is told its style before it speaks; Kokoro's Mandarin voices speak plainly, and get theirs here by the same
recipe (``emova_data.nano.voices.styles``). The times stay.

Shapes: T samples, F frames of 5 ms, N bins of the envelope.
"""

from __future__ import annotations

import numpy as np

from emova_data.nano.voices.hibari_voice import active_rms, change_f0, limit
from emova_data.nano.voices.styles import Rendering

_FRAME_MS = 5.0
_F0_HZ = (60.0, 500.0)
_EFFORT_DB = 3.0
_EFFORT_TILT_DB = 0.8
"""Of the tilt, a unit of effort: what speaks louder speaks brighter."""


def restyle(samples: np.ndarray, rate: int, how: Rendering, rng: np.random.Generator) -> np.ndarray:
    """``[T]`` float32 at ``rate`` Hz in another style; a neutral ``Rendering()`` gives what came in."""
    import pyworld

    if how == Rendering():
        return samples
    signal = samples.astype(np.float64)
    coarse_F, times_F = pyworld.harvest(signal, rate, f0_floor=_F0_HZ[0], f0_ceil=_F0_HZ[1], frame_period=_FRAME_MS)
    f0_F = pyworld.stonemask(signal, coarse_F, times_F, rate)
    envelope_FN = pyworld.cheaptrick(signal, f0_F, times_F, rate)
    noise_FN = pyworld.d4c(signal, f0_F, times_F, rate)
    changed_F = change_f0(f0_F.astype(np.float32), how, 1.0, rng).astype(np.float64)
    hertz_N = np.linspace(0, rate / 2, envelope_FN.shape[1])
    octaves_N = np.clip(np.log2(np.maximum(hertz_N, 1.0) / 1000.0), -2.5, 2.5)
    tilt_db = how.tilt_db + _EFFORT_TILT_DB * how.effort
    envelope_FN = envelope_FN * 10 ** (tilt_db * octaves_N / 10)
    # WORLD's aperiodicity is the share of the noise in the amplitude; that of the voice is what is left of the power.
    noise_FN = np.sqrt(1 - (1 - np.square(noise_FN)) * 10 ** (-max(0.0, how.breath_db) / 10))
    made = pyworld.synthesize(
        changed_F, np.ascontiguousarray(envelope_FN), np.clip(noise_FN, 0.0, 1.0), rate, frame_period=_FRAME_MS
    )
    made = np.pad(made, (0, max(0, len(samples) - len(made))))[: len(samples)]
    gain_db = how.gain_db + _EFFORT_DB * how.effort
    return limit((made * (active_rms(samples) / active_rms(made)) * 10 ** (gain_db / 20)).astype(np.float32))
