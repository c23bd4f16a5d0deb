"""Speech for the unit-to-speech decoders: shards decoded once into memory maps.

For each shard the cache has a folder with int16 samples at 24 kHz, F0 at 100 Hz and an index, and, for each tokenizer
that it is asked for, the units. Each folder and file appears whole or not at all, so an interrupted run goes on where
it was. Time is cut into ticks of 40 ms; units that last longer stand at each of theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch

from emova.checkpoint.loading import find_part
from emova.checkpoint.registry import load_tokenizer
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.core.writing import staged_output, write_text
from emova_data.records.recordings import read_recordings
from emova_train.core import renamed
from emova_train.s2u.data import other_vocal_tract, perturb
from emova_train.u2s.config import U2SDataConfig

SAMPLE_RATE = 24000
UNIT_SAMPLES = 960
HOP = 240
FRAMES_PER_UNIT = UNIT_SAMPLES // HOP
NEUTRAL = ("neutral", "normal")
AUGMENTED = "-rough"
"""What ends the name of units that were heard from other vocal tracts, through rooms and noise, as caches have it."""


@dataclass(frozen=True)
class Utterance:
    """One utterance in the cache: its place in the shard's arrays, in ticks of 40 ms (EMOVA's units)."""

    key: str
    shard: int
    start: int
    units: int
    text: str
    voice: str
    gender: str
    emotion: str
    pitch: str

    @property
    def style(self) -> tuple[str, str, str, str]:
        """What an utterance must share to be a style reference."""
        return self.voice, self.gender, self.emotion, self.pitch


def measure_f0(samples: np.ndarray) -> np.ndarray:
    """F0 in Hz at the centres of the 10 ms frames, 0 where unvoiced: ``[T // 240]`` float32, by WORLD's DIO."""
    import pyworld

    # Values come at multiples of 10 ms; half a frame is cut off so that they stand at the frames' centres.
    signal = samples[HOP // 2 :].astype(np.float64) / 32768
    coarse, times = pyworld.dio(signal, SAMPLE_RATE, f0_floor=60.0, f0_ceil=700.0, frame_period=10.0)
    f0 = pyworld.stonemask(signal, coarse, times, SAMPLE_RATE).astype(np.float32)
    frames = len(samples) // HOP
    return np.pad(f0, (0, max(0, frames - len(f0))))[:frames]


def shard_folder(path: str, cache: str) -> Path:
    """Where the cache keeps the shard ``path``; a changed shard gets another folder."""
    stat = os.stat(path)
    return Path(cache) / f"{Path(path).stem}-{stat.st_size}-{int(stat.st_mtime)}"


def _save(path: Path, array: np.ndarray) -> None:
    with staged_output(path) as file:
        np.save(file, array)


def cache_shard(path: str, cache: str) -> Path:
    """Decode ``path`` and measure F0 unless that is done already; gives the folder."""
    folder = shard_folder(path, cache)
    if (folder / "index.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    index, audio, pitch, start = [], [], [], 0
    for recording in read_recordings(path, SAMPLE_RATE):
        meta, samples = recording.record, recording.pcm16()
        units = len(samples) // UNIT_SAMPLES
        if units < 1:
            continue
        kept = np.ascontiguousarray(samples[: units * UNIT_SAMPLES])
        names = {name: meta.get(name) or "" for name in ("text", "voice", "gender", "emotion", "pitch")}
        index.append({"key": recording.key, "start": start, "units": units, **names})
        audio.append(kept)
        pitch.append(measure_f0(kept))
        start += units
    _save(folder / "audio.npy", np.concatenate(audio) if audio else np.zeros(0, np.int16))
    _save(folder / "f0.npy", np.concatenate(pitch) if pitch else np.zeros(0, np.float32))
    write_text(folder / "index.json", json.dumps(index))
    return folder


def kinds_of_units(config: U2SDataConfig) -> dict[str, str]:
    """The names that the units go by in the cache, each with the folder of its tokenizer; the first is validated on."""
    named = {tokenizer_hash(folder): folder for folder in (config.tokenizer, *config.other_tokenizers)}
    if config.augmented:
        named[next(iter(named)) + AUGMENTED] = config.tokenizer
    return named


def tokenizer_hash(folder: str) -> str:
    """A name for the weights in a tokenizer's folder."""
    weights = find_part(folder, "speech_tokenizer") / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: missing; train the tokenizer first (emova train s2u)")
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def ticks_of(unit_rate: float) -> int:
    """Ticks of 40 ms that a unit lasts. Raises: InputError: no whole number."""
    ticks = round(SAMPLE_RATE / UNIT_SAMPLES / unit_rate)
    if ticks < 1 or ticks * unit_rate != SAMPLE_RATE / UNIT_SAMPLES:
        raise InputError(f"a tokenizer of {unit_rate:g} units a second: voices are trained on 25, 12.5 or 6.25")
    return ticks


def cache_units(folder: Path, tokenizer_folder: str, name: str) -> None:
    """Write the units of a cached shard as ``units-NAME.npy``, aligned with its audio; augmented if NAME says so."""
    target = folder / f"units-{name}.npy"
    if target.is_file():
        return
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(find_part(tokenizer_folder, "speech_tokenizer"))
    ticks = ticks_of(tokenizer.unit_rate)
    audio = np.load(folder / "audio.npy", mmap_mode="r")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    units = np.zeros(len(audio) // UNIT_SAMPLES, np.int16)
    order = sorted(index, key=lambda entry: entry["units"])
    with torch.inference_mode():
        for first in range(0, len(order), 16):
            batch = order[first : first + 16]
            heard = []
            for entry in batch:
                cut = audio[entry["start"] * UNIT_SAMPLES : (entry["start"] + entry["units"]) * UNIT_SAMPLES]
                heard.append(soxr.resample(cut.astype(np.float32) / 32768, SAMPLE_RATE, 16000))
            if name.endswith(AUGMENTED):  # the time axis stays, so that the sound to make is still the clear one
                rngs = [generator("rough", entry["key"]) for entry in batch]
                heard = [other_vocal_tract(wave, rng) for wave, rng in zip(heard, rngs, strict=True)]
                heard = [
                    perturb(wave, heard[i - 1], rng) for i, (wave, rng) in enumerate(zip(heard, rngs, strict=True))
                ]
            waves = [torch.from_numpy(wave) for wave in heard]
            lengths = torch.tensor([len(wave) for wave in waves])
            samples = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            for entry, row in zip(batch, tokenizer.encode(samples, lengths), strict=True):
                lasting = row.repeat_interleave(ticks)
                count = min(entry["units"], len(lasting))
                units[entry["start"] : entry["start"] + count] = lasting[:count].numpy()
    _save(target, units)


def _prepare_shard(path: str, cache: str, kinds: dict[str, str]) -> str:
    torch.set_num_threads(1)
    folder = cache_shard(path, cache)
    for name, tokenizer in kinds.items():
        cache_units(folder, tokenizer, name)
    return path


def find_shards(patterns: Sequence[str]) -> list[str]:
    """The files of the patterns, sorted. Raises: InputError if a pattern has none."""
    paths: list[str] = []
    for pattern in patterns:
        found = renamed.find_shards(pattern)
        if not found:
            raise InputError(f"{pattern}: no such shards; make them with the data recipe first")
        paths.extend(found)
    return paths


def prepare(config: U2SDataConfig, *, units: bool = True, rank: int = 0, of: int = 1) -> None:
    """Fill the cache for the shards that are this process's, as one ``of`` so many; with ``units`` also the tokenizers'
    units. What is streamed is not cached."""
    paths = find_shards([*(() if config.stream.enabled else config.train), *config.validation])[rank::of]
    work = partial(_prepare_shard, cache=config.cache, kinds=kinds_of_units(config) if units else {})
    if config.processes <= 1:
        for done, path in enumerate(map(work, paths), start=1):
            print(f"{done}/{len(paths)} {path}", file=sys.stderr)
        return
    import multiprocessing

    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, path in enumerate(pool.map(work, paths), start=1):
            print(f"{done}/{len(paths)} {path}", file=sys.stderr)


class SpeechStore:
    """The cached utterances of some shards, read by memory map, with their units of one or more kinds.

    Args:
        ticks: that a unit lasts, see ``ticks_of``.
    """

    def __init__(self, patterns: Sequence[str], cache: str, *kinds: str, ticks: int = 1) -> None:
        self.kinds, self.ticks = kinds, ticks
        self.utterances: list[Utterance] = []
        self._audio: list[np.ndarray] = []
        self._f0: list[np.ndarray] = []
        self._units: list[list[np.ndarray]] = []
        for path in find_shards(patterns):
            folder = shard_folder(path, cache)
            units_paths = [folder / f"units-{kind}.npy" for kind in kinds]
            if not all(path.is_file() for path in units_paths):
                raise InputError(f"{path}: not in the cache with these units; run emova train u2s first")
            for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
                self.utterances.append(Utterance(shard=len(self._audio), **entry))
            self._audio.append(np.load(folder / "audio.npy", mmap_mode="r"))
            self._f0.append(np.load(folder / "f0.npy", mmap_mode="r"))
            self._units.append([np.load(path, mmap_mode="r") for path in units_paths])
        if not self.utterances:
            raise InputError(f"{', '.join(patterns)}: no recording is long enough to learn from; give others")
        self.by_style: dict[tuple[str, str, str, str], list[int]] = {}
        self._neutral: dict[tuple[str, str, str], int] = {}
        for index, utterance in enumerate(self.utterances):
            self.by_style.setdefault(utterance.style, []).append(index)
            if (utterance.emotion, utterance.pitch) == NEUTRAL:
                self._neutral[utterance.text, utterance.voice, utterance.gender] = index

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def hours(self) -> float:
        """All speech."""
        return sum(utterance.units for utterance in self.utterances) * UNIT_SAMPLES / SAMPLE_RATE / 3600

    def samples(self, index: int, start: int = 0, end: int | None = None) -> np.ndarray:
        """Float32 samples of the ticks from ``start`` to ``end``."""
        first, last = self._span(index, start, end)
        return self._audio[self.utterances[index].shard][first * UNIT_SAMPLES : last * UNIT_SAMPLES] / np.float32(32768)

    def f0(self, index: int, start: int = 0, end: int | None = None) -> np.ndarray:
        """Hz a frame, 0 where unvoiced."""
        first, last = self._span(index, start, end)
        return np.asarray(
            self._f0[self.utterances[index].shard][first * FRAMES_PER_UNIT : last * FRAMES_PER_UNIT], np.float32
        )

    def units(self, index: int, kind: int = 0) -> np.ndarray:
        """All units of the utterance, of one of the ``kinds``."""
        first, last = self._span(index, 0, None)
        return np.asarray(self._units[self.utterances[index].shard][kind][first : last : self.ticks], np.int64)

    def neutral(self, index: int) -> int | None:
        """The neutral rendering of the same sentence by the same voice, if it has the same length."""
        utterance = self.utterances[index]
        other = self._neutral.get((utterance.text, utterance.voice, utterance.gender))
        if other is None or self.utterances[other].units != utterance.units:
            return None
        return other

    def _span(self, index: int, start: int, end: int | None) -> tuple[int, int]:
        utterance = self.utterances[index]
        end = utterance.units if end is None else end
        assert 0 <= start <= end <= utterance.units
        return utterance.start + start, utterance.start + end
