"""Speech for the unit-to-speech decoder: shards decoded once into memory maps, and random windows of them.

``python -m emova_train.u2s.data configs/u2s/nano.yaml`` fills the cache: for each shard a folder with int16 samples at
24 kHz, F0 at 100 Hz and an index, and, for each tokenizer that it is asked for, the units. Each folder and file appears
whole or not at all, so an interrupted run goes on where it was.

Shapes: B windows, U units of a window with its context, W units of a window, T samples, F frames.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.core.writing import staged_output, write_text
from emova_data.records.recordings import read_recordings
from emova_train.s2u.data import from_a_stranger, perturb

SAMPLE_RATE = 24000
UNIT_SAMPLES = 960
HOP = 240
FRAMES_PER_UNIT = UNIT_SAMPLES // HOP
NEUTRAL = ("neutral", "normal")
ROUGH = "-rough"
"""What ends the name of units that were heard from other vocal tracts, through rooms and noise."""


@dataclass(frozen=True)
class U2SDataConfig:
    """Shards by glob patterns, the cache, and how a window is cut."""

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    cache: str = "data/cache/u2s"
    tokenizer: str = ""  # folder of the speech tokenizer that makes the units
    other_tokenizers: list[str] = field(default_factory=list)  # whose units shall be spoken too: earlier versions
    rough: bool = False  # units that the first one heard from other throats in rooms, too; each window draws a kind
    processes: int = 2
    window_units: int = 20  # decided by the losses of prior, posterior and pitch
    context_left: int = 10  # units before the window that the unit encoder hears
    context_right: int = 6
    reference_seconds: float = 2.5  # of another utterance in the same style
    neutral_units: float = 0.5  # share of windows whose units come from the neutral rendering of the sentence
    digit_noise: float = 0.03  # share of a unit's digits that move to a neighbouring level: units from another voice
    levels: tuple[int, ...] = (8, 8, 8, 8)  # of the digits, least significant first; empty for no such noise
    validation_windows: int = 64


@dataclass(frozen=True)
class Utterance:
    """One utterance in the cache: its place in the shard's arrays, in units."""

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
    rough, times = pyworld.dio(signal, SAMPLE_RATE, f0_floor=60.0, f0_ceil=700.0, frame_period=10.0)
    f0 = pyworld.stonemask(signal, rough, times, SAMPLE_RATE).astype(np.float32)
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
    if config.rough:
        named[next(iter(named)) + ROUGH] = config.tokenizer
    return named


def tokenizer_hash(folder: str) -> str:
    """A name for the weights in a tokenizer's folder."""
    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: missing; train the tokenizer first (python -m emova_train.s2u.program)")
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def cache_units(folder: Path, tokenizer_folder: str, name: str) -> None:
    """Write the units of a cached shard as ``units-NAME.npy``, aligned with its audio; rough ones if NAME says so."""
    target = folder / f"units-{name}.npy"
    if target.is_file():
        return
    from emova.speech.tokenizer.s2u import S2UTokenizer

    torch.set_num_threads(1)
    tokenizer = S2UTokenizer.from_pretrained(tokenizer_folder)
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
            if name.endswith(ROUGH):  # the time axis stays, so that the sound to make is still the clear one
                rngs = [generator("rough", entry["key"]) for entry in batch]
                heard = [from_a_stranger(wave, rng) for wave, rng in zip(heard, rngs, strict=True)]
                heard = [
                    perturb(wave, heard[i - 1], rng) for i, (wave, rng) in enumerate(zip(heard, rngs, strict=True))
                ]
            waves = [torch.from_numpy(wave) for wave in heard]
            lengths = torch.tensor([len(wave) for wave in waves])
            samples = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            for entry, row in zip(batch, tokenizer.encode(samples, lengths), strict=True):
                count = min(entry["units"], len(row))
                units[entry["start"] : entry["start"] + count] = row[:count].numpy()
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
        found = sorted(glob.glob(pattern))
        if not found:
            raise InputError(f"{pattern}: no such shards; make them with the data recipe first")
        paths.extend(found)
    return paths


def prepare(config: U2SDataConfig, *, units: bool = True) -> None:
    """Fill the cache for all shards; with ``units`` also the tokenizers' units."""
    paths = find_shards([*config.train, *config.validation])
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
    """The cached utterances of some shards, read by memory map, with their units of one or more kinds."""

    def __init__(self, patterns: Sequence[str], cache: str, *kinds: str) -> None:
        self.kinds = kinds
        self.utterances: list[Utterance] = []
        self._audio: list[np.ndarray] = []
        self._f0: list[np.ndarray] = []
        self._units: list[list[np.ndarray]] = []
        for path in find_shards(patterns):
            folder = shard_folder(path, cache)
            units_paths = [folder / f"units-{kind}.npy" for kind in kinds]
            if not all(path.is_file() for path in units_paths):
                raise InputError(f"{path}: not in the cache with these units; run python -m emova_train.u2s.data first")
            for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
                self.utterances.append(Utterance(shard=len(self._audio), **entry))
            self._audio.append(np.load(folder / "audio.npy", mmap_mode="r"))
            self._f0.append(np.load(folder / "f0.npy", mmap_mode="r"))
            self._units.append([np.load(path, mmap_mode="r") for path in units_paths])
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
        """Float32 samples of the units from ``start`` to ``end``."""
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
        return np.asarray(self._units[self.utterances[index].shard][kind][first:last], np.int64)

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


def continuous(f0: np.ndarray) -> np.ndarray:
    """F0 with its unvoiced gaps filled on the logarithmic scale; 180 Hz where there is no voice at all."""
    voiced = np.flatnonzero(f0 > 0)
    if not len(voiced):
        return np.full_like(f0, 180.0)
    return np.exp(np.interp(np.arange(len(f0)), voiced, np.log(f0[voiced]))).astype(np.float32)


def place(values: np.ndarray, start: int, count: int) -> np.ndarray:
    """``values[start : start + count]``, zeros where that lies outside."""
    result = np.zeros(count, values.dtype)
    first, last = max(start, 0), min(start + count, len(values))
    if last > first:
        result[first - start : last - start] = values[first:last]
    return result


def shake_digits(units: np.ndarray, levels: Sequence[int], share: float) -> np.ndarray:
    """Units with a random ``share`` of their digits moved up or down by one level."""
    result, value = np.zeros_like(units), 1
    for level in levels:
        digit = units // value % level
        step = np.where(np.random.random(units.shape) < share, np.random.choice([-1, 1], units.shape), 0)
        result = result + np.clip(digit + step, 0, level - 1) * value
        value *= level
    return result if levels else units


class Windows(Dataset[dict[str, Tensor]]):
    """A random window of each utterance, with a reference of the same style.

    A window may begin before and end after the utterance: the decoder also learns how speech begins and ends.
    """

    def __init__(
        self, store: SpeechStore, config: U2SDataConfig, *, limit: int | None = None, noisy: bool = True
    ) -> None:
        self.store = store
        self.config = config
        self.noisy = noisy
        self.indices = list(range(len(store)))
        if limit is not None and len(store) > limit:
            self.indices = [round(place) for place in np.linspace(0, len(store) - 1, limit)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Drawn from torch's and numpy's global generators, which the training loop seeds for each batch."""
        config, store = self.config, self.store
        chosen = self.indices[index]
        utterance = store.utterances[chosen]
        window = config.window_units
        low, high = -2, max(-1, utterance.units - window + 3)
        start = int(np.random.randint(low, high))
        source = chosen
        if np.random.random() < config.neutral_units:
            source = store.neutral(chosen) if store.neutral(chosen) is not None else chosen  # type: ignore[assignment]
        around = (start - config.context_left, window + config.context_left + config.context_right)
        f0 = store.f0(chosen)
        filled = continuous(f0)
        frames = (start * FRAMES_PER_UNIT, window * FRAMES_PER_UNIT)
        f0_window = place(filled, *frames)
        kind = int(np.random.randint(len(store.kinds))) if self.noisy and len(store.kinds) > 1 else 0
        units = store.units(source, kind)
        if self.noisy and config.digit_noise > 0:
            units = shake_digits(units, config.levels, config.digit_noise)
        return {
            "units": torch.from_numpy(place(units, *around)),
            "unit_mask": torch.from_numpy(place(np.ones(utterance.units, np.float32), *around))[None],
            "audio": torch.from_numpy(place(store.samples(chosen), start * UNIT_SAMPLES, window * UNIT_SAMPLES)),
            "f0": torch.from_numpy(np.where(f0_window > 0, f0_window, filled[0 if start < 0 else -1])),
            "f0_level": torch.tensor(np.log(f0[f0 > 0]).mean() if (f0 > 0).any() else np.log(180.0)).float(),
            "voiced": torch.from_numpy(place(f0 > 0, *frames)),
            "reference": torch.from_numpy(self.reference(chosen)),
        }

    def reference(self, index: int) -> np.ndarray:
        """Samples of another utterance in the style of ``index`` (of itself where there is no other)."""
        alike = self.store.by_style[self.store.utterances[index].style]
        pick = alike[int(np.random.randint(len(alike)))]
        if pick == index and len(alike) > 1:
            pick = alike[(alike.index(pick) + 1) % len(alike)]
        length = int(self.config.reference_seconds * SAMPLE_RATE / UNIT_SAMPLES)
        units = self.store.utterances[pick].units
        start = int(np.random.randint(max(1, units - length + 1)))
        return self.store.samples(pick, start, min(units, start + length))


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack; references are padded and their lengths added."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0] if name != "reference"}
    references = [sample["reference"] for sample in samples]
    batch["reference"] = torch.nn.utils.rnn.pad_sequence(references, batch_first=True)
    batch["reference_lengths"] = torch.tensor([len(reference) for reference in references])
    return batch


def main() -> int:
    from emova.core.config import load_config
    from emova_train.u2s.program import U2SRecipe

    parser = argparse.ArgumentParser(
        prog="python -m emova_train.u2s.data", description="Fill the cache of emova_train.u2s.program."
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--without-units", action="store_true", help="audio and F0 only, before a tokenizer exists")
    arguments = parser.parse_args()
    try:
        config = load_config(U2SRecipe, arguments.config, arguments.overrides)
        prepare(config.data, units=not arguments.without_units)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
