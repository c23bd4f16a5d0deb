"""The features of the released tokenizer: log-mel frames normalised by the statistics of the whole clip.

They follow the filter bank featuriser of NeMo that SPIRAL was trained with. Whole clips only: the peak and the mean of
each feature are those of the clip.

Shapes: B batch, T samples, M mel bins, F frames, K frequency bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.features import MelConfig, mel_filters

PREEMPHASIS = 0.97
LOG_GUARD = 2.0**-24
EPSILON = 1e-5


@dataclass(frozen=True)
class FeatureConfig:
    """Frames of the released tokenizer; ``multiple`` is what their number is filled up to."""

    sample_rate: int = 16_000  # Hz
    n_fft: int = 512  # samples
    window: int = 320  # samples
    hop: int = 160  # samples
    mels: int = 128
    multiple: int = 16  # frames


class ClipLogMel(nn.Module):
    """Waveforms to normalised log-mel frames; filter bank and window are part of the weights."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        mel = MelConfig(sample_rate=config.sample_rate, n_fft=config.n_fft, hop_length=config.hop, n_mels=config.mels)
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.register_buffer("window", torch.hann_window(config.window, periodic=False))
            self.register_buffer("filters", mel_filters(mel))

    def forward(self, samples_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, T]`` float32 samples, of which the first ``lengths_B`` count, to ``[B, M, F]`` and frames a row.

        Each row is divided by its peak, and statistics are those of its own frames. T must be more than half of
        ``n_fft``, for the beginning and the end are mirrored.
        """
        config = self.config
        frames_B = -(-lengths_B // config.hop)
        samples_BT = samples_BT / (samples_BT.abs().amax(dim=1, keepdim=True) + EPSILON)
        samples_BT = torch.cat([samples_BT[:, :1], samples_BT[:, 1:] - PREEMPHASIS * samples_BT[:, :-1]], dim=1)
        spectrum_BKF = torch.stft(
            samples_BT, config.n_fft, config.hop, config.window, self.window, center=True, pad_mode="reflect",
            return_complex=True,
        )  # fmt: skip
        log_BMF = (self.filters @ spectrum_BKF.abs().square() + LOG_GUARD).log()
        inside_B1F = (torch.arange(log_BMF.shape[2], device=log_BMF.device) < frames_B[:, None])[:, None]
        count_B11 = frames_B[:, None, None]
        mean_BM1 = (log_BMF * inside_B1F).sum(2, keepdim=True) / count_B11
        spread_BM1 = ((log_BMF - mean_BM1).square() * inside_B1F).sum(2, keepdim=True) / (count_B11 - 1).clamp(min=1)
        normal_BMF = (log_BMF - mean_BM1) / (spread_BM1.sqrt() + EPSILON) * inside_B1F
        return functional.pad(normal_BMF, (0, -normal_BMF.shape[2] % config.multiple)), frames_B
