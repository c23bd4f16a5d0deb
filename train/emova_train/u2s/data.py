"""Random windows of cached speech, as the unit-to-speech decoder learns from them.

Shapes: B windows, U units of a window with its context, W units of a window, T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from emova_train.u2s.cache import FRAMES_PER_UNIT, SAMPLE_RATE, UNIT_SAMPLES, SpeechStore
from emova_train.u2s.config import U2SDataConfig


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


def draw_start(config: U2SDataConfig, units: int) -> int:
    """The first unit of a window of an utterance of so many, by numpy's generator; it may lie a little outside."""
    return int(np.random.randint(-2, max(-1, units - config.window_units + 3)))


def cut(
    config: U2SDataConfig, start: int, units: np.ndarray, count: int, samples: np.ndarray, f0: np.ndarray,
    reference: np.ndarray,
) -> dict[str, Tensor]:  # fmt: skip
    """The window of an utterance that begins at unit ``start``.

    Args:
        units: what is to be spoken, of the utterance's length or of another's of the same length.
        count: units of the utterance.
        samples, f0: of the whole utterance, at 24 kHz and 100 Hz (0 where unvoiced).
        reference: samples in the same style.
    """
    window = config.window_units
    around = (start - config.context_left, window + config.context_left + config.context_right)
    frames = (start * FRAMES_PER_UNIT, window * FRAMES_PER_UNIT)
    filled = continuous(f0)
    f0_window = place(filled, *frames)
    return {
        "units": torch.from_numpy(place(units, *around)),
        "unit_mask": torch.from_numpy(place(np.ones(count, np.float32), *around))[None],
        "audio": torch.from_numpy(place(samples, start * UNIT_SAMPLES, window * UNIT_SAMPLES)),
        "f0": torch.from_numpy(np.where(f0_window > 0, f0_window, filled[0 if start < 0 else -1])),
        "f0_level": torch.tensor(np.log(f0[f0 > 0]).mean() if (f0 > 0).any() else np.log(180.0)).float(),
        "voiced": torch.from_numpy(place(f0 > 0, *frames)),
        "reference": torch.from_numpy(reference),
    }


def draw_reference(config: U2SDataConfig, units: int) -> tuple[int, int]:
    """The units of an utterance of so many that are heard as a style's reference: the first, and the end."""
    length = int(config.reference_seconds * SAMPLE_RATE / UNIT_SAMPLES)
    start = int(np.random.randint(max(1, units - length + 1)))
    return start, min(units, start + length)


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
        start = draw_start(config, utterance.units)
        source = chosen
        if np.random.random() < config.neutral_units:
            source = store.neutral(chosen) if store.neutral(chosen) is not None else chosen  # type: ignore[assignment]
        kind = int(np.random.randint(len(store.kinds))) if self.noisy and len(store.kinds) > 1 else 0
        units = store.units(source, kind)
        if self.noisy and config.digit_noise > 0:
            units = shake_digits(units, config.levels, config.digit_noise)
        speech = store.samples(chosen), store.f0(chosen)
        return cut(config, start, units, utterance.units, *speech, self.reference(chosen))

    def reference(self, index: int) -> np.ndarray:
        """Samples of another utterance in the style of ``index`` (of itself where there is no other)."""
        alike = self.store.by_style[self.store.utterances[index].style]
        pick = alike[int(np.random.randint(len(alike)))]
        if pick == index and len(alike) > 1:
            pick = alike[(alike.index(pick) + 1) % len(alike)]
        return self.store.samples(pick, *draw_reference(self.config, self.store.utterances[pick].units))


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack; references are padded and their lengths added."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0] if name != "reference"}
    references = [sample["reference"] for sample in samples]
    batch["reference"] = torch.nn.utils.rnn.pad_sequence(references, batch_first=True)
    batch["reference_lengths"] = torch.tensor([len(reference) for reference in references])
    return batch
