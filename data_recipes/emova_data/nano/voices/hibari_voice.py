"""hibari as a controllable synthesizer: any F0, F0 range, tilt, effort, tempo and vocal tract length, with alignment.

The vocal tract is scaled by rendering at another sample rate: for a formant factor a, speech is made with F0 / a and
tempo / a and then read at a times the rate, which moves all formants by a and gives F0 and tempo back. F0 is changed
before the decoder, which then predicts a spectrum that fits it; changing it only in the pulse train costs more than one
MOS point.

F frames of 12.5 ms, T samples.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from emova_data.nano.text.g2p import is_phone, phonemes
from emova_data.nano.voices.hibari_parts import FRAMES_PER_DURATION, HOP, SAMPLE_RATE, HibariParts, Prosody, Spectrum
from emova_data.nano.voices.styles import Rendering

_VOICED = 40.0  # Hz: hibari's own threshold
_LEVEL = 0.05  # RMS of active speech in a neutral rendering
_EDGE_STEPS = 4  # 25 ms steps of silence kept at either end
_DB = np.log(10.0) / 20.0


@dataclass(frozen=True)
class VoiceSettings:
    """A voice that hibari is turned into.

    Args:
        f0: factor on F0 (hibari's own speaker lies near 200 Hz).
        formant: factor on all formants; below 1 is a longer vocal tract.
        speed: tempo.
        rendering: what the voice always does besides; multiplied or added to a style's.
    """

    f0: float = 1.0
    formant: float = 1.0
    speed: float = 1.0
    rendering: Rendering = Rendering()


FEMALE = VoiceSettings()
# The decoder has heard little below 140 Hz and makes that sound an octave too high at times. With formants at 0.80 its
# own rate is a quarter higher than what is heard, which leaves room for the low pitch.
MALE = VoiceSettings(f0=0.78, formant=0.80)


@dataclass(frozen=True)
class Utterance:
    """Speech with its phones.

    samples: [T] float32; alignment: (phone, start s, end s) in order, or None when the voice does not tell.
    """

    samples: np.ndarray
    sample_rate: int
    phones: list[str]
    alignment: list[tuple[str, float, float]] | None

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@functools.lru_cache(maxsize=1)
def _parts() -> HibariParts:
    return HibariParts(threads=1)


def _merge(voice: Rendering, style: Rendering) -> Rendering:
    return Rendering(
        f0_level=voice.f0_level * style.f0_level,
        f0_range=voice.f0_range * style.f0_range,
        f0_slope=voice.f0_slope + style.f0_slope,
        gain_db=voice.gain_db + style.gain_db,
        effort=voice.effort + style.effort,
        tilt_db=voice.tilt_db + style.tilt_db,
        breath_db=voice.breath_db + style.breath_db,
        jitter=max(voice.jitter, style.jitter),
    )


def change_f0(f0: np.ndarray, how: Rendering, factor: float, rng: np.random.Generator) -> np.ndarray:
    """F0 [F] with level, range, slope and jitter applied in the log domain; unvoiced frames stay."""
    voiced = f0 > _VOICED
    if not voiced.any():
        return f0
    log_f0 = np.log(np.maximum(f0, _VOICED))
    mean = log_f0[voiced].mean()
    time = np.linspace(-0.5, 0.5, len(f0))
    # Onsets and ends of voicing lie far below the mean; a wide range must not throw them out of the voice.
    deviation = np.clip(log_f0 - mean, -0.6, 0.6)
    changed = mean + how.f0_range * deviation + how.f0_slope * time
    changed += np.log(how.f0_level * factor)
    if how.jitter:
        changed += how.jitter * rng.standard_normal(len(f0))
    return np.where(voiced, np.clip(np.exp(changed), 55.0, 520.0), f0).astype(np.float32)


def _shape(spectrum: Spectrum, how: Rendering, formant: float) -> Spectrum:
    """Tilt on every part, breath on the noise part. The tilt is meant for the frequencies after the rate change."""
    hertz = np.arange(spectrum.harmonic.shape[0]) * (SAMPLE_RATE / 2 / (spectrum.harmonic.shape[0] - 1)) * formant
    octaves = np.clip(np.log2(np.maximum(hertz, 1.0) / 1000.0), -2.5, 2.5)
    tilt = (how.tilt_db * _DB * octaves).astype(np.float32)[:, None]
    return dataclasses.replace(
        spectrum,
        harmonic=spectrum.harmonic + tilt,
        noise=spectrum.noise + tilt + np.float32(how.breath_db * _DB),
        free=spectrum.free + tilt,
    )


def _align(symbols: list[str], durations: np.ndarray, step: float) -> list[tuple[str, float, float]]:
    """(phone, start, end) from the durations [N + 2] in steps of ``step`` s.

    A stress mark's time belongs to the vowel after it, a bare space's to the phone before it; punctuation is a pause.
    """
    ends = np.cumsum(durations) * step
    starts = ends - durations * step
    result: list[tuple[str, float, float]] = []
    pending: float | None = None
    for index, symbol in enumerate(symbols, start=1):
        start, end = float(starts[index]), float(ends[index])
        if symbol in "ˈˌ":
            pending = start
        elif is_phone(symbol):
            result.append((symbol, start if pending is None else pending, end))
            pending = None
        elif symbol in " ː" and result and durations[index] <= 2 and result[-1][2] >= start - 1e-9:
            result[-1] = (result[-1][0], result[-1][1], end)
    return result


def active_rms(samples: np.ndarray, window: int = 480) -> float:
    """RMS over the windows within 30 dB of the loudest."""
    usable = len(samples) // window * window
    if not usable:
        return float(np.sqrt(np.mean(samples**2) + 1e-12))
    power = (samples[:usable].reshape(-1, window) ** 2).mean(1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean() + 1e-12))


def limit(samples: np.ndarray, knee: float = 0.7) -> np.ndarray:
    """Keep |samples| below 1: linear up to ``knee``, then a smooth bend."""
    size = np.abs(samples)
    over = size > knee
    bent = knee + (1 - knee) * np.tanh((size[over] - knee) / (1 - knee))
    result = samples.astype(np.float32).copy()
    result[over] = np.sign(samples[over]) * bent
    return result


def render(text: str, voice: VoiceSettings, style: Rendering, rng: np.random.Generator) -> Utterance:
    """Speak ``text``; 24 kHz. The tempo and thus the alignment depend on the text and the voice alone."""
    import soxr

    parts = _parts()
    symbols = parts.symbols(phonemes(text))
    how = _merge(voice.rendering, style)
    prosody = parts.predict("".join(symbols), voice.speed / voice.formant)
    f0 = change_f0(prosody.f0, how, voice.f0 / voice.formant, rng)
    neutral = active_rms(_speak(parts, prosody, f0, Rendering(), voice.formant, rng)) if how != Rendering() else None
    samples = _speak(parts, prosody, f0, how, voice.formant, rng)
    gain = _LEVEL / (neutral if neutral is not None else active_rms(samples))
    samples = samples * (gain * 10 ** (how.gain_db / 20))

    # Cut the long silence that hibari leaves before and after.
    durations = prosody.durations
    head = max(int(durations[0]) - _EDGE_STEPS, 0)
    tail = 0
    last = max((i for i, s in enumerate(symbols, start=1) if is_phone(s)), default=len(symbols))
    tail = max(int(durations[last + 1 :].sum()) - _EDGE_STEPS, 0)
    step = FRAMES_PER_DURATION * HOP
    samples = samples[head * step : len(samples) - tail * step]
    seconds = step / SAMPLE_RATE / voice.formant
    if voice.formant != 1.0:
        samples = soxr.resample(samples, SAMPLE_RATE * voice.formant, SAMPLE_RATE)
    alignment = [
        (phone, round(start - head * seconds, 4), round(end - head * seconds, 4))
        for phone, start, end in _align(symbols, durations, seconds)
    ]
    return Utterance(limit(samples), SAMPLE_RATE, [phone for phone, _, _ in alignment], alignment)


def _speak(
    parts: HibariParts, prosody: Prosody, f0: np.ndarray, how: Rendering, formant: float, rng: np.random.Generator
) -> np.ndarray:
    speech = prosody.energy > 0
    energy = np.where(speech, np.maximum(prosody.energy + how.effort, 0.0), prosody.energy).astype(np.float32)
    spectrum = _shape(parts.spectrum(dataclasses.replace(prosody, f0=f0, energy=energy)), how, formant)
    return parts.synthesize(spectrum, f0, rng)
