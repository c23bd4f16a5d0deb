"""The excitation of the voice: a band-limited pulse train that follows F0, and white noise.

A neural source-filter model (Wang et al. 2019) shapes such an excitation, so that the pitch of the output is the pitch
that was asked for. The pulse train is written in closed form (all harmonics at once), and its phase is carried from
frame to frame, so that a stream continues where it was. F0 values stand at the centres of frames, sample
``f * hop + hop / 2``, and change linearly between them.

Shapes: B batch, F frames, T = F * hop samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_F0, MAX_F0 = 50.0, 800.0  # Hz


@dataclass(frozen=True)
class PitchFrame:
    """The last frame of what came before, each ``[B, 1]``: Hz, whether there is a voice, cycles."""

    f0_B1: Tensor
    voiced_B1: Tensor
    phase_B1: Tensor


def frame_phases(f0_BF: Tensor, voiced_BF: Tensor, start_B: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """The phase at each frame's centre, cycles in [0, 1), float64 ``[B, F]``.

    ``start_B`` is the phase at the first frame if that is voiced. The phase is 0 on unvoiced frames: each voiced
    stretch begins anew, so rounding errors don't grow with the length of the speech.
    """
    f0_BF = f0_BF.double()
    steps_BF = torch.zeros_like(f0_BF)
    steps_BF[:, 1:] = (f0_BF[:, 1:] + f0_BF[:, :-1]) * (0.5 * hop_length / sample_rate)
    travelled_BF = steps_BF.cumsum(dim=1) + start_B.double()[:, None]
    begun_BF = torch.where(voiced_BF, torch.zeros_like(travelled_BF), travelled_BF).cummax(dim=1).values
    return (travelled_BF - begun_BF) % 1.0


def pulse_train(
    f0_BF: Tensor, voiced_BF: Tensor, phase_BF: Tensor, sample_rate: int, hop_length: int,
    before: PitchFrame | None = None, ends: bool = True,
) -> Tensor:  # fmt: skip
    """``[B, T]`` a sum of equal cosines at all multiples of F0 below Nyquist, of unit power where voiced.

    Args:
        f0_BF: Hz, also between voiced stretches.
        voiced_BF: True where there is a voice; the amplitude changes linearly between frames.
        phase_BF: cycles at the centres of the frames, from ``frame_phases``.
        before: of a train that goes on, the frame before the first: T begins at its centre, not at the first's edge.
        ends: no frame follows; else T ends at the last centre.
    """
    half = hop_length // 2
    f0_BF = f0_BF.float().clamp(MIN_F0, MAX_F0)
    # One segment from centre to centre; the half frames before the first and after the last centre hold their values.
    if before is None:
        first = phase_BF[:, :1] - f0_BF[:, :1].double() * hop_length / sample_rate
        f0, level, phase = f0_BF[:, :1], voiced_BF[:, :1], first
    else:
        f0, level, phase = before.f0_B1.float().clamp(MIN_F0, MAX_F0), before.voiced_B1, before.phase_B1
    f0, level = torch.cat([f0, f0_BF], dim=1), torch.cat([level, voiced_BF], dim=1).float()
    phase = torch.cat([phase, phase_BF], dim=1)
    if ends:
        f0, level = torch.cat([f0, f0[:, -1:]], dim=1), torch.cat([level, level[:, -1:]], dim=1)
    else:
        phase = phase[:, :-1]
    phase = (phase % 1.0).float()[..., None]
    tau = torch.arange(hop_length, device=f0.device, dtype=torch.float32)
    begin, slope = f0[:, :-1, None], (f0[:, 1:, None] - f0[:, :-1, None]) / hop_length
    cycles = phase + (begin * tau + 0.5 * slope * tau.square()) / sample_rate
    f0_now = begin + slope * tau
    amplitude = level[:, :-1, None] + (level[:, 1:, None] - level[:, :-1, None]) * (tau / hop_length)

    angle = (cycles - cycles.round()) * (2 * math.pi)
    count = 0.48 * sample_rate / f0_now
    whole = count.floor()
    # sum of cos(k x), k = 1..K, is (sin((K + 1/2) x) / sin(x / 2) - 1) / 2; the last harmonic fades in and out.
    divisor = torch.sin(0.5 * angle)
    small = divisor.abs() < 1e-4
    quotient = torch.sin((whole + 0.5) * angle) / torch.where(small, torch.ones_like(divisor), divisor)
    cosines = 0.5 * torch.where(small, 2 * whole + 1, quotient) - 0.5
    cosines = cosines + (count - whole) * torch.cos((whole + 1) * angle)
    pulses = amplitude * cosines * torch.sqrt(2.0 / count)
    end = pulses.shape[1] * hop_length
    return pulses.flatten(1)[:, half if before is None else 0 : end - (hop_length - half) if ends else end]
