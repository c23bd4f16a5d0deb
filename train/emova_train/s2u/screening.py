"""What a tokenizer can learn nothing from, told apart without a model: recordings without speech; and narrow bands.

Shapes: T samples, N frames, K frequency bins.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import rfft

SAMPLE_RATE = 16000
FRAME_SAMPLES = 400
MIN_LEVEL_DB = -60.0
"""Of full scale, of the loud frames."""
MIN_RANGE_DB = 6.0
"""Between quiet and loud frames: speech comes and goes."""
MAX_FLATNESS = 0.4
"""Of the spectra of the most voice-like third of the loud frames (0: one tone, 1: white noise)."""
NARROW_HZ = 4200.0
_BEYOND = 1e-5


def holds_speech(samples: np.ndarray) -> bool:
    """Whether ``[T]`` samples at 16 kHz may hold speech.

    Cheap and generous, so that hardly any speech is lost: silence, hum, hiss and a held tone are told apart, music with
    a beat is not.
    """
    frames_NT = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    if len(frames_NT) < 4:
        return False
    level_N = 10 * np.log10(np.square(frames_NT, dtype=np.float64).mean(1) + 1e-10)
    quiet, loud = np.percentile(level_N, (10, 95))
    if loud < MIN_LEVEL_DB or loud - quiet < MIN_RANGE_DB:
        return False
    window = np.hanning(FRAME_SAMPLES)
    power_NK = np.square(np.abs(rfft(frames_NT[level_N >= loud - 10] * window))) + 1e-9
    flatness_N = np.exp(np.log(power_NK).mean(1)) / power_NK.mean(1)
    voiced = float(np.percentile(flatness_N, 17))
    return voiced < MAX_FLATNESS


def is_narrow(samples: np.ndarray) -> bool:
    """Whether ``[T]`` samples at 16 kHz hold nothing above a telephone's band: a hundred-thousandth of their power."""
    if not samples.any():
        return False
    power_K = np.square(np.abs(rfft(samples.astype(np.float32, copy=False))), dtype=np.float64)
    cut = int(NARROW_HZ * len(samples) / SAMPLE_RATE)
    return float(power_K[cut:].sum()) <= _BEYOND * float(power_K.sum())
