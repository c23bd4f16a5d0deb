"""What the unit-to-speech decoder is trained to bring down.

Shapes: B batch, T samples, F frames, Z latent channels, M mel bins, K frequency bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.features import MelConfig, mel_filters


class SpectralLoss(nn.Module):
    """L1 of log-mel and of log-magnitude spectra at several resolutions, from one STFT each."""

    def __init__(self, sample_rate: int, sizes: Sequence[int], mels: Sequence[int], floor: float = 1e-5) -> None:
        super().__init__()
        self.sizes, self.floor = tuple(sizes), floor
        for size, count in zip(sizes, mels, strict=True):
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            config = MelConfig(sample_rate, n_fft=size, hop_length=size // 4, n_mels=count, f_max=sample_rate / 2)
            filters = mel_filters(config)
            # Rows that sum to one: a bin is a weighted mean of magnitudes.
            filters = filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-8)
            self.register_buffer(f"filters_{size}", filters, persistent=False)

    def magnitudes(self, samples_BT: Tensor, size: int) -> Tensor:
        """``[B, K, F]``"""
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(samples_BT, size, size // 4, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()

    def forward(self, fake_BT: Tensor, real_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The mel term and the magnitude term, means over the resolutions."""
        mel_terms, magnitude_terms = [], []
        with torch.autocast(fake_BT.device.type, enabled=False):
            for size in self.sizes:
                filters = getattr(self, f"filters_{size}")
                fake, real = self.magnitudes(fake_BT.float(), size), self.magnitudes(real_BT.float(), size)
                scale = 2.0 / size**0.5  # a size-independent level
                mel_fake, mel_real = filters @ fake * scale, filters @ real * scale
                floor = self.floor
                mel_terms.append(functional.l1_loss(mel_fake.clamp(min=floor).log(), mel_real.clamp(min=floor).log()))
                magnitude_terms.append(functional.l1_loss((fake * scale + 1e-3).log(), (real * scale + 1e-3).log()))
        return torch.stack(mel_terms).mean(), torch.stack(magnitude_terms).mean()


def kl_term(
    z_BZF: Tensor, posterior_log_scale_BZF: Tensor, prior_mean_BZF: Tensor, prior_log_scale_BZF: Tensor,
    mask_B1F: Tensor,
) -> Tensor:  # fmt: skip
    """KL between posterior and prior in the flow's space, by one draw ``z`` (VITS eq. 3); a mean over bins."""
    ratio = prior_log_scale_BZF - posterior_log_scale_BZF - 0.5
    distance = 0.5 * (z_BZF - prior_mean_BZF).square() * torch.exp(-2.0 * prior_log_scale_BZF)
    return ((ratio + distance) * mask_B1F).sum() / (mask_B1F.sum() * z_BZF.shape[1]).clamp(min=1)


def pitch_terms(
    log_f0_BF: Tensor, voicing_BF: Tensor, level_B: Tensor, f0_BF: Tensor, voiced_BF: Tensor, f0_level_B: Tensor,
    mask_BF: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """L1 of log-F0 (a tenth where unvoiced, whose F0 is interpolated), cross-entropy of voicing, L1 of the level."""
    weight_BF = mask_BF * torch.where(voiced_BF, 1.0, 0.1)
    f0_term = ((log_f0_BF - f0_BF.log()).abs() * weight_BF).sum() / weight_BF.sum().clamp(min=1)
    cross = functional.binary_cross_entropy_with_logits(voicing_BF, voiced_BF.float(), reduction="none")
    voicing_term = (cross * mask_BF).sum() / mask_BF.sum().clamp(min=1)
    return f0_term, voicing_term, (level_B - f0_level_B).abs().mean()


def discriminator_term(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Least squares: real to 1, fake to 0 (mean over discriminators)."""
    terms = [(1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_term(fake: Sequence[Tensor]) -> Tensor:
    """Least squares: fake to 1."""
    return torch.stack([(1 - f).square().mean() for f in fake]).mean()


def feature_term(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 between the discriminators' hidden maps, relative to the real ones' size."""
    terms = [
        (f.float() - r.float().detach()).abs().mean() / r.float().detach().abs().mean().clamp(min=1e-3)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).mean()
