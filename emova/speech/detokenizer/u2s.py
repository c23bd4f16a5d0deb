"""EMOVA's unit-to-speech detokenizer (§3.2, A.2): units and a style vector to a waveform, whole or as a stream.

Shapes: B batch, U units, N new units, F frames, T samples, Z latent channels, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from emova.core.errors import InputError
from emova.core.weights import Storage
from emova.native.compiled import CONVOLUTION
from emova.speech.detokenizer.base import DetokenizerModule, UnitStream, check_units
from emova.speech.detokenizer.layers import Past
from emova.speech.detokenizer.source import PitchFrame, frame_phases
from emova.speech.detokenizer.style_encoder import StyleEncoder, StyleEncoderConfig
from emova.speech.detokenizer.vits import VITS, VITSConfig
from emova.speech.detokenizer.waveform_heads import Excitation


@dataclass(frozen=True)
class U2SConfig:
    """The parts' sizes, and how the voice speaks.

    Attributes:
        temperature: spread of the latent draw in inference (0: the prior's mean).
        silence: the unit of silence. The voice then hears ``lead_in`` of them before the first unit and ``lead_out``
            after the last, and what it makes of them is cut off. A first unit with nothing before it, which is rare in
            training, begins with a tick that is taken for a consonant.
    """

    vits: VITSConfig = field(default_factory=VITSConfig)
    style: StyleEncoderConfig = field(default_factory=StyleEncoderConfig)
    temperature: float = 0.0
    silence: int | None = None
    lead_in: int = 6
    lead_out: int = 2
    kind: str = "u2s"

    def __post_init__(self) -> None:
        if self.kind != "u2s":
            raise InputError(f"kind={self.kind}: these are the fields of u2s; give kind=u2s")
        size = self.vits.units.codebook_size
        if self.silence is not None and not 0 <= self.silence < size:
            raise InputError(f"silence={self.silence}: there is no such unit; give one of 0..{size - 1}")
        if min(self.lead_in, self.lead_out) < 0:
            raise InputError("lead_in and lead_out: fewer than no units of silence; give 0 or more")


class Draws:
    """The random numbers of a stream: a fixed amount for each unit, so that they don't depend on how units are cut.

    All rows of a batch get the same, so that a row does not depend on its neighbours.
    """

    def __init__(self, seed: int, latent_channels: int, frames_per_unit: int, samples_per_unit: int) -> None:
        self._latents = torch.Generator().manual_seed(seed)
        self._waves = torch.Generator().manual_seed(seed + 1)
        self._latent_shape = (latent_channels, frames_per_unit)
        self._samples = samples_per_unit

    def latent(self, units: int) -> Tensor:
        """``[Z, F]`` standard normal for the latents of the next ``units`` units."""
        drawn = [torch.randn(self._latent_shape, generator=self._latents) for _ in range(units)]
        return torch.cat(drawn, dim=1) if drawn else torch.zeros(self._latent_shape[0], 0)

    def wave(self, units: int) -> Tensor:
        """``[T]`` standard normal for the samples of the next ``units`` units."""
        drawn = [torch.randn(self._samples, generator=self._waves) for _ in range(units)]
        return torch.cat(drawn) if drawn else torch.zeros(0)


class U2SDetokenizer(DetokenizerModule[U2SConfig]):
    """Units (25 Hz) and style to 24 kHz speech. Conforms to ``SpeechDetokenizer``."""

    config_class: ClassVar = U2SConfig
    storage: ClassVar[Storage] = "float16"

    def __init__(self, config: U2SConfig) -> None:
        super().__init__(config)
        vits = config.vits
        self.sample_rate: int = vits.sample_rate
        self.samples_per_unit: int = vits.hop_length * vits.frames_per_unit
        self.unit_rate: float = vits.sample_rate / self.samples_per_unit
        self.codebook_size: int = vits.units.codebook_size
        self.style_size: int = config.style.style_size
        self.vits = VITS(vits, self.style_size)
        self.style_encoder = StyleEncoder(config.style, vits.sample_rate, vits.n_fft, vits.hop_length)

    @torch.no_grad()
    def embed_style(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """``[B, T]`` reference speech at ``sample_rate``, its lengths in samples, to ``[B, S]``."""
        return self.style_encoder(samples_BT, lengths_B)

    @torch.no_grad()
    def decode(
        self, units_BU: Tensor, style_BS: Tensor, *, lengths_B: Tensor | None = None, temperature: float | None = None,
        pitch_scale: float = 1.0, seed: int = 0,
    ) -> Tensor:  # fmt: skip
        """``[B, U]`` int64 units and ``[B, S]`` styles to ``[B, U * samples_per_unit]`` samples in [-1, 1].

        Args:
            lengths_B: units of each row; samples after them are 0.
            temperature: spread of the latent draw; the config's if None.
            pitch_scale: a factor on F0; has no effect without the pitch predictor.
            seed: of the random numbers; the same for every row.
        """
        if units_BU.shape[1] == 0:
            return torch.zeros(units_BU.shape[0], 0, device=units_BU.device)
        mask_B1U = None
        if lengths_B is not None:
            places = torch.arange(units_BU.shape[1], device=units_BU.device)
            mask_B1U = (places[None] < lengths_B[:, None])[:, None].float()
        stream = U2SStream(self, style_BS, temperature=temperature, pitch_scale=pitch_scale, seed=seed)
        return stream.run(units_BU, mask_B1U)

    def streaming(
        self, style_BS: Tensor, *, temperature: float | None = None, pitch_scale: float = 1.0, seed: int = 0
    ) -> U2SStream:
        """A new stream of B voices in step; many streams can share this module."""
        return U2SStream(self, style_BS, temperature=temperature, pitch_scale=pitch_scale, seed=seed)

    @property
    def lookahead_units(self) -> int:
        """Units that must follow a unit before its sound is certain."""
        return self.vits.context.right

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """As the base; what the processor compiles is compiled now and not within a request."""
        detokenizer = super().from_pretrained(folder)
        CONVOLUTION.prepare()
        return detokenizer


class U2SStream(UnitStream):
    """The state of one stream: what its layers keep of the past, the pulse train's last frame, random numbers.

    Nothing is computed twice, and a step's cost and the state's size do not grow with what was said.
    """

    def __init__(
        self, detokenizer: U2SDetokenizer, style_BS: Tensor, *, temperature: float | None, pitch_scale: float, seed: int
    ) -> None:
        super().__init__()
        if not 0.25 <= pitch_scale <= 4.0:
            raise InputError("the pitch scale must lie between 0.25 and 4")
        self.detokenizer = detokenizer
        self.style_BS = style_BS.float()
        self.temperature = detokenizer.config.temperature if temperature is None else temperature
        self.pitch_scale = pitch_scale
        vits = detokenizer.config.vits
        self.draws = Draws(seed, vits.latent_channels, vits.frames_per_unit, detokenizer.samples_per_unit)
        self.past = Past()
        self.pitch: PitchFrame | None = None
        self._begun = False
        self._new_BN = torch.zeros(len(style_BS), 0, dtype=torch.int64, device=style_BS.device)
        config = detokenizer.config
        counts = (0, 0) if config.silence is None else (config.lead_in, config.lead_out)
        self._quiet = config.silence or 0
        self._before_1N, self._after_1N = (
            torch.full((1, count), self._quiet, device=style_BS.device) for count in counts
        )
        self._unheard = self._before_1N.shape[1] * detokenizer.samples_per_unit

    @torch.no_grad()
    def run(self, units_BU: Tensor, mask_B1U: Tensor | None = None) -> Tensor:
        """Take all units at once and finish; only this way takes a mask."""
        assert not self._begun and not self._finished
        self._finished = True
        if mask_B1U is None:
            return self._cut(self._speak(self._led_in(self._led_out(units_BU)), None), last=True)
        heard_BU = mask_B1U.squeeze(1).bool()
        # A row is led out right after its own last unit.
        units_BU = self._led_in(self._led_out(units_BU.to(heard_BU.device).masked_fill(~heard_BU, self._quiet)))
        mask_B1U = functional.pad(mask_B1U, (self._before_1N.shape[1] + self._after_1N.shape[1], 0), value=1.0)
        samples_BT = self._cut(self._speak(units_BU, None, mask_B1U), last=True)
        return samples_BT * heard_BU.repeat_interleave(self.detokenizer.samples_per_unit, dim=1)

    def add(self, units_BN: Tensor) -> None:
        if units_BN.shape[1] and not self._begun:
            units_BN, self._begun = self._led_in(units_BN), True
        self._new_BN = torch.cat([self._new_BN, units_BN.to(self._new_BN.device)], dim=1)

    def speak(self, ended: bool) -> Tensor:
        units_BN, self._new_BN = self._new_BN, self._new_BN[:, :0]
        if not self._begun or not (units_BN.shape[1] or ended):
            return torch.zeros(len(self.style_BS), 0, device=self.style_BS.device)
        self.past.ending = ended
        return self._cut(self._speak(self._led_out(units_BN) if ended else units_BN, self.past), last=ended)

    def _led_in(self, units_BN: Tensor) -> Tensor:
        """The units with what is heard before the first."""
        return torch.cat([self._before_1N.expand(len(units_BN), -1), units_BN.to(self.style_BS.device)], dim=1)

    def _led_out(self, units_BN: Tensor) -> Tensor:
        """The units with what is heard after the last."""
        return torch.cat([units_BN.to(self.style_BS.device), self._after_1N.expand(len(units_BN), -1)], dim=1)

    def _cut(self, samples_BT: Tensor, last: bool = False) -> Tensor:
        """The samples without those of the silence around them."""
        dropped = min(self._unheard, samples_BT.shape[1])
        self._unheard -= dropped
        after = self._after_1N.shape[1] * self.detokenizer.samples_per_unit if last else 0
        return samples_BT[:, dropped : samples_BT.shape[1] - after]

    def _speak(self, units_BN: Tensor, past: Past | None, mask_B1U: Tensor | None = None) -> Tensor:
        assert units_BN.shape[0] == self.style_BS.shape[0]
        device = self.style_BS.device
        check_units(units_BN, self.detokenizer.codebook_size)
        vits, units_BN = self.detokenizer.vits, units_BN.to(device)
        mask_B1F = None
        if mask_B1U is not None:
            mask_B1F = mask_B1U.repeat_interleave(vits.config.frames_per_unit, dim=-1)
        prior = vits.prior(units_BN, self.style_BS, mask_B1U, past=past)
        noise_BZF = None
        if self.temperature > 0:
            latent_ZF = self.draws.latent(units_BN.shape[1]).to(device)
            noise_BZF = self.temperature * latent_ZF.expand(len(units_BN), -1, -1)
        z_BZF = vits.latents(prior, self.style_BS, noise_BZF, mask_B1F, past)
        excitation = None
        if prior.log_f0_BF is not None and prior.voicing_BF is not None:
            f0_BF, voiced_BF = prior.log_f0_BF.exp() * self.pitch_scale, prior.voicing_BF > 0
            if mask_B1F is not None:  # after its last frame, a row holds its last value, as when decoded alone
                places = torch.arange(f0_BF.shape[1], device=device)[None]
                places_BF = torch.minimum(places, mask_B1F.sum(dim=-1).long() - 1).clamp(min=0)
                f0_BF, voiced_BF = f0_BF.gather(1, places_BF), voiced_BF.gather(1, places_BF)
            excitation = self._excite(f0_BF, voiced_BF, self.draws.wave(units_BN.shape[1]).to(device))
        return vits.head(z_BZF, self.style_BS, excitation, mask_B1F, past).clamp(-1.0, 1.0)

    def _excite(self, f0_BF: Tensor, voiced_BF: Tensor, noise_T: Tensor) -> Excitation:
        """The drive of new frames, on from the last one."""
        vits, before = self.detokenizer.vits, self.pitch
        rates = vits.config.sample_rate, vits.config.hop_length
        if before is None:
            start_B = torch.zeros(len(f0_BF), dtype=torch.float64, device=f0_BF.device)
            phase_BF = frame_phases(f0_BF, voiced_BF, start_B, *rates)
        else:
            f0_all, voiced_all = torch.cat([before.f0_B1, f0_BF], 1), torch.cat([before.voiced_B1, voiced_BF], 1)
            phase_BF = frame_phases(f0_all, voiced_all, before.phase_B1[:, 0], *rates)[:, 1:]
        if f0_BF.shape[1]:
            self.pitch = PitchFrame(f0_BF[:, -1:], voiced_BF[:, -1:], phase_BF[:, -1:])
        noise_BT = noise_T.expand(len(f0_BF), -1)
        return vits.excite(f0_BF, voiced_BF, phase_BF, noise_BT, before, ends=self._finished)
