"""A vocoder whose harmonics come from its source by construction: harmonics and noise, each through a learnt filter.

After harmonic-plus-noise synthesis (DDSP, Engel et al. 2020, §3) with the F0 predictor of HiFTNet (Li et al. 2023):
pulses at the F0 that is read in the mel frames, and white noise, are shaped in each frame by gains that are read there
too. Nothing has to learn how a phase goes on, so that a voice keeps its pitch after little training.

Shapes: B batch, M mel bins, F frames, T = F * hop samples, C channels, N harmonics, K bins of the transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.hift import Pitch


@dataclass(frozen=True)
class HarmonicConfig:
    """Sizes.

    Attributes:
        channels, layers: of the convolutions that read the gains.
        harmonics: at most, beside the fundamental; those above half the sampling rate are left out.
        pitch_channels: of the F0 predictor.
        voiced: Hz above which a frame is voiced.
        limit: of the samples.
        mels, sample_rate, n_fft, hop: as of the decoder's mel frames.
    """

    channels: int = 192
    layers: int = 3
    harmonics: int = 79
    pitch_channels: int = 192
    voiced: float = 60.0
    limit: float = 0.99
    mels: int = 80
    sample_rate: int = 24_000
    n_fft: int = 960
    hop: int = 240

    def __post_init__(self) -> None:
        sizes = (self.channels, self.pitch_channels, self.mels, self.sample_rate, self.n_fft, self.hop)
        if min(sizes) < 1 or min(self.layers, self.harmonics) < 0 or self.layers > 8:
            raise InputError("harmonic: no such sizes; give 1 or more, and at most 8 layers")
        if self.n_fft % self.hop or not 2 <= self.n_fft // self.hop <= 8:
            raise InputError(f"harmonic.n_fft={self.n_fft}: give 2 to 8 times hop, {self.hop}")


class HarmonicNoise(nn.Module):
    """Mel frames and what drives them to sound."""

    window: Tensor
    draws = 1
    """Random numbers of a sample."""

    def __init__(self, config: HarmonicConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.pitch = Pitch(config.mels, config.pitch_channels)
        self.enter = nn.Conv1d(config.mels, config.channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv1d(config.channels, config.channels, 3, padding=1) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in range(config.layers))
        self.leave = nn.Conv1d(config.channels, 2 * (config.n_fft // 2 + 1), 1)
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias, -4.0)  # as quiet as speech is beside its source

    def source(self, f0_BF: Tensor, turns_B: Tensor, phases_BN: Tensor, noise_BNT: Tensor) -> tuple[Tensor, Tensor]:
        """Pulses and noise, ``[B, 2, T]``, and where the fundamental is at their end.

        Args:
            f0_BF: Hz.
            turns_B: where the fundamental is at its beginning, in turns, float64.
            phases_BN: not heard here: harmonics that begin together are pulses, as a voice has them.
            noise_BNT: standard normal, of which one is heard.
        """
        config = self.config
        f0_BT = f0_BF.repeat_interleave(config.hop, dim=1)
        # In float64, so that the phase of a long reply is as exact as that of a short one.
        turns_BT = turns_B[:, None] + (f0_BT.double() / config.sample_rate).cumsum(1)
        voiced_BT = f0_BT > config.voiced
        # Between tensors a division is exact: a harmonic at half the sampling rate must not slip in.
        highest = torch.full_like(f0_BT, config.sample_rate / 2) / f0_BT.clamp(min=config.voiced)
        count_BT = (torch.ceil(highest) - 1).clamp(0, config.harmonics + 1).double()
        # The sum of so many cosines (Dirichlet's kernel), as many as there are where they all are 1.
        half_BT = math.pi * (turns_BT % 1)
        below_BT = half_BT.sin()
        at_once = below_BT.abs() < 1e-9
        sum_BT = ((2 * count_BT + 1) * half_BT).sin() / (2 * below_BT.masked_fill(at_once, 1.0)) - 0.5
        sum_BT = torch.where(at_once, count_BT, sum_BT) * voiced_BT
        pulses_BT = (sum_BT * (2 / count_BT.clamp(min=1)).sqrt()).float()  # as loud as the noise
        end_B = turns_BT[:, -1] % 1 if turns_BT.shape[1] else turns_B
        return torch.stack([pulses_BT, noise_BNT[:, 0]], dim=1), end_B

    def forward(self, mel_BMF: Tensor, source_B2T: Tensor) -> Tensor:
        """``[B, M, F]`` and what drives it to ``[B, T]`` in [-limit, limit]."""
        config, (batch, _, length) = self.config, source_B2T.shape
        x_BCF = self.enter(mel_BMF)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x_BCF = x_BCF + layer(functional.gelu(norm(x_BCF.transpose(1, 2)).transpose(1, 2)))
        gains_BKF = functional.pad(self.leave(functional.gelu(x_BCF)).float(), (0, 1), mode="replicate")
        gains_B2KF = gains_BKF.clamp(max=6.0).exp().unflatten(1, (2, -1))
        spectrum = torch.stft(
            source_B2T.flatten(0, 1), config.n_fft, config.hop, window=self.window, center=True, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        shaped_BKF = (spectrum.unflatten(0, (batch, 2)) * gains_B2KF).sum(1)
        samples_BT = torch.istft(shaped_BKF, config.n_fft, config.hop, window=self.window, center=True, length=length)
        return samples_BT.clamp(-config.limit, config.limit)
