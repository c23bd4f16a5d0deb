"""The released speech-to-unit tokenizer as a ``SpeechTokenizer``, whole or block by block.

Its attention sees the whole clip and its features are normalised by the clip, so the units of a recording are certain
when it has ended. With ``block_units`` it hears windows instead, each as a clip of its own, and streams.

Shapes: B batch, T samples, U units, C dimensions of a code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.tokenizer.base import RecordingStream, TokenizerModule, WaitingStream
from emova.speech.tokenizer.emova_s2u.encoder import ConvConfig, Encoder, StageConfig
from emova.speech.tokenizer.emova_s2u.features import ClipLogMel, FeatureConfig

KIND = "emova_s2u"
UNIT_SET = "40ms_multilingual_8888"
"""How the release calls its units."""
LONGEST, PIECE = 960_000, 1_600_000
"""Samples: what is longer than the first is heard in pieces of the second, as the release does it."""


def _released_stages() -> list[StageConfig]:
    first = [ConvConfig(384, 5, 2), ConvConfig(512, 5, 2), ConvConfig(512, 1, active=False)]
    second = [ConvConfig(1536, 5), ConvConfig(768, 1, active=False)]
    return [StageConfig(first, 2, 8, 2048), StageConfig(second, 10, 12, 3072)]


@dataclass(frozen=True)
class EmovaS2UConfig:
    """The defaults are the release's.

    Attributes:
        levels: of each dimension of a code, an even number.
        joined: a run of one unit is one unit, as the released language models read and write them.
        block_units: 0 hears a recording as one clip. Else so many units (40 ms each) are certain at a time, and each
            block is heard in a window from ``left_units`` before it to ``right_units`` behind it.
    """

    kind: str = KIND
    features: FeatureConfig = field(default_factory=FeatureConfig)
    stages: list[StageConfig] = field(default_factory=_released_stages)
    levels: list[int] = field(default_factory=lambda: [8, 8, 8, 8])
    joined: bool = True
    block_units: int = 0
    left_units: int = 100
    right_units: int = 12

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")
        if min(self.block_units, self.left_units, self.right_units) < 0:
            raise InputError("block_units, left_units, right_units: fewer than no units; give 0 or more")
        if not self.levels or any(levels < 2 or levels % 2 for levels in self.levels):
            raise InputError(f"levels={self.levels}: the released quantiser's are even; give even numbers")


class ReleasedFSQ(nn.Module):
    """The quantiser of the release: levels a little inside of tanh's range, shifted by half a level.

    Unlike Mentzer et al. (2023) it narrows the range by 1e-3 rather than widening it, and shifts by the tangent, so
    that its units differ from theirs near the edges. The first dimension counts least in a unit.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = levels

    @property
    def codebook_size(self) -> int:
        """How many units there are."""
        return math.prod(self.levels)

    def forward(self, vectors_BUC: Tensor) -> Tensor:
        """``[B, U, C]`` to units ``[B, U]`` int64."""
        vectors_BUC = vectors_BUC.float()
        units_BU = torch.zeros(vectors_BUC.shape[:-1], dtype=torch.long, device=vectors_BUC.device)
        weight = 1
        for index, levels in enumerate(self.levels):
            half = (levels - 1) * (1 - 1e-3) / 2
            level_BU = (torch.tanh(vectors_BUC[..., index] + math.tan(0.5 / half)) * half - 0.5).round()
            units_BU += weight * (level_BU.long() + levels // 2)
            weight *= levels
        return units_BU


def join_runs(units_U: Tensor, before: int | None = None) -> Tensor:
    """``[U]`` units, each run of one unit as one; ``before`` is the unit before the first, if there is one."""
    first = units_U.new_tensor([-1 if before is None else before])
    return units_U[torch.cat([first, units_U])[:-1] != units_U]


class EmovaS2UTokenizer(TokenizerModule[EmovaS2UConfig]):
    """Speech to units as the EMOVA release hears it; a ``SpeechTokenizer``."""

    config_class: ClassVar = EmovaS2UConfig
    unit_set = UNIT_SET

    def __init__(self, config: EmovaS2UConfig) -> None:
        super().__init__(config)
        self.features = ClipLogMel(config.features)
        self.encoder = Encoder(config.features.mels, config.stages)
        self.pre_quant = nn.Linear(config.stages[-1].width, len(config.levels))
        self.quantizer = ReleasedFSQ(config.levels)
        stride = math.prod(each.stride for stage in config.stages for each in stage.convolutions)
        self.unit_samples = config.features.hop * stride

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    @property
    def sample_rate(self) -> int:
        return self.config.features.sample_rate

    def forward(self, samples_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Clips filled up with silence to the vectors before quantisation, ``[B, U, C]``, and units a row.

        As in the release a filled row differs a little from the same clip alone, whose end is mirrored.
        """
        with torch.autocast(samples_BT.device.type, enabled=False):
            encoded_BUC, units_B = self.encoder(*self.features(samples_BT.float(), lengths_B))
            return self.pre_quant(encoded_BUC), units_B

    def clip(self, samples_T: Tensor) -> Tensor:
        """The units ``[U]`` of one clip, ceil(T / unit_samples), runs not joined."""
        length = torch.tensor([len(samples_T)], device=samples_T.device)
        shortest = self.config.features.n_fft // 2 + 1  # what can be mirrored
        filled_T = functional.pad(samples_T, (0, max(0, shortest - len(samples_T))))
        vectors_BUC, units_B = self(filled_T[None], length)
        return self.quantizer(vectors_BUC)[0, : int(units_B)]

    def windows(self, samples_T: Tensor, start: int, ended: bool) -> Iterator[Tensor]:
        """The units ``[U]`` of each block that is certain, from unit ``start`` on; of all if the recording ended.

        ``samples_T`` is the recording so far.
        """
        config, size = self.config, self.unit_samples
        total = -(-len(samples_T) // size)
        while start < total:
            last = start + config.block_units + config.right_units
            if not ended and last * size > len(samples_T):
                return
            first = max(0, start - config.left_units)
            heard_U = self.clip(samples_T[first * size : last * size])
            yield heard_U[start - first : start - first + config.block_units]
            start += config.block_units

    @torch.inference_mode()
    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """``[B, T]`` samples, of which the first ``lengths[b]`` count, to int64 units ``[U]`` a row.

        There are ceil(length / unit_samples), fewer where runs are joined. A row is heard alone.

        Raises:
            InputError: ``samples`` is not two-dimensional.
        """
        if samples.dim() != 2:
            raise InputError(f"samples have shape {list(samples.shape)}; the tokenizer takes [batch, samples]")
        counts = [samples.shape[1]] * len(samples) if lengths is None else lengths.tolist()
        units = [self._row(row[:count].float()) for row, count in zip(samples, counts, strict=True)]
        return [join_runs(row) for row in units] if self.config.joined else units

    def _row(self, samples_T: Tensor) -> Tensor:
        if self.config.block_units:
            pieces = list(self.windows(samples_T, 0, ended=True))
        else:
            size = PIECE if len(samples_T) > LONGEST else max(1, len(samples_T))
            pieces = [self.clip(piece) for piece in samples_T.split(size) if len(piece)]
        return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.long, device=samples_T.device)

    @contextmanager
    def streaming(self, batch_size: int = 1) -> Iterator[WaitingStream | BlockStream]:
        """Units while the recording goes on, block by block; without blocks they all come at its end.

        Raises:
            InputError: several recordings are to advance together, though joined runs make their units uneven.
        """
        if batch_size != 1 and self.config.joined:
            raise InputError("recordings whose runs of units are joined cannot advance together; open a stream each")
        yield BlockStream(self, batch_size) if self.config.block_units else WaitingStream(self, batch_size)


class BlockStream(RecordingStream):
    """Recordings that advance together; a block's units come as soon as its window has been heard.

    Memory is that of one window, however long the recording lasts.
    """

    def __init__(self, model: EmovaS2UTokenizer, batch_size: int) -> None:
        super().__init__(batch_size, model.device)
        self._model = model
        self._dropped = 0  # units at the beginning that no window needs any more
        self._start = 0  # the next unit
        self._before: int | None = None

    def advance(self) -> Tensor:
        model, start = self._model, self._start - self._dropped
        rows = [list(model.windows(row_T, start, self.ended)) for row_T in self.pending_BT]
        if not rows[0]:
            return torch.zeros(len(rows), 0, dtype=torch.long, device=self.pending_BT.device)
        units_BU = torch.stack([torch.cat(row) for row in rows])
        self._start += units_BU.shape[1]
        unneeded = max(0, self._start - model.config.left_units) - self._dropped
        self.pending_BT = self.pending_BT[:, unneeded * model.unit_samples :]
        self._dropped += unneeded
        if not model.config.joined:
            return units_BU
        joined_U = join_runs(units_BU[0], self._before)
        self._before = int(units_BU[0, -1])
        return joined_U[None]
