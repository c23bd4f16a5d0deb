"""What speech tokenizers on log-mel frames have in common: their rates, and whole units from recordings of any length.

Shapes: B batch, T samples, U units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.features import LogMel, MelConfig


class MelTokenizer(nn.Module):
    """A ``SpeechTokenizer`` but for ``indices``, ``codebook_size`` and ``streaming``."""

    unit_samples: int
    """Samples a unit."""

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.mel = LogMel(mel)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel.config.sample_rate

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.mel.buffers()).device

    @property
    def unit_rate(self) -> float:
        """Units a second."""
        return self.sample_rate / self.unit_samples

    def indices(self, samples_BT: Tensor, units_B: Tensor) -> Tensor:
        """The units of samples that ``padded`` filled up, ``[B, U]`` int64; behind ``units_B`` they mean nothing."""
        raise NotImplementedError

    def padded(self, samples_BT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Silence up to a whole number of units, and the number of units of each row."""
        if samples_BT.dim() != 2:
            raise InputError(f"samples have shape {list(samples_BT.shape)}; the tokenizer takes [batch, samples]")
        if lengths_B is None:
            lengths_B = torch.full((samples_BT.shape[0],), samples_BT.shape[1], device=samples_BT.device)
        units_B = -(-lengths_B // self.unit_samples)
        inside = torch.arange(samples_BT.shape[1], device=samples_BT.device)[None] < lengths_B[:, None]
        wanted = int(units_B.max()) * self.unit_samples if len(units_B) else 0
        samples_BT = (samples_BT.float() * inside)[:, :wanted]
        return functional.pad(samples_BT, (0, wanted - samples_BT.shape[1])), units_B

    @torch.inference_mode()
    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """``[B, T]`` at 16 kHz, of which the first ``lengths[b]`` samples count, to ceil(length / 640) units a row.

        A row's units do not depend on what else is in the batch.

        Raises:
            InputError: ``samples`` is not two-dimensional.
        """
        padded_BT, units_B = self.padded(samples, lengths)
        if padded_BT.shape[1] == 0:
            return [torch.zeros(0, dtype=torch.long, device=samples.device) for _ in units_B]
        indices_BU = self.indices(padded_BT, units_B)
        return [row[:count].clone() for row, count in zip(indices_BU, units_B.tolist(), strict=True)]
