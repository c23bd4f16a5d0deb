"""Log-mel: its filters, its independence of what lies outside a window, its fixed normalisation."""

from __future__ import annotations

import pytest
import torch

from emova.speech.features import LogMel, MelConfig, hz_to_mel, mel_edges, mel_filters, mel_to_hz


def test_the_mel_scale_inverts() -> None:
    frequencies = torch.linspace(0, 8000, 101, dtype=torch.float64)
    assert torch.allclose(mel_to_hz(hz_to_mel(frequencies)), frequencies, atol=1e-6)
    assert hz_to_mel(torch.tensor([1000.0])).item() == pytest.approx(15.0)


def test_each_filter_peaks_between_its_edges_and_has_unit_area() -> None:
    config = MelConfig(n_fft=4096)
    filters_MK = mel_filters(config)
    edges = mel_edges(config)
    bins = torch.linspace(0, 8000, 2049)
    peaks = bins[filters_MK.argmax(dim=1)]
    assert bool(((peaks > edges[:-2]) & (peaks < edges[2:])).all())
    assert torch.allclose(filters_MK.sum(1) * (bins[1] - bins[0]), torch.ones(80), atol=0.05)


@pytest.mark.parametrize(("length", "frames"), [(0, 0), (159, 0), (160, 1), (16000, 100), (16001, 100)])
def test_one_frame_a_hop(length: int, frames: int) -> None:
    assert LogMel(MelConfig())(torch.zeros(2, length)).shape == (2, 80, frames)


def test_silence_is_the_floor_and_loudness_shifts_by_a_constant() -> None:
    mel = LogMel(MelConfig())
    assert bool((mel(torch.zeros(1, 1600)) == -0.75).all())
    noise = torch.randn(1, 16000) * 0.1
    assert torch.allclose(mel(noise * 10) - mel(noise), torch.tensor(2 * 0.25), atol=1e-3)


def test_a_frame_depends_on_its_window_only() -> None:
    mel = LogMel(MelConfig())
    samples = torch.randn(1, 8000) * 0.1
    changed = samples.clone()
    changed[:, 4000:] = 0
    # Frame f sees samples up to 160 f + 199.
    assert torch.equal(mel(samples)[..., :24], mel(changed)[..., :24])
    assert not torch.equal(mel(samples)[..., 24], mel(changed)[..., 24])


def test_whole_windows_equal_the_padded_frames() -> None:
    mel = LogMel(MelConfig())
    samples = torch.randn(1, 8000)
    inner = mel.windows(samples[:, 120:])
    assert torch.allclose(inner, mel(samples)[..., 2 : 2 + inner.shape[-1]], atol=1e-5)


def test_other_rates_fit_the_unit_grid() -> None:
    mel = LogMel(MelConfig(sample_rate=24000, n_fft=960, hop_length=240, f_max=12000.0))
    assert mel(torch.zeros(1, 960)).shape[-1] == 4
