"""The conditional VAE between units and sound (VITS, Kim et al. 2021; EMOVA A.2, Fig. 7).

Units keep their rate, so there is no alignment search and no duration predictor: a unit is exactly
``frames_per_unit`` latent frames. A pitch predictor and a harmonic excitation (optional) make the asked pitch certain.

Shapes: B batch, U units, F frames, T samples, Z latent channels, K frequency bins, C channels, S style channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from emova.speech.detokenizer.flow import Flow, FlowConfig
from emova.speech.detokenizer.layers import Context, ConvBlock, Past, Pointwise, WaveNet, join, total_context
from emova.speech.detokenizer.source import MAX_F0, MIN_F0, PitchFrame, pulse_train
from emova.speech.detokenizer.unit_encoder import UnitEncoder, UnitEncoderConfig
from emova.speech.detokenizer.waveform_heads import (
    Excitation,
    WaveformHeadConfig,
    build_head,
    centred_stft,
)

LOG_F0_CENTRE = math.log(180.0)


@dataclass(frozen=True)
class PitchConfig:
    """The pitch predictor and the excitation; ``enabled=False`` leaves plain VITS."""

    enabled: bool = True
    hidden: int = 256
    kernel: int = 5
    dilations: tuple[int, ...] = (1, 2)
    lookahead: tuple[int, ...] = (1, 0)


@dataclass(frozen=True)
class VITSConfig:
    """Frames of ``hop_length`` samples, ``frames_per_unit`` of them a unit; the parts' own sizes below."""

    sample_rate: int = 24000  # Hz
    hop_length: int = 240  # samples
    n_fft: int = 960  # samples
    frames_per_unit: int = 4
    latent_channels: int = 64
    units: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    pitch: PitchConfig = field(default_factory=PitchConfig)
    head: WaveformHeadConfig = field(default_factory=WaveformHeadConfig)


@dataclass(frozen=True)
class Prior:
    """What the units say of the frames: a Gaussian in the flow's space, and the pitch if it is predicted.

    In a stream, the Gaussian and the pitch may be at different frames.
    """

    mean_BZF: Tensor
    log_scale_BZF: Tensor
    log_f0_BF: Tensor | None  # log of Hz, also where unvoiced
    voicing_BF: Tensor | None  # logit
    level_B: Tensor | None  # the style's mean log-F0

    def crop(self, start: int, end: int) -> Prior:
        """The frames from ``start`` to ``end``."""

        def cut(x: Tensor | None) -> Tensor | None:
            return x[..., start:end] if x is not None else None

        mean_BZF, log_scale_BZF = self.mean_BZF[..., start:end], self.log_scale_BZF[..., start:end]
        return Prior(mean_BZF, log_scale_BZF, cut(self.log_f0_BF), cut(self.voicing_BF), self.level_B)


class PitchPredictor(nn.Module):
    """Log-F0 and voicing of each frame from the unit encoder's hidden frames and the style.

    Log-F0 is a level, which the style alone decides, and a contour around it. A contour that was fitted by regression
    is flatter than speech, most in the liveliest styles. ``contour_gain`` holds the weights and, last, the bias of the
    logarithm of a factor on the contour, linear in the style: zeros (a factor of 1) in training, measured afterwards.
    """

    contour_gain: Tensor

    def __init__(self, config: PitchConfig, channels: int, style_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(channels, config.hidden, config.kernel, dilation=dilation, lookahead=taps, style_size=style_size)
            for dilation, taps in zip(config.dilations, config.lookahead, strict=True)
        )
        self.leave = Pointwise(channels, 2)
        self.level = nn.Linear(style_size, 1)
        nn.init.zeros_(self.level.bias)
        self.register_buffer("contour_gain", torch.zeros(style_size + 1))
        self.context = total_context(self.blocks)

    def forward(
        self, x_BCF: Tensor, style_BS: Tensor, mask_B1F: Tensor | None = None, past: Past | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-F0 and the voicing logit, each ``[B, F]``, and the level of log-F0 ``[B]``."""
        for block in self.blocks:
            x_BCF = block(x_BCF, style_BS, mask_B1F, past)
        contour_BF, voicing_BF = self.leave(x_BCF).float().unbind(dim=1)
        level_B1 = self.level(style_BS).float() + LOG_F0_CENTRE
        return level_B1 + self.gain(style_BS)[:, None] * contour_BF, voicing_BF, level_B1.squeeze(1)

    def gain(self, style_BS: Tensor) -> Tensor:
        """The factor ``[B]`` on the contour."""
        weights_S, bias = self.contour_gain[:-1], self.contour_gain[-1]
        return ((style_BS.float() * weights_S).sum(dim=1) + bias).exp().clamp(0.8, 2.0)


class VITS(nn.Module):
    """The parts that speak: units' prior, flow, pitch, waveform head."""

    def __init__(self, config: VITSConfig, style_size: int) -> None:
        super().__init__()
        self.config = config
        self.unit_encoder = UnitEncoder(config.units, config.frames_per_unit, config.latent_channels, style_size)
        self.flow = Flow(config.latent_channels, config.flow, style_size)
        self.pitch = PitchPredictor(config.pitch, config.units.channels, style_size) if config.pitch.enabled else None
        self.head = build_head(
            config.head, config.latent_channels, style_size, config.n_fft, config.hop_length, config.pitch.enabled
        )
        branches = self.flow.context | (self.pitch.context if self.pitch is not None else Context())
        # Units around a unit that decide its samples.
        self.context: Context = self.unit_encoder.unit_context + (
            self.unit_encoder.frame_context + branches + self.head.context
        ).coarser(config.frames_per_unit)

    def prior(
        self, units_BU: Tensor, style_BS: Tensor, mask_B1U: Tensor | None = None, keep: tuple[int, int] | None = None,
        past: Past | None = None,
    ) -> Prior:  # fmt: skip
        """The prior of the frames of the units ``keep[0]:keep[1]`` (all if None)."""
        hidden_BCF, mean_BZF, log_scale_BZF = self.unit_encoder(units_BU, style_BS, mask_B1U, keep, past)
        if self.pitch is None:
            return Prior(mean_BZF, log_scale_BZF, None, None, None)
        mask_B1F = self._frame_mask(mask_B1U, keep)
        log_f0_BF, voicing_BF, level_B = self.pitch(hidden_BCF, style_BS, mask_B1F, past)
        return Prior(mean_BZF, log_scale_BZF, log_f0_BF, voicing_BF, level_B)

    def _frame_mask(self, mask_B1U: Tensor | None, keep: tuple[int, int] | None) -> Tensor | None:
        if mask_B1U is None:
            return None
        start, end = keep or (0, mask_B1U.shape[-1])
        return mask_B1U[..., start:end].repeat_interleave(self.config.frames_per_unit, dim=-1)

    def latents(
        self, prior: Prior, style_BS: Tensor, noise_BZF: Tensor | None, mask_B1F: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:  # fmt: skip
        """A draw from the prior (its mean if ``noise_BZF`` is None) in the head's space."""
        z_BZF = prior.mean_BZF
        if noise_BZF is not None:
            z_BZF, log_scale_BZF, noise_BZF = join(past, self, z_BZF, prior.log_scale_BZF, noise_BZF)
            z_BZF = z_BZF + log_scale_BZF.exp() * noise_BZF
        return self.flow.inverse(z_BZF, style_BS, mask_B1F, past)

    def excite(
        self, f0_BF: Tensor, voiced_BF: Tensor, phase_BF: Tensor, noise_BT: Tensor, before: PitchFrame | None = None,
        ends: bool = True,
    ) -> Excitation:  # fmt: skip
        """The head's drive for frames of F0 (Hz), voicing (bool) and phase (cycles); for the last two arguments see
        ``pulse_train``."""
        with torch.autocast(f0_BF.device.type, enabled=False):
            log_f0_BF = (f0_BF.clamp(MIN_F0, MAX_F0).log() - LOG_F0_CENTRE) * voiced_BF
            rates = self.config.sample_rate, self.config.hop_length
            pulses_BT = pulse_train(f0_BF, voiced_BF, phase_BF, *rates, before, ends)
            return Excitation(torch.stack([log_f0_BF, voiced_BF.to(log_f0_BF.dtype)], dim=1), pulses_BT, noise_BT)


@dataclass(frozen=True)
class PosteriorEncoderConfig:
    """Sizes of the posterior encoder, which is used in training only."""

    channels: int = 96
    kernel: int = 5
    layers: int = 6


class PosteriorEncoder(nn.Module):
    """The sound's linear spectrogram to the posterior of the latent frames (VITS §2.1.1)."""

    window: Tensor

    def __init__(self, config: PosteriorEncoderConfig, vits: VITSConfig, style_size: int) -> None:
        super().__init__()
        self.hop_length = vits.hop_length
        self.enter = Pointwise(vits.n_fft // 2 + 1, config.channels)
        self.net = WaveNet(config.channels, config.kernel, config.layers, style_size)
        self.leave = Pointwise(config.channels, 2 * vits.latent_channels)
        self.register_buffer("window", torch.hann_window(vits.n_fft), persistent=False)

    def forward(self, samples_BT: Tensor, style_BS: Tensor, mask_B1F: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log scale ``[B, Z, F]`` of the posterior, F = T // hop."""
        with torch.autocast(samples_BT.device.type, enabled=False):
            magnitude_BKF = centred_stft(samples_BT.float(), self.window, self.hop_length).abs()
            spectrum_BKF = (magnitude_BKF + 1e-4).log() * 0.25
        hidden = self.net(self.enter(spectrum_BKF), style_BS, mask_B1F)
        mean_BZF, log_scale_BZF = self.leave(hidden).float().chunk(2, dim=1)
        return mean_BZF, log_scale_BZF.clamp(-6.0, 3.0)
