"""The rule-made voices and styles, and the augmentation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from emova.speech.style import DEFAULT_STYLES
from emova_data.nano.speech.augment import augment, band_limit, coloured_noise, reverberate
from emova_data.nano.voices.styles import PITCH_FACTORS, rendering

pytest.importorskip("hibari")
from emova_data.nano.text.g2p import phones
from emova_data.nano.voices.hibari_voice import FEMALE, MALE, Utterance, active_rms, limit, render
from emova_data.nano.voices.voices import generator, pseudo_voice

TEXT = "The man is near the old house."


def _speak(voice=FEMALE, emotion: str = "neutral", pitch: str = "normal") -> Utterance:
    return render(TEXT, voice, rendering(emotion, pitch), generator(0))


def _f0(utterance: Utterance) -> float:
    pyworld = pytest.importorskip("pyworld")
    track, _ = pyworld.harvest(utterance.samples.astype(np.float64), utterance.sample_rate, f0_floor=60, f0_ceil=500)
    return float(np.median(track[track > 0]))


@pytest.mark.parametrize("voice", [FEMALE, MALE], ids=["female", "male"])
def test_tempo_and_alignment_are_the_same_in_every_style(voice) -> None:
    neutral = _speak(voice)
    for emotion in DEFAULT_STYLES.emotions:
        styled = _speak(voice, emotion, "high")
        assert styled.alignment == neutral.alignment and len(styled.samples) == len(neutral.samples)


def test_pitch_moves_f0_and_the_male_voice_is_lower() -> None:
    heard = {pitch: _f0(_speak(FEMALE, "neutral", pitch)) for pitch in DEFAULT_STYLES.pitches}
    assert heard["low"] < 0.88 * heard["normal"] < 0.88 * 0.92 * heard["high"]
    assert heard["low"] / heard["normal"] == pytest.approx(PITCH_FACTORS["low"], rel=0.06)
    assert _f0(_speak(MALE)) < 0.85 * heard["normal"]


def test_emotions_differ_in_level_and_tilt() -> None:
    def high_share(samples: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(samples)) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / 24000)
        return float(power[hertz > 1000].sum() / power.sum())

    said = {emotion: _speak(FEMALE, emotion).samples for emotion in DEFAULT_STYLES.emotions}
    assert active_rms(said["sad"]) < active_rms(said["neutral"]) < active_rms(said["happy"]) < active_rms(said["angry"])
    assert high_share(said["sad"]) < high_share(said["neutral"]) < high_share(said["happy"]) < high_share(said["angry"])


def test_formant_factor_keeps_f0_and_length() -> None:
    from dataclasses import replace

    short = render(TEXT, replace(FEMALE, formant=1.1), rendering("neutral", "normal"), generator(0))
    plain = _speak()
    assert _f0(short) == pytest.approx(_f0(plain), rel=0.06)
    assert short.seconds == pytest.approx(plain.seconds, rel=0.15)


def test_pseudo_voices_are_fixed_and_differ() -> None:
    assert pseudo_voice(3) == pseudo_voice(3) != pseudo_voice(4)
    assert len({pseudo_voice(i).f0 for i in range(32)}) == 32


def test_phones_are_sounds_only() -> None:
    assert phones("Hello, you!") == list("həlOju")


def test_limiter_is_linear_below_the_knee_and_bounded() -> None:
    wave = np.linspace(-3, 3, 1001, dtype=np.float32)
    bent = limit(wave)
    small = np.abs(wave) <= 0.7
    assert np.array_equal(bent[small], wave[small]) and np.abs(bent).max() <= 1.0 and np.all(np.diff(bent) >= 0)


def test_augmentation_is_seeded_bounded_and_fast() -> None:
    samples = _speak().samples
    outputs = [augment(samples, 24000, np.random.default_rng(seed)) for seed in range(20)]
    again = augment(samples, 24000, np.random.default_rng(3))
    assert np.array_equal(outputs[3], again)
    assert all(y.shape == samples.shape and y.dtype == np.float32 and np.abs(y).max() <= 1.0 for y in outputs)
    long = np.tile(samples, 10)
    start = time.process_time()
    for seed in range(10):
        augment(long, 24000, np.random.default_rng(seed))
    assert (time.process_time() - start) / (10 * len(long) / 24000) < 0.03


def test_augmentation_parts() -> None:
    rng = np.random.default_rng(0)
    noise = coloured_noise(16000, -6.0, 16000, rng)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[200:400].mean() > 4 * power[4000:8000].mean() and np.mean(noise**2) == pytest.approx(1.0, rel=1e-3)
    click = np.zeros(16000, np.float32)
    click[100] = 1.0
    wet = reverberate(click, 0.3, 0.5, 16000, rng)
    assert np.allclose(wet[:101], click[:101], atol=1e-6) and 0 < np.sum(wet[102:] ** 2) <= 0.26
    filtered = band_limit(rng.standard_normal(16000).astype(np.float32), 300, 3000, 16000)
    power = np.abs(np.fft.rfft(filtered)) ** 2
    assert power[6000:].mean() < 0.05 * power[500:2500].mean()


def test_augmentation_survives_silence_and_short_clips() -> None:
    for samples in (np.zeros(1000, np.float32), np.zeros(1, np.float32), np.ones(50, np.float32)):
        for seed in range(10):
            assert np.isfinite(augment(samples, 16000, np.random.default_rng(seed))).all()
