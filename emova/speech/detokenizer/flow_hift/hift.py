"""The vocoder of GLM-4-Voice and CosyVoice: HiFTNet (Li et al. 2023), sound from mel frames and a harmonic source.

Shapes: B batch, M mel bins, F frames, T = F * hop samples, C channels, N harmonics, S frames of the short transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError


@dataclass(frozen=True)
class HiFTConfig:
    """The defaults are the release's."""

    mels: int = 80
    sample_rate: int = 22_050  # Hz
    channels: int = 512
    rates: tuple[int, ...] = (8, 8)
    rate_kernels: tuple[int, ...] = (16, 16)
    n_fft: int = 16
    short_hop: int = 4
    kernels: tuple[int, ...] = (3, 7, 11)
    source_kernels: tuple[int, ...] = (7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    harmonics: int = 8  # beside the fundamental
    pitch_channels: int = 512
    voiced: float = 10.0
    """Hz above which a frame is voiced."""
    limit: float = 0.99

    def __post_init__(self) -> None:
        sizes = (self.mels, self.sample_rate, self.channels, self.n_fft, self.short_hop, self.pitch_channels)
        shapes = (*self.rates, *self.rate_kernels, *self.kernels, *self.source_kernels, *self.dilations)
        if min(*sizes, *shapes) < 1 or self.harmonics < 0:
            raise InputError("vocoder: no such sizes; give 1 or more")

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return math.prod(self.rates) * self.short_hop


class Snake(nn.Module):
    """x + sin(a x)^2 / a for each channel (Ziyin et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        alpha_C1 = self.alpha[:, None]
        return x_BCT + (alpha_C1 * x_BCT).sin().square() / (alpha_C1 + 1e-9)


class SnakeUnit(nn.Module):
    """HiFi-GAN's residual block with Snake."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        around = kernel // 2
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=rate, padding=rate * around) for rate in dilations
        )
        self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=around) for _ in dilations)
        self.before = nn.ModuleList(Snake(channels) for _ in dilations)
        self.between = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x_BCT: Tensor) -> Tensor:
        for before, dilated, between, plain in zip(self.before, self.dilated, self.between, self.plain, strict=True):
            x_BCT = x_BCT + plain(between(dilated(before(x_BCT))))
        return x_BCT


class Pitch(nn.Module):
    """F0 from mel frames."""

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(mels if index == 0 else width, width, 3, padding=1) for index in range(5)
        )
        self.leave = nn.Linear(width, 1)
        self.context = len(self.convolutions)
        """Frames on each side that it sees."""

    def forward(self, mel_BMF: Tensor) -> Tensor:
        """``[B, F]``, Hz."""
        for convolution in self.convolutions:
            mel_BMF = functional.elu(convolution(mel_BMF))
        return self.leave(mel_BMF.transpose(1, 2))[..., 0].abs()


class HiFT(nn.Module):
    """Mel frames to sound."""

    window: Tensor

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        self.config = config
        self.draws = config.harmonics + 1
        """Random numbers of a sample."""
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.pitch = Pitch(config.mels, config.pitch_channels)
        self.mix = nn.Linear(config.harmonics + 1, 1)
        self.enter = nn.Conv1d(config.mels, config.channels, 7, padding=3)
        self.upsamplers, self.from_source, self.source_units, self.units = (nn.ModuleList() for _ in range(4))
        widths = [config.channels // 2**index for index in range(len(config.rates) + 1)]
        for index, (rate, kernel) in enumerate(zip(config.rates, config.rate_kernels, strict=True)):
            width = widths[index + 1]
            self.upsamplers.append(
                nn.ConvTranspose1d(widths[index], width, kernel, stride=rate, padding=(kernel - rate) // 2)
            )
            left = math.prod(config.rates[index + 1 :])
            kernel = 2 * left if left > 1 else 1
            self.from_source.append(nn.Conv1d(config.n_fft + 2, width, kernel, stride=left, padding=left // 2))
            self.source_units.append(SnakeUnit(width, config.source_kernels[index], config.dilations))
            self.units.append(nn.ModuleList(SnakeUnit(width, kernel, config.dilations) for kernel in config.kernels))
        self.leave = nn.Conv1d(widths[-1], config.n_fft + 2, 7, padding=3)

    def source(self, f0_BF: Tensor, turns_B: Tensor, phases_BN: Tensor, noise_BNT: Tensor) -> tuple[Tensor, Tensor]:
        """What drives the sound, ``[B, T]``, and where the fundamental is at its end.

        Args:
            f0_BF: Hz.
            turns_B: where the fundamental is at its beginning, in turns, float64.
            phases_BN: of the harmonics, radians; the fundamental's is 0.
            noise_BNT: standard normal.
        """
        config = self.config
        f0_BT = f0_BF.repeat_interleave(config.hop, dim=1)
        # In float64, so that the phase of a long reply is as exact as that of a short one.
        turns_BT = turns_B[:, None] + (f0_BT.double() / config.sample_rate).cumsum(1)
        times = torch.arange(1, config.harmonics + 2, device=f0_BF.device)
        angles_BNT = 2 * math.pi * ((turns_BT[:, None] * times[:, None]) % 1).float() + phases_BN[..., None]
        voiced_B1T = (f0_BT > config.voiced)[:, None].float()
        noise_BNT = noise_BNT * (voiced_B1T * 0.003 + (1 - voiced_B1T) * 0.1 / 3)
        waves_BNT = 0.1 * angles_BNT.sin() * voiced_B1T + noise_BNT
        end_B = turns_BT[:, -1] % 1 if turns_BT.shape[1] else turns_B
        return torch.tanh(self.mix(waves_BNT.transpose(1, 2)))[..., 0], end_B

    def forward(self, mel_BMF: Tensor, source_BT: Tensor) -> Tensor:
        """``[B, M, F]`` and what drives it to ``[B, T]`` in [-limit, limit]."""
        config = self.config
        spectrum_BKS = torch.stft(
            source_BT, config.n_fft, config.short_hop, window=self.window, center=True, return_complex=True
        )
        source_BCS = torch.cat([spectrum_BKS.real, spectrum_BKS.imag], dim=1)
        x_BCT = self.enter(mel_BMF)
        parts = zip(self.upsamplers, self.from_source, self.source_units, self.units, strict=True)
        for index, (upsampler, from_source, source_unit, units) in enumerate(parts):
            x_BCT = upsampler(functional.leaky_relu(x_BCT, 0.1))
            if index == len(self.upsamplers) - 1:
                x_BCT = functional.pad(x_BCT, (1, 0), mode="reflect")
            x_BCT = x_BCT + source_unit(from_source(source_BCS))
            assert isinstance(units, nn.ModuleList)
            x_BCT = torch.stack([unit(x_BCT) for unit in units]).mean(0)
        size, angle = self.leave(functional.leaky_relu(x_BCT, 0.01)).chunk(2, dim=1)
        spectrum_BKS = torch.polar(size.exp().clamp(max=100.0), angle.sin())
        samples_BT = torch.istft(spectrum_BKS, config.n_fft, config.short_hop, window=self.window)
        return samples_BT.clamp(-config.limit, config.limit)
