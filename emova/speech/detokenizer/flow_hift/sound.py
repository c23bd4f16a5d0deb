"""Mel frames to sound while the frames come: by a vocoder with a source, or by one of the heads that U2S has.

Shapes: B batch, M mel bins, F frames, T samples, N harmonics, S the speaker's vector.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.speech.detokenizer.flow_hift.harmonic import HarmonicNoise
from emova.speech.detokenizer.flow_hift.hift import HiFT
from emova.speech.detokenizer.layers import Past
from emova.speech.detokenizer.waveform_heads import WaveformHeadConfig, build_head

REACH = 16
"""Frames to each side that hold all that a frame's sound depends on."""


class SoundStream(Protocol):
    """One utterance's frames to sound; what it keeps and what a step costs do not grow with the utterance."""

    def step(self, mel_BMF: Tensor, ended: bool) -> Tensor:
        """Take the next frames (any number); give the samples ``[B, T]`` that are certain, all if they ended."""
        ...


class DrivenSound:
    """A ``SoundStream`` of a vocoder with a source: the pitch's phase goes on where it was, a frame is heard with its
    neighbours.

    Args:
        draws: of the harmonics' phases and the noise, the same for all rows.
    """

    def __init__(self, vocoder: HiFT | HarmonicNoise, batch: int, device: torch.device, draws: torch.Generator) -> None:
        self._vocoder, self._draws = vocoder, draws
        config = vocoder.config
        self._mel_BMF = torch.zeros(batch, config.mels, 0, device=device)
        self._turns_B = torch.zeros(batch, dtype=torch.float64, device=device)
        phases_BN = (torch.rand(1, vocoder.draws, generator=draws) * 2 - 1) * math.pi
        phases_BN[:, 0] = 0
        self._phases_BN = phases_BN.expand(batch, -1).to(device)
        nothing = (torch.zeros(batch, 0, device=device), self._turns_B, self._phases_BN)
        self._driven, _ = vocoder.source(*nothing, torch.zeros(batch, vocoder.draws, 0, device=device))
        """``[B, T]``, or ``[B, 2, T]`` where noise is apart."""
        self._sounded = 0  # of the frames that are kept, like all numbers of frames here

    def step(self, mel_BMF: Tensor, ended: bool) -> Tensor:
        vocoder, hop = self._vocoder, self._vocoder.config.hop
        self._mel_BMF = torch.cat([self._mel_BMF, mel_BMF], dim=2)
        frames, around = self._mel_BMF.shape[2], vocoder.pitch.context
        driven = self._driven.shape[-1] // hop
        certain = frames if ended else max(driven, frames - around)
        if certain > driven:
            first = max(0, driven - around)
            f0_BF = vocoder.pitch(self._mel_BMF[..., first:])[:, driven - first : certain - first]
            noise = [torch.randn(1, vocoder.draws, hop, generator=self._draws) for _ in range(certain - driven)]
            noise_BNT = torch.cat(noise, dim=2).expand(len(f0_BF), -1, -1).to(f0_BF.device)
            source, self._turns_B = vocoder.source(f0_BF, self._turns_B, self._phases_BN, noise_BNT)
            self._driven = torch.cat([self._driven, source], dim=-1)
        last = frames if ended else max(self._sounded, certain - REACH)
        if last == self._sounded:
            return torch.zeros(len(self._mel_BMF), 0, device=self._mel_BMF.device)
        first, end = max(0, self._sounded - REACH), min(certain, last + REACH)
        samples_BT = vocoder(self._mel_BMF[..., first:end], self._driven[..., first * hop : end * hop])
        samples_BT = samples_BT[:, (self._sounded - first) * hop : (last - first) * hop]
        # The next step looks back over REACH frames of sound, and the pitch over its context of what is not driven yet.
        dropped = max(0, min(last - REACH, certain - around))
        self._mel_BMF = self._mel_BMF[..., dropped:]
        self._driven = self._driven[..., dropped * hop :]
        self._sounded = last - dropped
        return samples_BT


class MelHead(nn.Module):
    """One of U2S's heads over mel frames, in the speaker's voice; not driven by a pitch, which the frames show.

    Args:
        n_fft, hop: of the frames, samples.
    """

    def __init__(self, config: WaveformHeadConfig, mels: int, speaker_size: int, n_fft: int, hop: int) -> None:
        super().__init__()
        self.head = build_head(config, mels, speaker_size, n_fft, hop, driven=False)

    def forward(self, mel_BMF: Tensor, speaker_BS: Tensor, past: Past | None = None) -> Tensor:
        """``[B, M, F]`` to ``[B, T]``, in a stream to the samples that are certain."""
        return self.head(mel_BMF, functional.normalize(speaker_BS, dim=1), None, None, past)


class HeadSound:
    """A ``SoundStream`` of a ``MelHead``: nothing is computed twice."""

    def __init__(self, head: MelHead, speaker_BS: Tensor) -> None:
        self._head, self._speaker_BS, self._past = head, speaker_BS, Past()
        self._begun = False

    def step(self, mel_BMF: Tensor, ended: bool) -> Tensor:
        if not mel_BMF.shape[2] and not (ended and self._begun):
            return torch.zeros(len(mel_BMF), 0, device=mel_BMF.device)
        self._begun, self._past.ending = True, ended
        return self._head(mel_BMF, self._speaker_BS, self._past).clamp(-1.0, 1.0)
