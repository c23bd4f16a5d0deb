"""Augmentation of speech while training: noise, reverberation, band limits, gain. About 0.003 of real time.

T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly.

    Args:
        noise, reverb, band, gain: probabilities of each effect.
        snr_db: signal-to-noise ratio, drawn evenly.
        noise_slope_db: colour of the noise, dB an octave (−6 is brown, 0 white, 3 blue).
        decay_s: reverberation time (−60 dB), drawn evenly.
        wet: level of the reverberation against the direct sound.
        high_pass_hz, low_pass_hz: edges of the band, drawn evenly in log frequency.
        gain_db: gain, drawn evenly.
    """

    noise: float = 0.6
    reverb: float = 0.35
    band: float = 0.35
    gain: float = 0.8
    snr_db: tuple[float, float] = (5.0, 30.0)
    noise_slope_db: tuple[float, float] = (-6.0, 2.0)
    decay_s: tuple[float, float] = (0.1, 0.6)
    wet: tuple[float, float] = (0.1, 0.6)
    high_pass_hz: tuple[float, float] = (40.0, 300.0)
    low_pass_hz: tuple[float, float] = (3000.0, 7500.0)
    gain_db: tuple[float, float] = (-12.0, 6.0)


def coloured_noise(length: int, slope_db: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [T] of unit power whose spectrum falls or rises by ``slope_db`` an octave above 50 Hz."""
    import scipy.fft

    size = scipy.fft.next_fast_len(max(length, 2), real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    hertz = np.maximum(np.arange(len(spectrum), dtype=np.float32) * (sample_rate / size), 50.0)
    spectrum *= (hertz / 1000.0) ** np.float32(slope_db / 20 / np.log10(2))
    noise = scipy.fft.irfft(spectrum, size)[:length]
    return noise / np.sqrt(np.mean(noise**2) + 1e-12)


def reverberate(
    samples: np.ndarray, decay_s: float, wet: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """``samples`` [T] with an exponentially decaying noise tail; the length stays."""
    import scipy.signal

    length = int(decay_s * sample_rate)
    time = np.arange(length, dtype=np.float32) / sample_rate
    response = rng.standard_normal(length, dtype=np.float32) * np.exp(-6.9078 * time / decay_s)
    response[: int(0.002 * sample_rate)] = 0.0  # the direct sound stands alone
    response *= wet / np.sqrt(np.sum(response**2) + 1e-12)
    return samples + scipy.signal.oaconvolve(samples, response)[: len(samples)].astype(np.float32)


def band_limit(samples: np.ndarray, low_hz: float, high_hz: float, sample_rate: int) -> np.ndarray:
    """``samples`` [T] through second-order high- and low-pass filters."""
    import scipy.signal

    high = min(high_hz, 0.49 * sample_rate)
    filters = scipy.signal.butter(2, (low_hz, high), "bandpass", fs=sample_rate, output="sos")
    return scipy.signal.sosfilt(filters, samples).astype(np.float32)


def augment(
    samples: np.ndarray,
    sample_rate: int,
    rng: np.random.Generator,
    config: AugmentConfig = AugmentConfig(),
) -> np.ndarray:
    """A randomly disturbed copy of ``samples`` [T] float32; same length, within [-1, 1]."""
    result: np.ndarray = np.asarray(samples, np.float32)
    if rng.random() < config.reverb:
        result = reverberate(result, rng.uniform(*config.decay_s), rng.uniform(*config.wet), sample_rate, rng)
    if rng.random() < config.noise:
        power = float(np.mean(result**2))
        noise = coloured_noise(len(result), rng.uniform(*config.noise_slope_db), sample_rate, rng)
        result = result + noise * np.float32(np.sqrt(power) * 10 ** (-rng.uniform(*config.snr_db) / 20))
    if rng.random() < config.band:
        low = float(np.exp(rng.uniform(*np.log(config.high_pass_hz))))
        high = float(np.exp(rng.uniform(*np.log(config.low_pass_hz))))
        result = band_limit(result, low, high, sample_rate)
    if rng.random() < config.gain:
        result = result * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
    peak = float(np.abs(result).max(initial=0.0))
    return (result * np.float32(0.99 / peak) if peak > 0.99 else result).astype(np.float32)
