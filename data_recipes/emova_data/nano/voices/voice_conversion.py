"""Voice conversion: recordings analysed and resynthesised by WORLD as other speakers, so that few voices become many.

Of a clip's voice everything changes but its words: F0 level and range, vocal tract, tempo, breath, and how finely the
envelope follows the harmonics, as other speakers' and as vocoders' and diphone synthesizers' do (WORLD: Morise et al.
2016; changing the speaker to learn units without one: Choi et al. 2021, NANSY).

Shape letters: T samples, F frames of 5 ms, N frequency bins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from emova.core.seeding import generator
from emova_data.nano.speech.labelled import RATE
from emova_data.nano.speech.shard_maker import (
    ShardInfo,
    encode_flac,
    in_processes,
    read_info,
    remove_others,
    write_shard,
)
from emova_data.records.recordings import RecordingFields, read_recordings

FRAME_MS = 5.0
F0_HZ = (60.0, 600.0)
OF_SETS = ("actors", "real", "s2u_kokoro", "question_kokoro")
"""The sets of natural voices: a voice made by rule gains little from another rule."""
_FORMAT = 1


@dataclass(frozen=True)
class VoiceChange:
    """How a voice is changed.

    Args:
        f0: factor of the F0 level.
        f0_range: factor of the F0's logarithm around its mean; 0 is monotonous.
        tract: factor of the formants' frequencies.
        tempo: factor of the speed.
        aperiodicity: exponent of the share of noise: below 1 breathier, above 1 more buzzing.
        smooth: cepstral coefficients that are kept of the envelope; 0 keeps all.
        tilt_db: at 8 kHz against 0 Hz.
    """

    f0: float
    f0_range: float
    tract: float
    tempo: float
    aperiodicity: float
    smooth: int
    tilt_db: float


def draw_change(rng: np.random.Generator) -> VoiceChange:
    """A random change."""
    return VoiceChange(
        f0=float(np.exp(rng.uniform(-0.5, 0.5))),
        f0_range=float(rng.uniform(0.0, 1.7)),
        tract=float(np.exp(rng.uniform(-0.18, 0.18))),
        tempo=float(np.exp(rng.uniform(-0.2, 0.2))),
        aperiodicity=float(np.exp(rng.uniform(-0.7, 1.6))),
        smooth=int(rng.integers(14, 40)) if rng.random() < 0.5 else 0,
        tilt_db=float(rng.normal(0, 5)),
    )


def convert(samples: np.ndarray, change: VoiceChange) -> np.ndarray:
    """``samples`` [T] float32 at 16 kHz in another voice; the level stays, the length changes by the tempo."""
    import pyworld

    signal = samples.astype(np.float64)
    coarse, times = pyworld.dio(signal, RATE, f0_floor=F0_HZ[0], f0_ceil=F0_HZ[1], frame_period=FRAME_MS)
    f0_F = pyworld.stonemask(signal, coarse, times, RATE)
    envelope_FN = pyworld.cheaptrick(signal, f0_F, times, RATE)
    noise_FN = pyworld.d4c(signal, f0_F, times, RATE)
    voiced = f0_F > 0
    if voiced.any():
        pitch_F = np.log(f0_F[voiced])
        mean = pitch_F.mean()
        f0_F[voiced] = np.exp(mean + np.log(change.f0) + (pitch_F - mean) * change.f0_range).clip(50.0, 700.0)
    log_FN = np.log(envelope_FN + 1e-12)
    bins_N = np.arange(log_FN.shape[1])
    source_N = np.minimum(bins_N / change.tract, bins_N[-1])
    low_N = np.minimum(source_N.astype(int), bins_N[-1] - 1)
    part_N = source_N - low_N
    log_FN = log_FN[:, low_N] * (1 - part_N) + log_FN[:, low_N + 1] * part_N
    if change.smooth:
        cepstrum = np.fft.irfft(log_FN, axis=1)
        cepstrum[:, change.smooth : -change.smooth + 1] = 0
        log_FN = np.fft.rfft(cepstrum, axis=1).real
    log_FN = log_FN + bins_N / bins_N[-1] * change.tilt_db * np.log(10) / 10
    noise_FN = noise_FN**change.aperiodicity
    at_F = np.minimum(np.arange(0, len(f0_F), change.tempo).astype(int), len(f0_F) - 1)
    converted = pyworld.synthesize(
        f0_F[at_F], np.exp(log_FN[at_F]), np.ascontiguousarray(noise_FN[at_F]).clip(0, 1), RATE, FRAME_MS
    )
    level = np.sqrt(np.mean(signal**2) / max(float(np.mean(converted**2)), 1e-12))
    converted = converted * level
    peak = float(np.abs(converted).max(initial=0.0))
    return (converted * (0.99 / peak if peak > 0.99 else 1.0)).astype(np.float32)


def make_converted(
    folder: Path, shards: Sequence[Path], seed: int, jobs: int = 1, report: Callable[[ShardInfo], None] = lambda i: None
) -> list[ShardInfo]:
    """Write ``voice_conversion-train`` shards, one for each of ``shards`` (training shards of ``folder``)."""
    work = [
        (folder / f"voice_conversion-train-{number:06d}.tar", shard, seed)
        for number, shard in enumerate(sorted(shards))
    ]
    infos = []
    for info in in_processes(_convert_shard, work, jobs):
        infos.append(info)
        report(info)
    remove_others(folder, "voice_conversion-train", {info.name for info in infos})
    return infos


def _convert_shard(job: tuple[Path, Path, int]) -> ShardInfo:
    path, shard, seed = job
    made_of = read_info(shard)
    plan = hashlib.sha256(json.dumps([_FORMAT, seed, made_of and made_of.sha256]).encode()).hexdigest()
    info = read_info(path)
    if info is not None and info.plan == plan:
        return info
    samples: list[tuple[str, bytes, RecordingFields]] = []
    for recording in read_recordings(shard, RATE):
        change = draw_change(generator("throat", seed, recording.key))  # the name is part of the seed
        converted = convert(recording.samples, change)
        meta: RecordingFields = {
            **recording.record, "alignment": None, "set": "voice_conversion", "family": "voice_conversion",
            "change": asdict(change), "seconds": round(len(converted) / RATE, 4),
        }  # fmt: skip
        samples.append((f"converted_{recording.key}", encode_flac(converted, RATE), meta))
    return write_shard(path, plan, samples)
