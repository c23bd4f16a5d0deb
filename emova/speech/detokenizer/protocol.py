"""What the rest of the code knows of a decoder from units to sound.

Shapes: B batch, U units, N new units, T samples, S style channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from emova.core.streams import Stream


@runtime_checkable
class SpeechStream(Stream[Tensor, Tensor], Protocol):
    """One voice (or B voices in step) that is fed units as they are written and gives sound as soon as it is certain.

    The pieces, joined, equal the offline ``decode`` of all units within float tolerance.
    """

    def step(self, units_BN: Tensor, /) -> Tensor:
        """Take N >= 0 new units; give the samples ``[B, t]`` that no later unit can change (t may be 0)."""
        ...

    def finish(self, units_BN: Tensor | None = None) -> Tensor:
        """Take the last units, if there are more; give with theirs the samples ``[B, t]`` that were held back."""
        ...


@runtime_checkable
class SpeechDetokenizer(Protocol):
    """Units and a style vector to a waveform."""

    sample_rate: int  # Hz of the waveform
    unit_rate: float  # units a second
    codebook_size: int  # units lie in [0, codebook_size)
    style_size: int  # S

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def lookahead_units(self) -> int:
        """Units that must follow a unit before its sound is certain."""
        ...

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder that ``save_pretrained`` wrote, ready for inference. Raises: InputError."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, which names the kind, and the weights as safetensors."""
        ...

    def to(self, device: str) -> Self:
        """Compute on ``device``."""
        ...

    def embed_style(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, S]`` style vectors of reference speech at ``sample_rate``."""
        ...

    def decode(self, units_BU: Tensor, style_BS: Tensor) -> Tensor:
        """``[B, U * sample_rate / unit_rate]`` samples in [-1, 1]."""
        ...

    def streaming(self, style_BS: Tensor) -> SpeechStream:
        """A new stream in the given style; streams of one decoder don't know of each other."""
        ...
