"""GLM-4-Voice's decoder as a ``SpeechDetokenizer``: chunk by chunk, each with what is before it as its beginning.

The flow's attention sees all frames that it is given. Chunks of fixed lengths make that stream: a chunk's frames are
drawn with the finished ones given, its last frames are faded into the next chunk's, and the vocoder, whose context is
bounded, goes on where it was. The release gives a chunk all before it, so that each costs more than the last; with
``context`` it is given so many units before it, which bounds its cost. With one chunk for all units nothing comes
before the last unit, as in the release's offline use.

Shapes: B batch, U units, N new units, M mel bins, F frames, T samples, S = the speaker's or the style's vector.
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
from emova.speech.detokenizer.flow_hift.harmonic import HarmonicConfig, HarmonicNoise
from emova.speech.detokenizer.flow_hift.hift import HiFT, HiFTConfig
from emova.speech.detokenizer.flow_hift.sound import DrivenSound, HeadSound, MelHead, SoundStream
from emova.speech.detokenizer.flow_hift.unit_encoder import Regulator, UnitEncoder, UnitEncoderConfig
from emova.speech.detokenizer.style_encoder import StyleEncoder, StyleEncoderConfig
from emova.speech.detokenizer.waveform_heads import WaveformHeadConfig
from emova.speech.features import MelConfig

KIND = "flow_hift"
SEED = 42  # the release's, of every chunk
ALL_UNITS = 1 << 20
"""How many units a unit waits for where it waits for the last one."""
VOCODERS = ("hift", "harmonic", "istft", "hifigan")
HEADS = ("istft", "hifigan")


def trained_mel() -> MelConfig:
    """Frames of 10 ms at 24 kHz, about as spread as the noise that the flow begins with."""
    return MelConfig(24_000, 960, 240, 80, 0.0, 12_000.0, floor_log10=-7.0, shift=4.5, scale=0.45)


@dataclass(frozen=True)
class FlowHiFTConfig:
    """The defaults are the release's.

    Attributes:
        speaker_size: S.
        sound: what makes sound of mel frames: ``hift`` (``vocoder``), ``harmonic``, which is little to learn, or U2S's
            ``istft`` or ``hifigan`` (``head``).
        mel: the frames of the flow where they are ours; a release does not say what its own are.
        hears_styles: whether it has an encoder of styles (``style``); a release has none.
        styled_units: whether the units' encoder hears the style, so that their mean frames are of its pitch (as
            Matcha-TTS's encoder of text knows its speaker, Mehta et al. 2024); a release's does not.
        steps, guidance: of the flow (Euler), and how much the unconditional velocity is subtracted; 0 spares it.
        chunks: units of the chunks; the last number goes on for ever. None waits for the last unit.
        context: units before a chunk that it is drawn with; 0 for all of them.
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
    sound: str = "hift"
    head: WaveformHeadConfig = field(default_factory=WaveformHeadConfig)
    mel: MelConfig = field(default_factory=trained_mel)
    hears_styles: bool = False
    style: StyleEncoderConfig = field(default_factory=StyleEncoderConfig)
    context: int = 0
    styled_units: bool = False
    harmonic: HarmonicConfig = field(default_factory=HarmonicConfig)

    def __post_init__(self) -> None:
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")
        if self.unit_rate <= 0 or self.hop < 1 or self.sample_rate < self.unit_rate * self.hop:
            raise InputError(
                f"unit_rate={self.unit_rate:g}: a unit has no whole frame of {self.hop} samples, {self.sample_rate} a "
                "second; give rates of which it has"
            )
        if any(chunk <= self.fade for chunk in self.chunks):
            raise InputError(f"chunks={self.chunks}: a chunk is no longer than what is faded; give longer ones")
        if self.sound not in VOCODERS or (self.sound in HEADS and self.head.kind != self.sound):
            raise InputError(
                f"sound={self.sound}, head.kind={self.head.kind}: unknown, or two kinds; give {', '.join(VOCODERS)}, "
                "both alike"
            )
        if self.steps < 1 or self.context < 0 or self.fade < 0:
            raise InputError("steps, context, fade: too few; give at least 1, 0 and 0")
        if 0 < self.context <= self.fade:
            raise InputError(f"context={self.context}: no longer than what is faded; give 0 or more than {self.fade}")
        if self.hears_styles and self.style.style_size != self.speaker_size:
            raise InputError(
                f"style.style_size={self.style.style_size}: not as long as a speaker's vector; give {self.speaker_size}"
            )
        frames = (self.mel.sample_rate, self.mel.hop_length, self.mel.n_mels)
        heard = self.harmonic
        if self.sound == "harmonic" and (heard.sample_rate, heard.hop, heard.mels) != frames:
            raise InputError(f"harmonic: its rate, hop and mels are {heard.sample_rate}, {heard.hop}, {heard.mels}; "
                             f"mel's are {frames}; give the same")  # fmt: skip
        if self.hears_styles and frames != (self.sample_rate, self.hop, self.mels):
            raise InputError(f"vocoder: its rate, hop and mels are {self.sample_rate}, {self.hop}, {self.mels}; mel's "
                             f"are {frames}; give the same")  # fmt: skip

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.vocoder.sample_rate if self.sound == "hift" else self.mel.sample_rate

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return self.vocoder.hop if self.sound == "hift" else self.mel.hop_length

    @property
    def mels(self) -> int:
        """Mel bins."""
        return self.vocoder.mels if self.sound == "hift" else self.mel.n_mels


class FlowMatching(nn.Module):
    """Units to mel frames."""

    def __init__(self, config: FlowHiFTConfig) -> None:
        super().__init__()
        self.config = config
        mels = config.mels
        self.speaker = nn.Linear(config.speaker_size, mels)
        self.encoder = UnitEncoder(config.units, mels, config.speaker_size if config.styled_units else 0)
        self.regulator = Regulator(mels)
        self.estimator = Estimator(config.estimator, mels)

    def frames(self, units: int) -> int:
        """Mel frames of so many units."""
        return int(units / self.config.unit_rate * self.config.sample_rate / self.config.hop)

    def condition(self, units_BU: Tensor, speaker_BS: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """What frames are drawn by: ``[B, M, F]`` of the units, ``[B, M]`` of the speaker."""
        speaker_BS = functional.normalize(speaker_BS, dim=1)
        return self.regulator(self.encoder(units_BU, speaker_BS), frames), self.speaker(speaker_BS)

    def forward(
        self, units_BU: Tensor, speaker_BS: Tensor, given_BMF: Tensor, noise_BMF: Tensor, frames: int | None = None
    ) -> Tensor:
        """Mel frames ``[B, M, F]`` of all units.

        Args:
            speaker_BS: a speaker's vector; zeros are the release's voice.
            given_BMF: frames at the beginning that are known; they come out nearly the same.
            noise_BMF: standard normal, at least as many frames as there are.
            frames: F; what ``frames`` says of the units if None.
        """
        count = self.frames(units_BU.shape[1]) if frames is None else frames
        mean_BMF, speaker_BM = self.condition(units_BU, speaker_BS, count)
        known_BMF = functional.pad(given_BMF, (0, count - given_BMF.shape[2]))
        x_BMF, rate = noise_BMF[..., :count], self.config.guidance
        # With and without the condition at once: few rows keep a processor no less busy than many.
        both = [torch.cat([each, torch.zeros_like(each)]) for each in (mean_BMF, speaker_BM, known_BMF)]
        times = 1 - torch.cos(torch.linspace(0, 1, self.config.steps + 1) * 0.5 * math.pi)
        for now, then in zip(times.tolist(), times[1:].tolist(), strict=False):
            if rate:
                time_B = torch.full((2 * len(x_BMF),), now, device=x_BMF.device)
                guided, free = self.estimator(torch.cat([x_BMF, x_BMF]), *both, time_B).chunk(2)
                velocity_BMF = (1 + rate) * guided - rate * free
            else:
                time_B = torch.full((len(x_BMF),), now, device=x_BMF.device)
                velocity_BMF = self.estimator(x_BMF, mean_BMF, speaker_BM, known_BMF, time_B)
            x_BMF = x_BMF + (then - now) * velocity_BMF
        return x_BMF


class FlowHiFTDetokenizer(DetokenizerModule[FlowHiFTConfig]):
    """Units to speech as GLM-4-Voice speaks; the style is a speaker's vector, or that of a style encoder."""

    config_class: ClassVar = FlowHiFTConfig
    unit_set = "glm-4-voice"

    def __init__(self, config: FlowHiFTConfig) -> None:
        super().__init__(config)
        self.sample_rate: int = config.sample_rate
        self.unit_rate: float = config.unit_rate
        self.codebook_size: int = config.units.codes
        self.style_size: int = config.speaker_size
        self.flow = FlowMatching(config)
        self.vocoder: HiFT | HarmonicNoise | MelHead
        if config.sound == "hift":
            self.vocoder = HiFT(config.vocoder)
        elif config.sound == "harmonic":
            self.vocoder = HarmonicNoise(config.harmonic)
        else:
            self.vocoder = MelHead(config.head, config.mels, config.speaker_size, config.mel.n_fft, config.hop)
        self.style_encoder: StyleEncoder | None = None
        if config.hears_styles:
            self.style_encoder = StyleEncoder(config.style, config.sample_rate, config.mel.n_fft, config.hop)

    @property
    def draws_chunks(self) -> bool:
        """Whether the sound of so many units comes at once, when the last of them is there."""
        return bool(self.config.chunks)

    @property
    def lookahead_units(self) -> int:
        """Units that must follow a unit before its sound is certain."""
        return self.config.chunks[0] - 1 if self.config.chunks else ALL_UNITS

    @torch.no_grad()
    def embed_style(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, T]`` reference speech at ``sample_rate`` to ``[B, S]``.

        Raises:
            InputError: a release has no encoder of speakers.
        """
        if self.style_encoder is None:
            raise InputError("this voice cannot be given by a recording: its release has no encoder of speakers")
        return self.style_encoder(samples_BT, lengths_B)

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

    def sound(self, speaker_BS: Tensor) -> SoundStream:
        """A new stream of mel frames to sound."""
        if isinstance(self.vocoder, MelHead):
            return HeadSound(self.vocoder, speaker_BS)
        draws = torch.Generator().manual_seed(SEED)
        return DrivenSound(self.vocoder, len(speaker_BS), speaker_BS.device, draws)


class FlowHiFTStream(UnitStream):
    """One utterance: its last units and mel frames, the tail that is faded into the next chunk, the vocoder's stream.

    With a ``context`` only that much of the past is kept, and a chunk costs the same however much was said before it.
    """

    def __init__(self, detokenizer: FlowHiFTDetokenizer, speaker_BS: Tensor) -> None:
        super().__init__()
        self._model, self._speaker_BS = detokenizer, speaker_BS.float()
        batch, device, mels = speaker_BS.shape[0], speaker_BS.device, detokenizer.config.mels
        self._units_BU = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self._mel_BMF = torch.zeros(batch, mels, 0, device=device)
        self._tail_BMF = self._mel_BMF
        self._first = 0  # the unit that what is kept begins with
        self._said = 0  # units whose chunk was drawn
        self._chunk = 0
        self._draws = torch.Generator().manual_seed(SEED)
        self._noise_MF = torch.zeros(mels, 0)
        self._sound = detokenizer.sound(self._speaker_BS)

    def add(self, units_BN: Tensor) -> None:
        check_units(units_BN, self._model.codebook_size)
        self._units_BU = torch.cat([self._units_BU, units_BN.to(self._units_BU.device)], dim=1)

    def speak(self, ended: bool) -> Tensor:
        config, flow = self._model.config, self._model.flow
        chunks, total = config.chunks, self._first + self._units_BU.shape[1]
        drawn: list[Tensor] = []
        while self._said < total:
            size = chunks[min(self._chunk, len(chunks) - 1)] if chunks else total
            if not ended and (not chunks or self._said + size > total):
                break
            if config.context:
                self._forget(max(self._first, self._said - config.context))
            self._said = min(self._said + size, total)
            self._chunk += 1
            frames = flow.frames(self._said) - flow.frames(self._first)
            units_BU = self._units_BU[:, : self._said - self._first]
            known = self._mel_BMF.shape[2]
            drawn_BMF = flow(units_BU, self._speaker_BS, self._mel_BMF, self._noise(frames), frames)[..., known:]
            fade = self._tail_BMF.shape[2]
            if fade:
                slope = torch.hamming_window(2 * fade, periodic=False, device=drawn_BMF.device)
                mixed = self._tail_BMF * slope[fade:] + drawn_BMF[..., :fade] * slope[:fade]
                drawn_BMF = torch.cat([mixed, drawn_BMF[..., fade:]], dim=2)
            held = 0 if ended and self._said == total else flow.frames(config.fade)
            ready_BMF, self._tail_BMF = drawn_BMF.split([drawn_BMF.shape[2] - held, held], dim=2)
            self._mel_BMF = torch.cat([self._mel_BMF, ready_BMF], dim=2)
            drawn.append(ready_BMF)
        if ended and self._tail_BMF.shape[2]:
            drawn.append(self._tail_BMF)
            self._tail_BMF = self._tail_BMF[..., :0]
        return self._sound.step(torch.cat([self._mel_BMF[..., :0], *drawn], dim=2), ended)

    def _noise(self, frames: int) -> Tensor:
        """Standard normal for the frames that are kept and drawn, ``[B, M, F]``."""
        batch, mels, _ = self._mel_BMF.shape
        device = self._mel_BMF.device
        if not self._model.config.context:
            # The release draws anew for each chunk, from the same seed.
            anew = torch.Generator().manual_seed(SEED)
            return torch.randn(1, mels, frames, generator=anew).expand(batch, -1, -1).to(device)
        # A frame's noise is its own, whatever the chunk that it is drawn with. It is drawn alone, since the numbers of
        # a generator depend on how many are asked for at once.
        new = [torch.randn(mels, 1, generator=self._draws) for _ in range(frames - self._noise_MF.shape[1])]
        self._noise_MF = torch.cat([self._noise_MF, *new], dim=1)
        return self._noise_MF.expand(batch, -1, -1).to(device)

    def _forget(self, first: int) -> None:
        """Drop what lies before unit ``first``."""
        flow = self._model.flow
        frames = flow.frames(first) - flow.frames(self._first)
        self._units_BU = self._units_BU[:, first - self._first :]
        self._mel_BMF, self._noise_MF = self._mel_BMF[..., frames:], self._noise_MF[:, frames:]
        self._first = first
