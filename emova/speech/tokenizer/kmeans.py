"""Units by k-means on log-mel frames: the entangled tokenizer that EMOVA section 4.1 compares with.

A unit is the nearest of K centres to one 40 ms stretch of the spectrum: speaker, pitch and loudness decide it as much
as what is said does. The paper clusters HuBERT's features; these keep more of the voice and know less of phones.

Shapes: B batch, T samples, M mel bins, F frames, U units, D dimensions after the projection, K centres.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.features import MelConfig
from emova.speech.tokenizer.base import RecordingStream
from emova.speech.tokenizer.mel_tokenizer import MelTokenizer

KIND = "kmeans"


@dataclass(frozen=True)
class KMeansConfig:
    """The defaults give 25 units a second and as many of them as emova-nano's vocabulary has."""

    kind: str = KIND
    mel: MelConfig = field(default_factory=MelConfig)
    frames: int = 4
    """Mel frames a unit."""
    dimensions: int = 64
    """Principal components that distances are measured in."""
    clusters: int = 4096

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")


class KMeansTokenizer(MelTokenizer[KMeansConfig]):
    """Speech to the nearest centres, whole or as a stream; a ``SpeechTokenizer``, trained by
    ``emova_train.s2u.kmeans``."""

    config_class: ClassVar = KMeansConfig
    mean: Tensor
    projection: Tensor
    centres: Tensor

    def __init__(self, config: KMeansConfig) -> None:
        super().__init__(config, config.mel)
        width = config.frames * config.mel.n_mels
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, config.dimensions))
        self.register_buffer("centres", torch.zeros(config.clusters, config.dimensions))
        self.unit_samples = config.mel.hop_length * config.frames

    @property
    def codebook_size(self) -> int:
        return self.config.clusters

    def stretches(self, mel_BMF: Tensor) -> Tensor:
        """Mel frames, a multiple of ``config.frames``, to what one unit sees, ``[B, U, frames * M]``."""
        return mel_BMF.transpose(1, 2).unflatten(1, (-1, self.config.frames)).flatten(2)

    def nearest(self, mel_BMF: Tensor) -> Tensor:
        """The units of mel frames, ``[B, U]`` int64."""
        points_BUD = (self.stretches(mel_BMF) - self.mean) @ self.projection
        # |p - c|^2 without |p|^2, which is the same for all centres.
        return (self.centres.square().sum(1) - 2 * points_BUD @ self.centres.T).argmin(-1)

    def indices(self, samples_BT: Tensor, units_B: Tensor) -> Tensor:
        return self.nearest(self.mel(samples_BT))

    @contextmanager
    def streaming(self, batch_size: int = 1) -> Iterator[KMeansStream]:
        """Units while the recording goes on."""
        yield KMeansStream(self, batch_size)


class KMeansStream(RecordingStream):
    """The state of recordings that advance together; a unit comes out with the last sample of its last window."""

    def __init__(self, model: KMeansTokenizer, batch_size: int) -> None:
        super().__init__(batch_size, model.centres.device, lead=model.config.mel.n_fft // 2)
        self.model = model

    def advance(self) -> Tensor:
        """The certain units, ``[B, U]``; at the end the last one is filled up with silence."""
        mel, size = self.model.config.mel, self.model.unit_samples
        half = mel.n_fft // 2
        if self.ended:
            self.pending_BT = functional.pad(self.pending_BT, (0, -self.taken % size + half))
            return self._units((self.pending_BT.shape[1] - 2 * half) // size)
        frames = max(0, (self.pending_BT.shape[1] - mel.n_fft) // mel.hop_length + 1)
        return self._units(frames // self.model.config.frames)

    def _units(self, count: int) -> Tensor:
        if not count:
            return torch.zeros(len(self.pending_BT), 0, dtype=torch.long)
        mel, frames = self.model.config.mel, count * self.model.config.frames
        used = self.pending_BT[:, : (frames - 1) * mel.hop_length + mel.n_fft]
        self.pending_BT = self.pending_BT[:, frames * mel.hop_length :]
        return self.model.nearest(self.model.mel.windows(used)[..., :frames])
