"""The pitch of a voice, measured.

Shape letters: T samples, F frames, L lags, N neighbouring frames.
"""

from __future__ import annotations

import numpy as np

HOP_SECONDS = 0.01
MIN_F0, MAX_F0 = 60.0, 500.0  # Hz


def estimate_f0(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """F0 of each 10 ms of ``[T]`` samples in Hz, ``[F]``, NaN where there is no voice.

    The normalised autocorrelation of 40 ms; the first peak nearly as high as the highest avoids octave errors.
    """
    rate = 12_000
    step = max(1, round(sample_rate / rate))
    samples = samples[: len(samples) // step * step].reshape(-1, step).mean(axis=1).astype(np.float64)
    rate = sample_rate // step
    size, hop = int(0.04 * rate), int(HOP_SECONDS * rate)
    padded = np.pad(samples, size // 2)
    count = len(samples) // hop
    if count == 0:
        return np.zeros(0)
    frames_FT = np.lib.stride_tricks.sliding_window_view(padded, size)[: count * hop : hop]
    frames_FT = frames_FT - frames_FT.mean(axis=1, keepdims=True)
    power_F = np.square(frames_FT).mean(axis=1)
    window = np.hanning(size)
    spectrum = np.fft.rfft(frames_FT * window, 2 * size)
    correlation_FL = np.fft.irfft(np.abs(spectrum) ** 2)[:, :size]
    own_L = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * size)) ** 2)[:size]
    normal_FL = correlation_FL / (correlation_FL[:, :1] + 1e-9) / (own_L / own_L[0] + 1e-3)
    shortest, longest = int(rate / MAX_F0), min(int(rate / MIN_F0), int(0.8 * size))
    inside_FL = normal_FL[:, shortest:longest]
    peak_FL = np.zeros_like(inside_FL, dtype=bool)
    peak_FL[:, 1:-1] = (inside_FL[:, 1:-1] >= inside_FL[:, :-2]) & (inside_FL[:, 1:-1] > inside_FL[:, 2:])
    best_F = np.where(peak_FL, inside_FL, 0).max(axis=1)
    chosen_F = (peak_FL & (inside_FL >= 0.88 * best_F[:, None])).argmax(axis=1)
    voiced_F = (best_F > 0.5) & (power_F > 1e-3 * power_F.max(initial=0.0)) & (power_F > 1e-8)
    return _without_outliers(np.where(voiced_F, rate / (chosen_F + shortest), np.nan))


def _without_outliers(f0_F: np.ndarray, reach: int = 6, most: float = 0.3) -> np.ndarray:
    """F0 without the frames that differ by more than ``most`` from the median of 2 * ``reach`` frames around them."""
    padded = np.pad(f0_F, reach, constant_values=np.nan)
    around_FN = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    alone_F = np.isfinite(around_FN).sum(axis=1) < 4
    filled_FN = np.where(alone_F[:, None], 1.0, around_FN)
    far_F = np.abs(f0_F / np.nanmedian(filled_FN, axis=1) - 1) > most
    return np.where(alone_F | far_F, np.nan, f0_F)
