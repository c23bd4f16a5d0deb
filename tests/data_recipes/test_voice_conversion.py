"""Voice conversion: what was asked is what is heard, words' times follow the tempo, and shards repeat bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emova_data.nano.speech.labelled import Label, Recordings, is_test
from emova_data.nano.voices.voice_conversion import VoiceChange, convert, make_converted

SAME = VoiceChange(f0=1.0, f0_range=1.0, tract=1.0, tempo=1.0, aperiodicity=1.0, smooth=0, tilt_db=0.0)
pyworld = pytest.importorskip("pyworld")


def vowel(f0: float, formant: float, seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    """Pulses of a slowly rising ``f0`` through one resonance."""
    time = np.arange(int(seconds * rate)) / rate
    phase = np.cumsum(f0 * np.exp(0.2 * (time - seconds / 2))) / rate
    pulses = np.diff(np.floor(phase), prepend=0.0)
    ring = np.exp(-2 * np.pi * 80 * time[:800]) * np.sin(2 * np.pi * formant * time[:800])
    sound = np.convolve(pulses, ring)[: len(time)]
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def heard(samples: np.ndarray) -> tuple[float, float, float]:
    """Median F0 and its spread (log), and the strongest frequency of the envelope."""
    signal = samples.astype(np.float64)
    f0, times = pyworld.harvest(signal, 16000, f0_floor=60.0, f0_ceil=600.0)
    envelope = np.log(pyworld.cheaptrick(signal, f0, times, 16000)[f0 > 0]).mean(0)
    voiced = np.log(f0[f0 > 0])
    return float(np.exp(np.median(voiced))), float(voiced.std()), (envelope[80:].argmax() + 80) * 15.625


def test_each_change_is_heard_and_the_rest_stays() -> None:
    before = vowel(150.0, 1200.0)
    f0, spread, formant = heard(convert(before, SAME))
    assert f0 == pytest.approx(150, rel=0.03) and formant == pytest.approx(1200, rel=0.08)
    higher = heard(convert(before, replace(SAME, f0=1.4)))
    assert higher[0] == pytest.approx(210, rel=0.03) and higher[2] == pytest.approx(formant, rel=0.1)
    assert heard(convert(before, replace(SAME, f0_range=0.0)))[1] < 0.5 * spread
    longer = heard(convert(before, replace(SAME, tract=1.2)))
    assert longer[2] == pytest.approx(formant * 1.2, rel=0.08) and longer[0] == pytest.approx(150, rel=0.03)
    slow = convert(before, replace(SAME, tempo=0.8))
    assert len(slow) == pytest.approx(len(before) / 0.8, rel=0.02)
    assert np.sqrt(np.mean(slow**2)) == pytest.approx(np.sqrt(np.mean(before**2)), rel=0.05)


def test_silence_stays_silent() -> None:
    assert np.abs(convert(np.zeros(8000, np.float32), SAME)).max() < 1e-3


def test_shards_repeat_and_leave_out_what_is_held_out(tmp_path: Path) -> None:
    recordings = Recordings(
        set="real", voice="a/b", family="a", gender="", decode=lambda name: vowel(100 + 10 * int(name[0]), 900.0, 0.5)
    )
    labels: dict[str, Label] = {
        f"{i}.x": {"name": f"{i}.x", "text": "good day to you", "score": 0.0, "seconds": 1.0} for i in range(8)
    }
    recordings.write(tmp_path, labels)
    shards = sorted(tmp_path.glob("real-train-*.tar"))
    (first,) = make_converted(tmp_path, shards, seed=0)
    assert first.items == sum(not is_test(name) for name in labels)
    assert make_converted(tmp_path, shards, seed=0) == [first]
    (tmp_path / first.name).unlink()
    assert make_converted(tmp_path, shards, seed=0) == [first]
    (other,) = make_converted(tmp_path, shards, seed=1)
    assert other.sha256 != first.sha256
