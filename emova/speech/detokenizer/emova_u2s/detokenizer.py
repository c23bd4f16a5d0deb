"""The released unit-to-speech decoder as a ``SpeechDetokenizer``, whole or block by block.

Units come without their repetitions; a predictor says how long each sounds, so that a waveform is not as long as its
units say but as the predictor does. The encoder of units sees all of them: with ``block_units`` it sees windows instead
and streams. All that follows it, durations apart, has a bounded context and streams exactly.

Shapes: B batch, U units, N new units, F frames, T samples, Z latent channels, S style channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emova.core.errors import InputError
from emova.native.compiled import CONVOLUTION
from emova.speech.detokenizer.base import DetokenizerModule, UnitStream, check_units
from emova.speech.detokenizer.emova_u2s.durations import DurationConfig, Durations
from emova.speech.detokenizer.emova_u2s.prior import Prior, PriorConfig
from emova.speech.detokenizer.emova_u2s.reference import Reference, ReferenceConfig
from emova.speech.detokenizer.flow import Flow, FlowConfig
from emova.speech.detokenizer.layers import Past
from emova.speech.detokenizer.waveform_heads import HiFiGANHead, HiFiGANHeadConfig

KIND = "emova_u2s"
ALL_UNITS = 1 << 20
"""How many units a unit waits for where it waits for the last one."""


def _released_flow() -> FlowConfig:
    return FlowConfig(layers=4, channels=192, kernel=5, depth=4, lookahead=None)


def _released_head() -> HiFiGANHeadConfig:
    return HiFiGANHeadConfig(channels=512, rates=(8, 8, 2, 2), last_slope=0.01)


@dataclass(frozen=True)
class EmovaU2SConfig:
    """The defaults are the release's but for the blocks.

    Attributes:
        sample_rate: Hz.
        unit_rate: of the units before their repetitions were taken out; a waveform is as long as its durations.
        temperature, duration_temperature: spread of the draws of latents and of durations.
        length_scale: a factor on all durations.
        block_units: 0 waits for all units. Else so many are spoken at a time, and each block is seen in a window from
            ``left_units`` before it to ``right_units`` behind it.
    """

    kind: str = KIND
    sample_rate: int = 22_050
    unit_rate: float = 25.0
    style_size: int = 256
    latent_channels: int = 192
    prior: PriorConfig = field(default_factory=PriorConfig)
    durations: DurationConfig = field(default_factory=DurationConfig)
    flow: FlowConfig = field(default_factory=_released_flow)
    head: HiFiGANHeadConfig = field(default_factory=_released_head)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    temperature: float = 0.667
    duration_temperature: float = 0.8
    length_scale: float = 1.0
    block_units: int = 20
    left_units: int = 60
    right_units: int = 10

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")
        if min(self.block_units, self.left_units, self.right_units) < 0:
            raise InputError("block_units, left_units, right_units: fewer than no units; give 0 or more")
        if not 0.1 <= self.length_scale <= 10.0:
            raise InputError(f"length_scale={self.length_scale}: too slow or fast; give a factor between 0.1 and 10")


class Draws:
    """The random numbers of one utterance: two for each unit, Z for each frame, however the units are cut."""

    def __init__(self, seed: int, latent_channels: int) -> None:
        self._units, self._frames = (torch.Generator().manual_seed(seed + each) for each in range(2))
        self._channels = latent_channels

    def of_units(self, count: int) -> Tensor:
        """``[1, 2, count]`` standard normal for the next units."""
        return _drawn(self._units, 2, count)

    def of_frames(self, count: int) -> Tensor:
        """``[1, Z, count]`` standard normal for the next frames."""
        return _drawn(self._frames, self._channels, count)


def _drawn(generator: torch.Generator, channels: int, count: int) -> Tensor:
    columns = [torch.randn(channels, generator=generator) for _ in range(count)]
    return torch.stack(columns, dim=1)[None] if columns else torch.zeros(1, channels, 0)


class EmovaU2SDetokenizer(DetokenizerModule[EmovaU2SConfig]):
    """Units and a style vector to 22.05 kHz speech as the EMOVA release speaks."""

    config_class: ClassVar = EmovaU2SConfig
    unit_set = "40ms_multilingual_8888"

    def __init__(self, config: EmovaU2SConfig) -> None:
        super().__init__(config)
        self.sample_rate: int = config.sample_rate
        self.unit_rate: float = config.unit_rate
        self.codebook_size: int = config.prior.rows - config.prior.first_unit
        self.style_size: int = config.style_size
        hop = config.reference.hop
        self.prior = Prior(config.prior, config.latent_channels)
        self.durations = Durations(config.durations, config.prior.channels, config.style_size)
        self.flow = Flow(config.latent_channels, config.flow, config.style_size)
        self.head = HiFiGANHead(config.head, config.latent_channels, config.style_size, 4 * hop, hop, driven=False)
        self.reference = Reference(config.reference, config.style_size)

    @property
    def lookahead_units(self) -> int:
        """Units that follow a unit before its sound is certain, at the usual rate; many short ones need more."""
        config = self.config
        if not config.block_units:
            return ALL_UNITS
        frames_per_unit = self.sample_rate / config.reference.hop / self.unit_rate
        behind = math.ceil((self.flow.context + self.head.context).right / frames_per_unit)
        return config.block_units - 1 + config.right_units + behind

    @torch.no_grad()
    def embed_style(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, T]`` reference speech at ``sample_rate``, its lengths in samples, to ``[B, S]``.

        Raises:
            InputError: it is shorter than half a window.
        """
        if samples_BT.shape[1] < self.config.reference.n_fft:
            raise InputError("the reference: too short to have a style; give a second of speech or more")
        return self.reference(samples_BT.float(), lengths_B)

    @torch.no_grad()
    def decode(self, units_BU: Tensor, style_BS: Tensor, *, seed: int = 0) -> Tensor:
        """``[B, U]`` int64 units and ``[B, S]`` styles to ``[B, T]`` samples in [-1, 1].

        T is what the predicted durations make of the longest row; the others end in silence. Rows are independent.

        Raises:
            InputError: a unit is none of this voice.
        """
        rows = [
            EmovaU2SStream(self, style_BS[row : row + 1], seed).finish(units_BU[row : row + 1])[0]
            for row in range(len(units_BU))
        ]
        return pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, device=self.device)

    def streaming(self, style_BS: Tensor, *, seed: int = 0) -> EmovaU2SStream:
        """A new stream of one voice.

        Raises:
            InputError: several voices are to advance in step, though their durations differ.
        """
        if len(style_BS) != 1:
            raise InputError("voices whose durations are predicted cannot advance in step; open a stream for each")
        return EmovaU2SStream(self, style_BS, seed)

    def frames(self, units_BU: Tensor, style_BS: Tensor, noise_B2U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is known of each unit in a window: mean and logarithm of the spread ``[B, Z, U]``, frames ``[B, U]``.

        ``noise_B2U`` has its spread already.
        """
        hidden_BCU, mean_BZU, log_spread_BZU = self.prior(units_BU)
        log_frames_BU = self.durations(hidden_BCU, style_BS, noise_B2U)
        return mean_BZU, log_spread_BZU, (log_frames_BU.exp() * self.config.length_scale).ceil().long().clamp(min=1)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """As the base; what the processor compiles is compiled now and not within a request."""
        detokenizer = super().from_pretrained(folder)
        CONVOLUTION.prepare()
        return detokenizer


class EmovaU2SStream(UnitStream):
    """One utterance: the units and their noise as far as a window still needs them, and what the layers keep."""

    def __init__(self, detokenizer: EmovaU2SDetokenizer, style_1S: Tensor, seed: int) -> None:
        super().__init__()
        self._model, self._style_1S = detokenizer, style_1S.float()
        self._draws = Draws(seed, detokenizer.config.latent_channels)
        self._past = Past()
        self._units_1U = torch.zeros(1, 0, dtype=torch.long, device=style_1S.device)
        self._noise_12U = torch.zeros(1, 2, 0, device=style_1S.device)
        self._start = 0  # of the next block in these

    def add(self, units_1N: Tensor) -> None:
        device = self._style_1S.device
        check_units(units_1N, self._model.codebook_size)
        noise = self._draws.of_units(units_1N.shape[1]) * self._model.config.duration_temperature
        self._units_1U = torch.cat([self._units_1U, units_1N.to(device)], dim=1)
        self._noise_12U = torch.cat([self._noise_12U, noise.to(device)], dim=2)

    def _blocks(self, ended: bool) -> Iterator[Tensor]:
        """Latents ``[1, Z, F]`` in the prior's space of each block that is certain."""
        config, model = self._model.config, self._model
        total = self._units_1U.shape[1]
        size = config.block_units or total
        seen = size + config.right_units if config.block_units else total + 1  # without blocks nothing is certain yet
        while self._start < total and (ended or self._start + seen <= total):
            first, last = max(0, self._start - config.left_units), self._start + size + config.right_units
            window = model.frames(self._units_1U[:, first:last], self._style_1S, self._noise_12U[..., first:last])
            inside = slice(self._start - first, self._start - first + size)
            mean_BZU, log_spread_BZU, frames_BU = (each[..., inside] for each in window)
            counts_U = frames_BU[0]
            mean_BZF, log_spread_BZF = (each.repeat_interleave(counts_U, dim=2) for each in (mean_BZU, log_spread_BZU))
            noise_BZF = self._draws.of_frames(mean_BZF.shape[2]).to(mean_BZF.device)
            yield mean_BZF + noise_BZF * log_spread_BZF.exp() * config.temperature
            self._start += size
        unneeded = max(0, self._start - config.left_units)
        self._units_1U, self._noise_12U = self._units_1U[:, unneeded:], self._noise_12U[..., unneeded:]
        self._start -= unneeded

    def speak(self, ended: bool) -> Tensor:
        model, pieces = self._model, list(self._blocks(ended))
        self._past.ending = ended
        if not pieces and not ended:
            return torch.zeros(1, 0, device=self._style_1S.device)
        empty = torch.zeros(1, model.config.latent_channels, 0, device=self._style_1S.device)
        z_BZF = torch.cat(pieces, dim=2) if pieces else empty
        if not z_BZF.shape[2] and not self._past.size:
            return torch.zeros(1, 0, device=self._style_1S.device)
        z_BZF = model.flow.inverse(z_BZF, self._style_1S, None, self._past)
        return model.head(z_BZF, self._style_1S, None, None, self._past).clamp(-1.0, 1.0)
