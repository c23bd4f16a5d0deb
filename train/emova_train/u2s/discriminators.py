"""Discriminators on complex spectra at several resolutions (as EnCodec, Défossez et al. 2022), small; HiFi-GAN's beside
them where a config wants them.

Shapes: B batch, T samples, K frequency bins, F frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova_train.u2s.hifigan_discriminators import PeriodDiscriminator, ScaleDiscriminator
from emova_train.u2s.losses import discriminator_term, feature_term, generator_term


@dataclass(frozen=True)
class DiscriminatorConfig:
    """One discriminator for each window ``size`` (samples; the hop is a quarter), and HiFi-GAN's: one for each period
    (2, 3, 5, 7, 11 in the paper) and one for each of ``scales`` resolutions (3 in the paper)."""

    sizes: tuple[int, ...] = (1920, 960, 480)
    channels: tuple[int, ...] = (16, 32, 32, 32)
    strides: tuple[int, ...] = (3, 3, 2, 2)  # over frequency
    periods: tuple[int, ...] = ()
    period_channels: int = 32
    scales: int = 0
    scale_channels: int = 128


class SpectrumDiscriminator(nn.Module):
    """2-D convolutions over the real and imaginary part of one STFT, its magnitudes compressed by a square root."""

    window: Tensor

    def __init__(self, size: int, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.layers = nn.ModuleList()
        inputs = 2
        for index, (outputs, stride) in enumerate(zip(channels, strides, strict=True)):
            kernel = (7, 3) if index == 0 else (5, 3)
            padding = (kernel[0] // 2, 1)
            self.layers.append(nn.Conv2d(inputs, outputs, kernel, stride=(stride, 1), padding=padding))
            inputs = outputs
        self.leave = nn.Conv2d(inputs, 1, (3, 3), padding=1)

    def forward(self, samples_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the hidden maps."""
        with torch.autocast(samples_BT.device.type, enabled=False):
            spectrum_BKF = torch.stft(
                samples_BT.float(), self.size, self.size // 4, window=self.window, return_complex=True
            ) * (2.0 / self.size**0.5)  # fmt: skip
            both = torch.stack([spectrum_BKF.real, spectrum_BKF.imag], dim=1)
            both = both * (both.square().sum(dim=1, keepdim=True) + 1e-4).pow(-0.25)
        maps = []
        for layer in self.layers:
            both = functional.leaky_relu(layer(both), 0.1)
            maps.append(both)
        return self.leave(both).float(), maps


class Discriminators(nn.Module):
    """All resolutions."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            SpectrumDiscriminator(size, tuple(config.channels), tuple(config.strides)) for size in config.sizes
        )
        self.parts.extend(PeriodDiscriminator(period, config.period_channels) for period in config.periods)
        self.parts.extend(ScaleDiscriminator(halvings, config.scale_channels) for halvings in range(config.scales))

    def forward(self, samples_BT: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Scores and hidden maps of each part."""
        results = [part(samples_BT) for part in self.parts]
        return [scores for scores, _ in results], [maps for _, maps in results]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """What runs inside records no gradient for these parameters, but lets it pass to the input."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters():
                parameter.requires_grad_(True)


class AdversarialWeights(Protocol):
    """Of a voice's losses, what concerns its discriminators: weights, and the step from which they grow."""

    @property
    def adversarial(self) -> float: ...
    @property
    def feature(self) -> float: ...
    @property
    def adversarial_start(self) -> int: ...
    @property
    def adversarial_ramp(self) -> int: ...


def adversarial_loss(
    discriminators: Discriminators, fake_BT: Tensor, real_BT: Tensor, weights: AdversarialWeights, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a voice and its discriminators learn from each other, in one sum whose gradients do not meet; its terms."""
    with discriminators.frozen():
        with torch.no_grad():
            _, real_maps = discriminators(real_BT)
        fake_scores, fake_maps = discriminators(fake_BT)
        terms = {"adversarial": generator_term(fake_scores), "feature": feature_term(real_maps, fake_maps)}
    scores, _ = discriminators(torch.cat([real_BT, fake_BT.detach()]))
    halves = [score.chunk(2) for score in scores]
    terms["discriminator"] = discriminator_term([half[0] for half in halves], [half[1] for half in halves])
    ramp = min(1.0, (step - weights.adversarial_start + 1) / max(1, weights.adversarial_ramp))
    voice = weights.adversarial * terms["adversarial"] + weights.feature * terms["feature"]
    return terms["discriminator"] + ramp * voice, terms
