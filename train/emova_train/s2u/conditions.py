"""The conditions that a student hears speech under while its teacher hears it clean (SPIRAL, Huang et al. 2022:
multi-condition pre-training): noise, rooms, codecs, another pitch, another vocal tract. All keep the time axis.

Shapes: T samples, K frequency bins, F frames.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import soxr
from scipy.signal import istft, stft

from emova.core.errors import InputError
from emova_train.data.shard_cache import SAMPLE_RATE
from emova_train.s2u.data import perturb, warp_formants


class Codec(NamedTuple):
    """A codec of libsndfile that does not delay the sound."""

    format: str
    subtype: str
    rate: int  # Hz


CODECS = (
    Codec("WAV", "ULAW", 8000), Codec("WAV", "ALAW", 8000), Codec("WAV", "GSM610", 8000),
    Codec("WAV", "IMA_ADPCM", 16000), Codec("WAV", "IMA_ADPCM", 8000), Codec("OGG", "VORBIS", 16000),
    Codec("OGG", "OPUS", 16000),
)  # fmt: skip
_WINDOW, _HOP = 512, 128


@dataclass(frozen=True)
class Conditions:
    """How often and how far the student's sound is changed; called with samples, other speech and a generator.

    Attributes:
        noise: share of recordings through ``perturb``: a room, a microphone's response, noise or other speech.
        codec: share through one of ``CODECS``.
        voice: share in another pitch, from another vocal tract.
        max_pitch: the pitch is exp(+-this) times as high.
        max_formants: and the formants exp(+-this) times.
    """

    noise: float = 0.8
    codec: float = 0.2
    voice: float = 0.4
    max_pitch: float = 0.35
    max_formants: float = 0.2

    def __post_init__(self) -> None:
        for name in ("noise", "codec", "voice"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"conditions.{name}={getattr(self, name):g}: a share lies between 0 and 1")
        for name in ("max_pitch", "max_formants"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"conditions.{name}={getattr(self, name):g}: give 0 to 1, exp(+-this) is the factor")

    def __call__(self, samples: np.ndarray, babble: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[T]`` at 16 kHz to ``[T]`` float32 under conditions that are drawn."""
        out = samples
        if rng.random() < self.voice:
            pitch, formants = np.exp(rng.uniform(-1, 1, 2) * (self.max_pitch, self.max_formants))
            out = other_voice(out, float(pitch), float(formants))
        if rng.random() < self.noise:
            out = perturb(out, babble, rng)
        if rng.random() < self.codec:
            out = coded(out, CODECS[int(rng.integers(len(CODECS)))])
        return np.ascontiguousarray(out, dtype=np.float32)

    def changes(self, earlier: Conditions) -> list[str]:
        """What differs from ``earlier``, each as ``name: before -> now``."""
        pairs = [(each.name, getattr(earlier, each.name), getattr(self, each.name)) for each in fields(self)]
        return [f"{name}: {before:g} -> {now:g}" for name, before, now in pairs if before != now]


def coded(samples: np.ndarray, codec: Codec) -> np.ndarray:
    """``[T]`` at 16 kHz as they come out of ``codec``."""
    import soundfile

    sent = samples if codec.rate == SAMPLE_RATE else soxr.resample(samples, SAMPLE_RATE, codec.rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(sent, -1, 1), codec.rate, format=codec.format, subtype=codec.subtype)
    buffer.seek(0)
    heard, rate = soundfile.read(buffer, dtype="float32")
    heard = heard if rate == SAMPLE_RATE else soxr.resample(heard, rate, SAMPLE_RATE)
    return np.pad(heard, (0, max(0, len(samples) - len(heard))))[: len(samples)]


def stretch(samples: np.ndarray, factor: float) -> np.ndarray:
    """``[T]`` made ``factor`` times as long at the same pitch, by a phase vocoder (Flanagan & Golden 1966)."""
    _, _, spectrum_KF = stft(samples, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)
    frames = spectrum_KF.shape[1]
    places = np.arange(0, frames - 1, 1 / factor)
    if frames < 2 or not len(places):
        return samples
    before = places.astype(int)
    share = (places - before).astype(np.float32)
    level_KF = np.abs(spectrum_KF[:, before]) * (1 - share) + np.abs(spectrum_KF[:, before + 1]) * share
    expected_K1 = 2 * np.pi * _HOP * np.arange(len(spectrum_KF))[:, None] / _WINDOW
    turned_KF = np.angle(spectrum_KF[:, 1:]) - np.angle(spectrum_KF[:, :-1]) - expected_K1
    turned_KF = turned_KF - 2 * np.pi * np.round(turned_KF / (2 * np.pi)) + expected_K1
    phase_KF = np.angle(spectrum_KF[:, :1]) + np.concatenate(
        [np.zeros((len(spectrum_KF), 1)), np.cumsum(turned_KF[:, before[:-1]], axis=1)], axis=1
    )
    _, longer = istft(level_KF * np.exp(1j * phase_KF), nperseg=_WINDOW, noverlap=_WINDOW - _HOP)
    return np.asarray(longer, dtype=np.float32)


def other_voice(samples: np.ndarray, pitch: float, formants: float) -> np.ndarray:
    """``[T]`` with ``pitch`` times the pitch and ``formants`` times the formants' frequencies; the times stay."""
    length = len(samples)
    if abs(pitch - 1) > 1e-3:
        # Longer, then played faster: the pitch goes up, and the formants with it, which are then put where they belong.
        longer = stretch(samples, pitch)
        samples = soxr.resample(longer, SAMPLE_RATE * pitch, SAMPLE_RATE)
        samples = np.pad(samples, (0, max(0, length - len(samples))))[:length]
    return warp_formants(samples, formants / pitch)
