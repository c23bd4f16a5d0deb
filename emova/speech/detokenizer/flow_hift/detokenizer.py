"""GLM-4-Voice's decoder as a ``SpeechDetokenizer``: chunk by chunk, each with all before it as its beginning.

The flow's attention sees all frames. Chunks of fixed lengths make that stream: a chunk's frames are drawn with the
finished ones given, its last frames are faded into the next chunk's, and the vocoder, whose context is bounded, goes on
where it was. With one chunk for all units nothing comes before the last unit, as in the release's offline use.

Shapes: B batch, U units, N new units, M mel bins, F frames, T samples, S = the speaker's vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from emova.core.errors import InputError
from emova.speech.detokenizer.base import DetokenizerModule, UnitStream, check_units
from emova.speech.detokenizer.flow_hift.estimator import Estimator, EstimatorConfig
from emova.speech.detokenizer.flow_hift.hift import HiFT, HiFTConfig
from emova.speech.detokenizer.flow_hift.unit_encoder import Regulator, UnitEncoder, UnitEncoderConfig

KIND = "flow_hift"
SEED = 42  # the release's, of every chunk
ALL_UNITS = 1 << 20
"""How many units a unit waits for where it waits for the last one."""
REACH = 16
"""Frames to each side that hold all that a frame's sound depends on."""


@dataclass(frozen=True)
class FlowHiFTConfig:
    """The defaults are the release's.

    Attributes:
        speaker_size: S.
        steps, guidance: of the flow (Euler), and how much the unconditional velocity is subtracted.
        chunks: units of the chunks; the last number goes on for ever. None waits for the last unit.
        fade: units' worth of frames that are faded from a chunk into the next.
    """

    kind: str = KIND
    unit_rate: float = 12.5
    speaker_size: int = 192
    units: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    vocoder: HiFTConfig = field(default_factory=HiFTConfig)
    steps: int = 10
    guidance: float = 0.7
    chunks: list[int] = field(default_factory=lambda: [25, 50, 100, 150, 200])
    fade: int = 5

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")
        if any(chunk <= self.fade for chunk in self.chunks):
            raise InputError(f"chunks={self.chunks}: a chunk is no longer than what is faded; give longer ones")


class FlowMatching(nn.Module):
    """Units to mel frames."""

    def __init__(self, config: FlowHiFTConfig) -> None:
        super().__init__()
        self.config = config
        mels = config.vocoder.mels
        self.speaker = nn.Linear(config.speaker_size, mels)
        self.encoder = UnitEncoder(config.units, mels)
        self.regulator = Regulator(mels)
        self.estimator = Estimator(config.estimator, mels)

    def frames(self, units: int) -> int:
        """Mel frames of so many units."""
        vocoder = self.config.vocoder
        return int(units / self.config.unit_rate * vocoder.sample_rate / vocoder.hop)

    def forward(self, units_BU: Tensor, speaker_BS: Tensor, given_BMF: Tensor, noise_BMF: Tensor) -> Tensor:
        """Mel frames ``[B, M, F]`` of all units.

        Args:
            speaker_BS: a speaker's vector; zeros are the release's voice.
            given_BMF: frames at the beginning that are known; they come out nearly the same.
            noise_BMF: standard normal.
        """
        count = self.frames(units_BU.shape[1])
        mean_BMF = self.regulator(self.encoder(units_BU), count)
        speaker_BM = self.speaker(functional.normalize(speaker_BS, dim=1))
        known_BMF = functional.pad(given_BMF, (0, count - given_BMF.shape[2]))
        nothing, nobody = torch.zeros_like(mean_BMF), torch.zeros_like(speaker_BM)
        x_BMF, rate = noise_BMF[..., :count], self.config.guidance
        times = 1 - torch.cos(torch.linspace(0, 1, self.config.steps + 1) * 0.5 * math.pi)
        for now, then in zip(times.tolist(), times[1:].tolist(), strict=False):
            time_B = torch.full((len(x_BMF),), now, device=x_BMF.device)
            guided = self.estimator(x_BMF, mean_BMF, speaker_BM, known_BMF, time_B)
            free = self.estimator(x_BMF, nothing, nobody, nothing, time_B)
            x_BMF = x_BMF + (then - now) * ((1 + rate) * guided - rate * free)
        return x_BMF


class FlowHiFTDetokenizer(DetokenizerModule[FlowHiFTConfig]):
    """Units (12.5 a second) to 22.05 kHz speech as GLM-4-Voice speaks; the style is a speaker's vector."""

    config_class: ClassVar = FlowHiFTConfig
    unit_set = "glm-4-voice"

    def __init__(self, config: FlowHiFTConfig) -> None:
        super().__init__(config)
        self.sample_rate: int = config.vocoder.sample_rate
        self.unit_rate: float = config.unit_rate
        self.codebook_size: int = config.units.codes
        self.style_size: int = config.speaker_size
        self.flow = FlowMatching(config)
        self.vocoder = HiFT(config.vocoder)

    @property
    def lookahead_units(self) -> int:
        """Units that must follow a unit before its sound is certain."""
        return self.config.chunks[0] - 1 if self.config.chunks else ALL_UNITS

    def embed_style(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Raises: InputError: the release has no encoder of speakers."""
        raise InputError("this voice cannot be given by a recording: its release has no encoder of speakers")

    @torch.no_grad()
    def decode(self, units_BU: Tensor, style_BS: Tensor) -> Tensor:
        """``[B, U]`` int64 units and ``[B, S]`` speakers to samples ``[B, T]``, T = ``frames(U) * hop``.

        Raises:
            InputError: a unit is none of this voice.
        """
        rows = [
            FlowHiFTStream(self, style_BS[row : row + 1]).finish(units_BU[row : row + 1])[0]
            for row in range(len(units_BU))
        ]
        return pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, device=self.device)

    def streaming(self, style_BS: Tensor) -> FlowHiFTStream:
        """A new stream of B voices in step."""
        return FlowHiFTStream(self, style_BS)


class FlowHiFTStream(UnitStream):
    """One utterance: its units, its finished mel frames, the tail that is faded into the next chunk, and the vocoder's
    place in them."""

    def __init__(self, detokenizer: FlowHiFTDetokenizer, speaker_BS: Tensor) -> None:
        super().__init__()
        self._model, self._speaker_BS = detokenizer, speaker_BS.float()
        batch, device = speaker_BS.shape[0], speaker_BS.device
        vocoder = detokenizer.config.vocoder
        self._units_BU = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self._mel_BMF = torch.zeros(batch, vocoder.mels, 0, device=device)
        self._tail_BMF = self._mel_BMF
        self._said = 0  # units whose chunk was drawn
        self._chunk = 0
        self._driven_BT = torch.zeros(batch, 0, device=device)
        self._turns_B = torch.zeros(batch, dtype=torch.float64, device=device)
        self._draws = torch.Generator().manual_seed(SEED)
        phases_BN = (torch.rand(1, vocoder.harmonics + 1, generator=self._draws) * 2 - 1) * math.pi
        phases_BN[:, 0] = 0
        self._phases_BN = phases_BN.expand(batch, -1).to(device)
        self._sounded = 0  # frames

    def add(self, units_BN: Tensor) -> None:
        check_units(units_BN, self._model.codebook_size)
        self._units_BU = torch.cat([self._units_BU, units_BN.to(self._units_BU.device)], dim=1)

    def _draw(self, ended: bool) -> None:
        """Mel frames of all chunks that are there."""
        chunks, total = self._model.config.chunks, self._units_BU.shape[1]
        while self._said < total:
            size = chunks[min(self._chunk, len(chunks) - 1)] if chunks else total
            if not ended and (not chunks or self._said + size > total):
                return
            self._said = min(self._said + size, total)
            self._chunk += 1
            # The release draws anew for each chunk, from the same seed.
            draws = torch.Generator().manual_seed(SEED)
            flow = self._model.flow
            shape = (1, self._mel_BMF.shape[1], flow.frames(self._said))
            noise_BMF = torch.randn(shape, generator=draws).expand(len(self._mel_BMF), -1, -1).to(self._mel_BMF.device)
            units_BU = self._units_BU[:, : self._said]
            drawn_BMF = flow(units_BU, self._speaker_BS, self._mel_BMF, noise_BMF)[..., self._mel_BMF.shape[2] :]
            fade = self._tail_BMF.shape[2]
            if fade:
                slope = torch.hamming_window(2 * fade, periodic=False, device=drawn_BMF.device)
                mixed = self._tail_BMF * slope[fade:] + drawn_BMF[..., :fade] * slope[:fade]
                drawn_BMF = torch.cat([mixed, drawn_BMF[..., fade:]], dim=2)
            held = 0 if ended and self._said == total else flow.frames(self._model.config.fade)
            ready = drawn_BMF.shape[2] - held
            self._mel_BMF = torch.cat([self._mel_BMF, drawn_BMF[..., :ready]], dim=2)
            self._tail_BMF = drawn_BMF[..., ready:]
        if ended and self._tail_BMF.shape[2]:
            self._mel_BMF = torch.cat([self._mel_BMF, self._tail_BMF], dim=2)
            self._tail_BMF = self._tail_BMF[..., :0]

    def speak(self, ended: bool) -> Tensor:
        self._draw(ended)
        vocoder = self._model.vocoder
        hop, frames = vocoder.config.hop, self._mel_BMF.shape[2]
        driven = self._driven_BT.shape[1] // hop
        certain = frames if ended else max(driven, frames - vocoder.pitch.context)
        if certain > driven:
            first = max(0, driven - vocoder.pitch.context)
            f0_BF = vocoder.pitch(self._mel_BMF[..., first:])[:, driven - first : certain - first]
            noise = [
                torch.randn(1, vocoder.config.harmonics + 1, hop, generator=self._draws)
                for _ in range(certain - driven)
            ]
            noise_BNT = torch.cat(noise, dim=2).expand(len(f0_BF), -1, -1).to(f0_BF.device)
            source_BT, self._turns_B = vocoder.source(f0_BF, self._turns_B, self._phases_BN, noise_BNT)
            self._driven_BT = torch.cat([self._driven_BT, source_BT], dim=1)
        last = frames if ended else max(self._sounded, certain - REACH)
        if last == self._sounded:
            return torch.zeros(len(self._mel_BMF), 0, device=self._mel_BMF.device)
        first, end = max(0, self._sounded - REACH), min(certain, last + REACH)
        samples_BT = vocoder(self._mel_BMF[..., first:end], self._driven_BT[:, first * hop : end * hop])
        samples_BT = samples_BT[:, (self._sounded - first) * hop : (last - first) * hop]
        self._sounded = last
        return samples_BT
