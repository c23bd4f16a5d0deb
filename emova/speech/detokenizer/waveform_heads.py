"""Latent frames to samples: an inverse-STFT head (as Vocos, Siuzdak 2023) and HiFi-GAN's (Kong et al. 2020).

Both can be driven by the excitation of ``source.py``. The inverse-STFT head then predicts, in each time-frequency bin,
a complex filter of the pulse train and a gain of the noise; the HiFi-GAN head adds the excitation to its hidden
signals at every rate.

Shapes: B batch, Z latent channels, C channels, F frames, T = F * hop samples, K frequency bins, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.detokenizer.layers import (
    BoundedConv,
    ChannelNorm,
    Context,
    ConvBlock,
    Past,
    Pointwise,
    extend,
    join,
    of_style,
    total_context,
)


@dataclass(frozen=True)
class ISTFTHeadConfig:
    """A ConvNeXt backbone at the rate of frames; ``lookahead`` names the future taps of each of its blocks."""

    channels: int = 208
    widening: float = 2.0
    kernel: int = 7
    lookahead: tuple[int, ...] = (2, 1, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class HiFiGANHeadConfig:
    """HiFi-GAN's generator; the product of the rates is the hop."""

    channels: int = 512
    rates: tuple[int, ...] = (10, 6, 2, 2)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    last_slope: float = 0.1  # of the rectifier before the last convolution


@dataclass(frozen=True)
class WaveformHeadConfig:
    """``kind`` says which of the two parts below is built."""

    kind: str = "istft"  # or "hifigan"
    istft: ISTFTHeadConfig = field(default_factory=ISTFTHeadConfig)
    hifigan: HiFiGANHeadConfig = field(default_factory=HiFiGANHeadConfig)

    def __post_init__(self) -> None:
        if self.kind not in ("istft", "hifigan"):
            raise InputError(f"head.kind={self.kind}: unknown; give istft or hifigan")


@dataclass(frozen=True)
class Excitation:
    """What drives the head: ``pitch`` ``[B, 2, F]`` (centred log-F0, 0 where unvoiced; voicing), pulses and noise.

    In a stream, each goes on from where it was, and they may be at different frames.
    """

    pitch_B2F: Tensor
    pulses_BT: Tensor
    noise_BT: Tensor


def overlap_add(frames_BNF: Tensor, hop_length: int) -> Tensor:
    """``[B, N, F]`` windows to ``[B, F * hop]``: window f is centred on sample ``f * hop + hop / 2``."""
    batch, size, count = frames_BNF.shape
    length = (count - 1) * hop_length + size
    summed = functional.fold(frames_BNF, (1, length), (1, size), stride=(1, hop_length)).view(batch, length)
    trim = (size - hop_length) // 2
    return summed[:, trim : trim + count * hop_length]


def centred_stft(samples_BT: Tensor, window: Tensor, hop_length: int, past: Past | None = None) -> Tensor:
    """``[B, K, F]`` complex, F = T // hop; frame f is centred on sample ``f * hop + hop / 2``, silence outside."""
    size = window.shape[0]
    trim = (size - hop_length) // 2
    samples_BT = extend(past, centred_stft, samples_BT, Context(trim, trim), size, hop_length)
    if not samples_BT.shape[1]:
        return torch.zeros(len(samples_BT), size // 2 + 1, 0, dtype=torch.complex64, device=window.device)
    return torch.stft(samples_BT, size, hop_length, window=window, center=False, return_complex=True)


class ISTFTHead(nn.Module):
    """Magnitudes and phases of STFT frames, and their inverse."""

    window: Tensor

    def __init__(
        self, config: ISTFTHeadConfig, latent_channels: int, style_size: int, n_fft: int, hop_length: int, driven: bool
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.driven = n_fft, hop_length, driven
        self.bins = n_fft // 2 + 1
        channels = config.channels
        self.enter = BoundedConv(latent_channels + (2 if driven else 0), channels, config.kernel, lookahead=1)
        self.from_style = nn.Linear(style_size, channels)
        self.blocks = nn.ModuleList(
            ConvBlock(channels, round(channels * config.widening), config.kernel, lookahead=taps)
            for taps in config.lookahead
        )
        self.norm = ChannelNorm(channels)
        self.leave = Pointwise(channels, self.bins * (3 if driven else 2))
        nn.init.normal_(self.leave.weight, std=0.02)
        assert self.leave.bias is not None
        with torch.no_grad():
            bias = torch.zeros(self.leave.bias.shape)
            bias[: self.bins] = -4.0 if driven else -1.0
            if driven:
                bias[2 * self.bins :] = -6.0
            self.leave.bias.copy_(bias)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        overlap = -(-(n_fft - hop_length) // (2 * hop_length))  # frames on each side that share samples with a frame
        reach = total_context([self.enter, *self.blocks])
        if driven:  # the excitation of a frame spans its window, and F0 is interpolated with the next frame
            reach = reach | Context(overlap + 1, overlap + 1)
        self.overlap = Context(overlap, overlap)
        self.context = reach + self.overlap

    def forward(
        self, z_BZF: Tensor, style_BS: Tensor, excitation: Excitation | None = None, mask_B1F: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:  # fmt: skip
        """``[B, T]`` samples."""
        if self.driven:
            assert excitation is not None
            z_BZF = torch.cat(join(past, "pitch", z_BZF, excitation.pitch_B2F.to(z_BZF.dtype)), dim=1)
        if mask_B1F is not None:
            z_BZF = z_BZF * mask_B1F
        x_BCF = self.enter(z_BZF, past) + of_style(past, self.from_style, style_BS)[:, :, None]
        for block in self.blocks:
            x_BCF = block(x_BCF, None, mask_B1F, past)
        parts_BPF = self.leave(self.norm(x_BCF)).float()
        with torch.autocast(z_BZF.device.type, enabled=False):
            drive: tuple[Tensor, Tensor] | None = None
            if excitation is not None and self.driven:
                signals = torch.stack(join(past, "drive", excitation.pulses_BT, excitation.noise_BT)).float()
                if mask_B1F is not None:
                    signals = signals * mask_B1F.squeeze(1).repeat_interleave(self.hop_length, dim=-1)
                pulses_BKF, noise_BKF = centred_stft(signals.flatten(0, 1), self.window, self.hop_length, past).chunk(2)
                parts_BPF, pulses_BKF, noise_BKF = join(past, "spectrum", parts_BPF, pulses_BKF, noise_BKF)
                drive = pulses_BKF, noise_BKF
            parts = parts_BPF.split(self.bins, dim=1)
            spectrum_BKF = torch.polar(parts[0].clamp(max=5.0).exp(), parts[1])
            if drive is not None:
                pulses_BKF, noise_BKF = drive
                spectrum_BKF = spectrum_BKF * pulses_BKF + parts[2].clamp(max=5.0).exp() * noise_BKF
            frames_BNF = parts_BPF.new_zeros(len(parts_BPF), self.n_fft, 0)
            if spectrum_BKF.shape[-1]:  # the FFT takes no empty batch
                frames_BNF = torch.fft.irfft(spectrum_BKF, n=self.n_fft, dim=1) * self.window[:, None]
            samples_BT, weight_BT = self._overlap_add(frames_BNF, mask_B1F, past)
            if mask_B1F is None:
                return samples_BT / weight_BT
            return samples_BT / weight_BT.clamp(min=1e-3) * mask_B1F.squeeze(1).repeat_interleave(self.hop_length, -1)

    def _overlap_add(self, frames_BNF: Tensor, mask_B1F: Tensor | None, past: Past | None) -> tuple[Tensor, Tensor]:
        """The windowed frames' sum and that of their windows' squares; frames that don't exist have no part in it."""
        weight_BNF = self.window.square()[None, :, None].expand(1, -1, frames_BNF.shape[-1])
        if mask_B1F is not None:
            frames_BNF, weight_BNF = frames_BNF * mask_B1F, weight_BNF * mask_B1F
        around, batch = self.overlap, len(frames_BNF)
        both = extend(past, "overlap", torch.cat([frames_BNF, weight_BNF]), around, around.left + 1 + around.right)
        if not both.shape[-1]:
            return both[:batch, 0], both[batch:, 0]
        inside = slice(around.left * self.hop_length, (both.shape[-1] - around.right) * self.hop_length)
        summed = overlap_add(both, self.hop_length)[:, inside]
        return summed[:batch], summed[batch:]


class ResidualUnit(nn.Module):
    """HiFi-GAN's residual block: pairs of a dilated and a plain convolution."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(BoundedConv(channels, channels, kernel, dilation=rate) for rate in dilations)
        self.plain = nn.ModuleList(BoundedConv(channels, channels, kernel) for _ in dilations)
        self.context = total_context([*self.dilated, *self.plain])

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor | None, past: Past | None = None) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            hidden = x_BCT if mask_B1T is None else x_BCT * mask_B1T
            hidden = functional.leaky_relu(dilated(functional.leaky_relu(hidden, 0.1), past), 0.1)
            if mask_B1T is not None:
                hidden = hidden * mask_B1T
            x_BCT, hidden = join(past, plain, x_BCT, plain(hidden, past))
            x_BCT = x_BCT + hidden
        return x_BCT


class Upsampler(nn.ConvTranspose1d):
    """``rate`` samples for each one; an output depends on the nearest input and its neighbours."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        assert rate % 2 == 0, "rates are even, so that samples stay centred"
        super().__init__(inputs, outputs, 2 * rate, stride=rate, padding=rate // 2)
        self.rate = rate

    def forward(self, x_BCT: Tensor, past: Past | None = None) -> Tensor:  # type: ignore[override]
        window = extend(past, self, x_BCT, Context(1, 1), 3)
        if not window.shape[-1]:
            return x_BCT.new_zeros(len(x_BCT), self.out_channels, 0)
        return super().forward(window)[..., self.rate : -self.rate]


class Downsampler(nn.Conv1d):
    """One output for every ``rate`` samples."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__(inputs, outputs, 2 * rate if rate > 1 else 1, stride=rate)
        self.rate = rate

    def forward(self, x_BCT: Tensor, past: Past | None = None) -> Tensor:
        around = Context(self.rate // 2, self.rate // 2)
        window = extend(past, self, x_BCT, around, self.kernel_size[0], self.rate)
        return super().forward(window) if window.shape[-1] else x_BCT.new_zeros(len(x_BCT), self.out_channels, 0)


class HiFiGANHead(nn.Module):
    """Transposed convolutions up to the sample rate, each followed by residual units of several kernels."""

    def __init__(
        self, config: HiFiGANHeadConfig, latent_channels: int, style_size: int, n_fft: int, hop_length: int,
        driven: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        assert prod(config.rates) == hop_length, "the product of the rates must be the hop"
        self.driven, self.last_slope = driven, config.last_slope
        self.enter = BoundedConv(latent_channels + (2 if driven else 0), config.channels, 7)
        self.from_style = nn.Linear(style_size, config.channels)
        self.upsamplers = nn.ModuleList()
        self.units = nn.ModuleList()
        self.from_source = nn.ModuleList()
        for index, rate in enumerate(config.rates):
            channels = config.channels // 2 ** (index + 1)
            self.upsamplers.append(Upsampler(2 * channels, channels, rate))
            self.units.append(
                nn.ModuleList(ResidualUnit(channels, kernel, tuple(config.dilations)) for kernel in config.kernels)
            )
            if driven:
                self.from_source.append(Downsampler(2, channels, prod(config.rates[index + 1 :])))
        self.leave = BoundedConv(channels, 1, 7, lookahead=3)
        # Walk back from the samples to the frames.
        reach = self.leave.context
        for rate, units in zip(reversed(config.rates), reversed(self.units), strict=True):
            assert isinstance(units, nn.ModuleList)
            widest = Context()
            for unit in units:
                assert isinstance(unit, ResidualUnit)
                widest = widest | unit.context
            reach = (reach + widest).coarser(rate) + Context(1, 1)
        # The excitation enters at the finer rates, not further away than the frames; F0 is interpolated over one more.
        self.context = reach + self.enter.context + (Context(2, 2) if driven else Context())

    def forward(
        self, z_BZF: Tensor, style_BS: Tensor, excitation: Excitation | None = None, mask_B1F: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:  # fmt: skip
        """``[B, T]`` samples."""
        source_B2T = None
        if self.driven:
            assert excitation is not None
            z_BZF = torch.cat(join(past, "pitch", z_BZF, excitation.pitch_B2F.to(z_BZF.dtype)), dim=1)
            source_B2T = torch.stack(join(past, "drive", excitation.pulses_BT, excitation.noise_BT), dim=1)
        mask = mask_B1F
        if mask is not None:
            z_BZF = z_BZF * mask
        x_BCT = self.enter(z_BZF, past) + of_style(past, self.from_style, style_BS)[:, :, None]
        for index, (upsampler, units) in enumerate(zip(self.upsamplers, self.units, strict=True)):
            assert isinstance(upsampler, Upsampler) and isinstance(units, nn.ModuleList)
            if mask is not None:
                x_BCT = x_BCT * mask
            x_BCT = upsampler(functional.leaky_relu(x_BCT, 0.1), past)
            if source_B2T is not None:
                x_BCT, source_BCT = join(past, upsampler, x_BCT, self.from_source[index](source_B2T, past))
                x_BCT = x_BCT + source_BCT
            if mask is not None:
                mask = mask.repeat_interleave(upsampler.rate, dim=-1)
            heard = [unit(x_BCT, mask, past) for unit in units]
            x_BCT = torch.stack(join(past, units, *heard)).mean(dim=0)
        x_BCT = functional.leaky_relu(x_BCT, self.last_slope)
        if mask is not None:
            x_BCT = x_BCT * mask
        samples_BT = torch.tanh(self.leave(x_BCT, past).float()).squeeze(1)
        return samples_BT if mask is None else samples_BT * mask.squeeze(1)


def build_head(
    config: WaveformHeadConfig, latent_channels: int, style_size: int, n_fft: int, hop_length: int, driven: bool
) -> ISTFTHead | HiFiGANHead:
    """The head that ``config.kind`` names; ``driven`` by the excitation or not."""
    if config.kind == "istft":
        return ISTFTHead(config.istft, latent_channels, style_size, n_fft, hop_length, driven)
    return HiFiGANHead(config.hifigan, latent_channels, style_size, n_fft, hop_length, driven)
