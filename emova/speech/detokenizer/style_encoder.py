"""The style of a reference utterance as one vector (Meta-StyleSpeech, Min et al. 2021, §3.1; EMOVA A.2).

Shapes: B batch, T samples, M mel bins, F frames, C channels, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.features import LogMel, MelConfig


@dataclass(frozen=True)
class StyleEncoderConfig:
    """Sizes; ``style_size`` is S, the length of the vector."""

    style_size: int = 128
    channels: int = 96
    n_mels: int = 80
    kernel: int = 5
    temporal_layers: int = 2
    heads: int = 2
    dropout: float = 0.0


class GatedResidual(nn.Module):
    """A gated convolution over time, added to its input."""

    def __init__(self, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCF: Tensor) -> Tensor:
        return x_BCF + self.dropout(functional.glu(self.conv(x_BCF), dim=1))


class StyleEncoder(nn.Module):
    """Per-frame layers, temporal convolutions, self-attention, and the mean over all frames."""

    def __init__(self, config: StyleEncoderConfig, sample_rate: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        mel = MelConfig(sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=config.n_mels, f_max=sample_rate / 2)
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.mel = LogMel(mel)
        channels = config.channels
        self.spectral = nn.Sequential(
            nn.Linear(config.n_mels, channels), nn.Mish(), nn.Dropout(config.dropout),
            nn.Linear(channels, channels), nn.Mish(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.temporal = nn.ModuleList(
            GatedResidual(channels, config.kernel, config.dropout) for _ in range(config.temporal_layers)
        )
        self.attention = nn.MultiheadAttention(channels, config.heads, dropout=config.dropout, batch_first=True)
        self.leave = nn.Linear(channels, config.style_size)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, T]`` samples, of which the first ``lengths_B`` exist, to ``[B, S]``; at least one frame is needed."""
        mel_BMF = self.mel(samples_BT)
        frames = mel_BMF.shape[-1]
        assert frames > 0, "a style needs at least one frame of speech"
        padding_BF = None
        if lengths_B is not None:
            counts_B = (lengths_B // self.hop_length).clamp(1, frames)
            padding_BF = torch.arange(frames, device=mel_BMF.device)[None] >= counts_B[:, None]
        return self.embed(mel_BMF, padding_BF)

    def embed(self, mel_BMF: Tensor, padding_BF: Tensor | None = None) -> Tensor:
        """``[B, M, F]`` log-mel frames to ``[B, S]``; frames where ``padding_BF`` is True do not exist."""
        x_BFC = self.spectral(mel_BMF.transpose(1, 2))
        keep_BF1 = None if padding_BF is None else (~padding_BF)[..., None].to(x_BFC.dtype)
        x_BCF = x_BFC.transpose(1, 2)
        for layer in self.temporal:
            if keep_BF1 is not None:
                x_BCF = x_BCF * keep_BF1.transpose(1, 2)
            x_BCF = layer(x_BCF)
        x_BFC = x_BCF.transpose(1, 2)
        attended_BFC, _ = self.attention(x_BFC, x_BFC, x_BFC, key_padding_mask=padding_BF, need_weights=False)
        vectors_BFS = self.leave(x_BFC + attended_BFC).float()
        if keep_BF1 is None:
            return vectors_BFS.mean(dim=1)
        return (vectors_BFS * keep_BF1).sum(dim=1) / keep_BF1.sum(dim=1)
