"""The style of a reference utterance as the release measures it: a style encoder on linear spectra, of unit length.

Shapes: B batch, T samples, K frequency bins, F frames, C channels, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.detokenizer.style_encoder import GatedResidual


@dataclass(frozen=True)
class ReferenceConfig:
    """Sizes of the release."""

    n_fft: int = 1024
    hop: int = 256
    channels: int = 192
    heads: int = 2
    kernel: int = 5
    layers: int = 2


class Reference(nn.Module):
    """Per-frame layers, gated convolutions, self-attention, the mean over all frames, unit length.

    Meta-StyleSpeech (Min et al. 2021, §3.1); attention is divided by the root of the model's width.
    """

    window: Tensor

    def __init__(self, config: ReferenceConfig, style_size: int) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.spectral = nn.ModuleList([nn.Linear(config.n_fft // 2 + 1, channels), nn.Linear(channels, channels)])
        self.temporal = nn.ModuleList(GatedResidual(channels, config.kernel, 0.0) for _ in range(config.layers))
        self.query, self.key, self.value, self.attended = (nn.Linear(channels, channels) for _ in range(4))
        self.leave = nn.Linear(channels, style_size)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, T]`` samples, of which the first ``lengths_B`` count, to ``[B, S]``; half a window is needed."""
        around = (self.config.n_fft - self.config.hop) // 2
        padded_BT = functional.pad(samples_BT[:, None], (around, around), mode="reflect")[:, 0]
        spectrum_BKF = torch.stft(
            padded_BT, self.config.n_fft, self.config.hop, window=self.window, center=False, return_complex=True
        )
        magnitude_BKF = (spectrum_BKF.real.square() + spectrum_BKF.imag.square() + 1e-6).sqrt()
        frames = magnitude_BKF.shape[2]
        counts_B = None if lengths_B is None else (lengths_B // self.config.hop).clamp(1, frames)
        return self.embed(magnitude_BKF, counts_B)

    def embed(self, spectrum_BKF: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """``[B, K, F]`` magnitudes, of which the first ``frames_B`` frames count, to ``[B, S]``."""
        x_BFC = spectrum_BKF.transpose(1, 2)
        for layer in self.spectral:
            x_BFC = functional.mish(layer(x_BFC))
        x_BCF = x_BFC.transpose(1, 2)
        for layer in self.temporal:
            x_BCF = layer(x_BCF)
        if frames_B is None:
            frames_B = torch.full((len(x_BCF),), x_BCF.shape[2], device=x_BCF.device)
        inside_BF = torch.arange(x_BCF.shape[2], device=x_BCF.device) < frames_B[:, None]
        x_BFC = x_BCF.transpose(1, 2) * inside_BF[..., None]
        q, k, v = (
            layer(x_BFC).unflatten(2, (self.config.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heard = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=inside_BF[:, None, None], scale=self.config.channels**-0.5
        )
        x_BFC = self.leave(x_BFC + self.attended(heard.transpose(1, 2).flatten(2)))
        mean_BS = (x_BFC * inside_BF[..., None]).sum(1) / frames_B[:, None]
        return functional.normalize(mean_BS, dim=1)
