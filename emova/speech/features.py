"""Log-mel features that stream: a fixed normalisation, and frames that depend on nothing but their own window.

Shapes: B batch, T samples, M mel bins, F frames, K frequency bins of the Fourier transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MelConfig:
    """The features of Whisper (80 Slaney bins, 25 ms windows, 100 Hz), but normalised by constants.

    ``log10(power)`` is clamped from below at ``floor_log10``, then ``shift`` is added and the sum multiplied by
    ``scale``. Whisper clamps at 8 decades below the loudest frame of the whole recording, which cannot stream.
    """

    sample_rate: int = 16000  # Hz
    n_fft: int = 400  # samples a window
    hop_length: int = 160  # samples from frame to frame
    n_mels: int = 80
    f_min: float = 0.0  # Hz
    f_max: float = 8000.0  # Hz
    floor_log10: float = -7.0
    shift: float = 4.0
    scale: float = 0.25


def hz_to_mel(frequency: Tensor) -> Tensor:
    """Slaney's mel scale: linear below 1 kHz (3 mel per 200 Hz), logarithmic above (27 mel a factor of 6.4)."""
    logarithmic = 15.0 + 27.0 * torch.log(frequency.clamp(min=1e-6) / 1000.0) / torch.log(torch.tensor(6.4))
    return torch.where(frequency < 1000.0, frequency * 3.0 / 200.0, logarithmic)


def mel_to_hz(mel: Tensor) -> Tensor:
    """The inverse of ``hz_to_mel``."""
    logarithmic = 1000.0 * torch.exp((mel - 15.0) * torch.log(torch.tensor(6.4)) / 27.0)
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, logarithmic)


def mel_edges(config: MelConfig) -> Tensor:
    """The ``n_mels + 2`` corner frequencies of the triangles, Hz; triangle m rises from m, peaks at m + 1."""
    bounds = hz_to_mel(torch.tensor([config.f_min, config.f_max], dtype=torch.float64))
    return mel_to_hz(torch.linspace(float(bounds[0]), float(bounds[1]), config.n_mels + 2, dtype=torch.float64))


def mel_filters(config: MelConfig) -> Tensor:
    """Triangular filters of equal area (Slaney's normalisation), ``[M, K]``."""
    edges = mel_edges(config)
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


class LogMel(nn.Module):
    """Waveform to normalised log-mel frames."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # constants: there even when the rest is built on the meta device
            self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
            self.register_buffer("filters", mel_filters(config), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """``[B, T]`` float32 in [-1, 1] to ``[B, M, F]``, F = T // hop_length; frame f is centred on sample f * hop.

        The edges are padded with silence, so a frame is the same however the recording is cut before and after its
        window.
        """
        half = self.config.n_fft // 2
        frames = samples_BT.shape[-1] // self.config.hop_length
        padded = nn.functional.pad(samples_BT.float(), (half, half))
        return self.windows(padded)[..., :frames]

    def windows(self, samples_BT: Tensor) -> Tensor:
        """The frames of all whole windows in ``samples_BT``, unpadded: ``[B, M, (T - n_fft) // hop + 1]``."""
        config = self.config
        with torch.autocast(samples_BT.device.type, enabled=False):
            spectrum_BKF = torch.stft(
                samples_BT.float(), config.n_fft, config.hop_length, window=self.window, center=False,
                return_complex=True,
            )  # fmt: skip
            power_BKF = spectrum_BKF.real.square() + spectrum_BKF.imag.square()
            log_BMF = torch.matmul(self.filters, power_BKF).clamp(min=1e-10).log10()
            return (log_BMF.clamp(min=config.floor_log10) + config.shift) * config.scale
