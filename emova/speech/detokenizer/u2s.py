"""EMOVA's unit-to-speech detokenizer (§3.2, A.2): units and a style vector to a waveform, whole or as a stream.

Shapes: B batch, U units, N new units, F frames, T samples, Z latent channels, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from emova.config import load_config
from emova.errors import InputError
from emova.speech.detokenizer.source import frame_phases
from emova.speech.detokenizer.style_encoder import StyleEncoder, StyleEncoderConfig
from emova.speech.detokenizer.vits import VITS, VITSConfig
from emova.weights import Storage, load_state, read_folder, save_folder


@dataclass(frozen=True)
class U2SConfig:
    """The parts' sizes; ``temperature`` is the spread of the latent draw in inference (0: the prior's mean)."""

    vits: VITSConfig = field(default_factory=VITSConfig)
    style: StyleEncoderConfig = field(default_factory=StyleEncoderConfig)
    temperature: float = 0.0


class Draws:
    """The random numbers of a stream: a fixed amount for each unit, so that they don't depend on how units are cut.

    All rows of a batch get the same, so that a row does not depend on its neighbours.
    """

    def __init__(self, seed: int, latent_channels: int, frames_per_unit: int, samples_per_unit: int) -> None:
        self._latent = torch.Generator().manual_seed(seed)
        self._wave = torch.Generator().manual_seed(seed + 1)
        self._latent_shape = (latent_channels, frames_per_unit)
        self._samples = samples_per_unit

    def next(self, units: int) -> tuple[Tensor, Tensor]:
        """``[Z, F]`` and ``[T]`` standard normal for the next ``units`` units."""
        latent = [torch.randn(self._latent_shape, generator=self._latent) for _ in range(units)]
        wave = [torch.randn(self._samples, generator=self._wave) for _ in range(units)]
        if not units:
            return torch.zeros(self._latent_shape[0], 0), torch.zeros(0)
        return torch.cat(latent, dim=1), torch.cat(wave)


class U2SDetokenizer(nn.Module):
    """Units (25 Hz) and style to 24 kHz speech. Conforms to ``SpeechDetokenizer``."""

    def __init__(self, config: U2SConfig) -> None:
        super().__init__()
        self.config = config
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
        return self.vits.latent_context.right + self.vits.wave_context.right

    def save_pretrained(self, folder: str | Path, storage: Storage = "float16") -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_folder(folder, self.config, self.state_dict(), storage)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> U2SDetokenizer:
        """Read what ``save_pretrained`` wrote, in evaluation mode.

        Raises:
            InputError: a file is missing or damaged, or config and weights differ.
        """
        _, state = read_folder(folder)
        detokenizer = cls(load_config(U2SConfig, Path(folder) / "config.json"))
        load_state(detokenizer, state, folder)
        return detokenizer.eval()


class U2SStream:
    """The state of one stream: bounded windows of units and latent frames, the pulse train's phase, random numbers.

    Two stages wait for their own look-ahead: units become latent frames once ``latent_context.right`` more units are
    known, and latent frames become samples once the frames of ``wave_context.right`` more units are. Each step
    computes its new part with the left context of its stage again, so its cost does not grow with what was said.
    """

    def __init__(
        self, detokenizer: U2SDetokenizer, style_BS: Tensor, *, temperature: float | None, pitch_scale: float, seed: int
    ) -> None:
        if not 0.25 <= pitch_scale <= 4.0:
            raise InputError("the pitch scale must lie between 0.25 and 4")
        self.detokenizer = detokenizer
        self.style_BS = style_BS.float()
        self.temperature = detokenizer.config.temperature if temperature is None else temperature
        self.pitch_scale = pitch_scale
        vits = detokenizer.config.vits
        self.frames = vits.frames_per_unit
        self.draws = Draws(seed, vits.latent_channels, self.frames, detokenizer.samples_per_unit)
        batch, device = style_BS.shape[0], style_BS.device
        # Stage 1: units from `latent_context.left` before the first one without latents.
        self.units_BU = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        self.noise_BZF = torch.zeros(1, vits.latent_channels, 0, device=device)
        self.wave_noise_BT = torch.zeros(1, 0, device=device)
        self.latent_skip = 0  # units at the front of `units_BU` that are context only
        # Stage 2: latent frames from `wave_context.left` units before the first one without samples.
        self.z_BZF = torch.zeros(batch, vits.latent_channels, 0, device=device)
        self.f0_BF = torch.zeros(batch, 0, device=device)
        self.voiced_BF = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        self.phase_BF = torch.zeros(batch, 0, dtype=torch.float64, device=device)
        self.wave_skip = 0
        self.finished = False

    @torch.no_grad()
    def run(self, units_BU: Tensor, mask_B1U: Tensor | None = None) -> Tensor:
        """Take all units at once and finish; only this way takes a mask."""
        self._take(units_BU)
        self._latents(last=True, mask_B1U=mask_B1U)
        self.finished = True
        return self._samples(last=True, mask_B1U=mask_B1U)

    @torch.no_grad()
    def step(self, units_BN: Tensor) -> Tensor:
        """Take ``[B, N]`` new units; give the samples ``[B, t]`` that are certain by now."""
        assert not self.finished, "the stream is finished"
        self._take(units_BN)
        self._latents(last=False)
        return self._samples(last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Give the remaining samples ``[B, t]``."""
        assert not self.finished, "the stream is finished"
        self.finished = True
        self._latents(last=True)
        return self._samples(last=True)

    def _take(self, units_BN: Tensor) -> None:
        assert units_BN.shape[0] == self.style_BS.shape[0]
        size = self.detokenizer.codebook_size
        if units_BN.numel() and not (int(units_BN.min()) >= 0 and int(units_BN.max()) < size):
            raise InputError(f"a unit lies outside 0..{size - 1}; the units belong to another tokenizer")
        latent, wave = self.draws.next(units_BN.shape[1])
        device = self.units_BU.device
        self.units_BU = torch.cat([self.units_BU, units_BN.to(device)], dim=1)
        self.noise_BZF = torch.cat([self.noise_BZF, latent[None].to(device)], dim=2)
        self.wave_noise_BT = torch.cat([self.wave_noise_BT, wave[None].to(device)], dim=1)

    def _latents(self, last: bool, mask_B1U: Tensor | None = None) -> None:
        """Stage 1: latent frames of the units whose look-ahead is known."""
        vits, per = self.detokenizer.vits, self.frames
        known = self.units_BU.shape[1]
        end = known if last else known - vits.latent_context.right
        start = self.latent_skip
        if end <= start:
            return
        mask_B1F = mask_B1U.repeat_interleave(per, dim=-1) if mask_B1U is not None else None
        prior = vits.prior(self.units_BU, self.style_BS, mask_B1U)
        noise = self.noise_BZF * self.temperature if self.temperature > 0 else None
        z_BZF = vits.latents(prior, self.style_BS, noise, mask_B1F)
        new = slice(start * per, end * per)
        self.z_BZF = torch.cat([self.z_BZF, z_BZF[..., new]], dim=2)
        if prior.log_f0_BF is not None and prior.voicing_BF is not None:
            f0_BF, voiced_BF = prior.log_f0_BF.exp() * self.pitch_scale, prior.voicing_BF > 0
            if mask_B1F is not None:  # after its last frame, a row holds its last value, as when decoded alone
                places = torch.arange(f0_BF.shape[1], device=f0_BF.device)[None]
                places_BF = torch.minimum(places, mask_B1F.sum(dim=-1).long() - 1).clamp(min=0)
                f0_BF, voiced_BF = f0_BF.gather(1, places_BF), voiced_BF.gather(1, places_BF)
            self._pitch(f0_BF[:, new], voiced_BF[:, new])
        drop = max(0, end - vits.latent_context.left)
        self.units_BU = self.units_BU[:, drop:]
        self.noise_BZF = self.noise_BZF[..., drop * per :]
        self.latent_skip = end - drop

    def _pitch(self, f0_BF: Tensor, voiced_BF: Tensor) -> None:
        vits = self.detokenizer.config.vits
        before = self.f0_BF.shape[1]
        if before:  # go on from the last frame
            start_B = self.phase_BF[:, -1]
            f0_all = torch.cat([self.f0_BF[:, -1:], f0_BF], dim=1)
            voiced_all = torch.cat([self.voiced_BF[:, -1:], voiced_BF], dim=1)
            phase_BF = frame_phases(f0_all, voiced_all, start_B, vits.sample_rate, vits.hop_length)[:, 1:]
        else:
            start_B = torch.zeros(f0_BF.shape[0], dtype=torch.float64, device=f0_BF.device)
            phase_BF = frame_phases(f0_BF, voiced_BF, start_B, vits.sample_rate, vits.hop_length)
        self.f0_BF = torch.cat([self.f0_BF, f0_BF], dim=1)
        self.voiced_BF = torch.cat([self.voiced_BF, voiced_BF], dim=1)
        self.phase_BF = torch.cat([self.phase_BF, phase_BF], dim=1)

    def _samples(self, last: bool, mask_B1U: Tensor | None = None) -> Tensor:
        """Stage 2: samples of the latent frames whose look-ahead is known."""
        vits, per, size = self.detokenizer.vits, self.frames, self.detokenizer.samples_per_unit
        known = self.z_BZF.shape[2] // per
        end = known if last else known - vits.wave_context.right
        start = self.wave_skip
        if end <= start:
            return torch.zeros(self.style_BS.shape[0], 0, device=self.style_BS.device)
        excitation = None
        if vits.pitch is not None:
            noise_BT = self.wave_noise_BT[:, : known * size].expand(self.style_BS.shape[0], -1)
            excitation = vits.excite(self.f0_BF, self.voiced_BF, self.phase_BF, noise_BT)
        mask_B1F = mask_B1U.repeat_interleave(per, dim=-1) if mask_B1U is not None else None
        samples_BT = vits.head(self.z_BZF, self.style_BS, excitation, mask_B1F).clamp(-1.0, 1.0)
        samples_BT = samples_BT[:, start * size : end * size]
        drop = max(0, end - vits.wave_context.left)
        self.z_BZF = self.z_BZF[..., drop * per :]
        self.f0_BF = self.f0_BF[:, drop * per :]
        self.voiced_BF = self.voiced_BF[:, drop * per :]
        self.phase_BF = self.phase_BF[:, drop * per :]
        self.wave_noise_BT = self.wave_noise_BT[:, drop * size :]
        self.wave_skip = end - drop
        return samples_BT
