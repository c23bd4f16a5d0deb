"""Cached speech as the flow decoder learns from it: rows of as many units, whole stretches or cut at blocks.

Shapes: B rows, U units, T samples, F frames of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig
from emova_train.flow.config import FlowRecipe
from emova_train.u2s.cache import FRAMES_PER_UNIT, UNIT_SAMPLES, SpeechStore
from emova_train.u2s.config import U2SDataConfig
from emova_train.u2s.data import draw_reference, place


@dataclass(frozen=True)
class Spoken:
    """A whole utterance, filled up with silence to whole units: ``units`` [U], ``samples`` [T] at 24 kHz, ``f0`` at 100
    Hz (0 where unvoiced); ``reference`` is other speech in its style."""

    units: np.ndarray
    samples: np.ndarray
    f0: np.ndarray
    reference: np.ndarray


class Utterances(Dataset[Spoken]):
    """Utterances of a store; ``lengths`` lets the loop make batches of alike ones."""

    def __init__(self, store: SpeechStore, config: U2SDataConfig, limit: int | None = None) -> None:
        self.store, self.config = store, config
        self.indices = list(range(len(store)))
        if limit is not None and len(store) > limit:
            self.indices = [round(place) for place in np.linspace(0, len(store) - 1, limit)]
        self.lengths = [store.utterances[index].units for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Spoken:
        """Drawn from numpy's global generator, which the training loop seeds for each batch."""
        store, chosen = self.store, self.indices[index]
        source: int | None = None
        if np.random.random() < self.config.neutral_units:
            source = store.neutral(chosen)
        units = store.units(chosen if source is None else source)
        ticks = len(units) * store.ticks

        def filled(values: np.ndarray, per: int) -> np.ndarray:
            return np.pad(values, (0, ticks * per - len(values)))

        alike = store.by_style[store.utterances[chosen].style]
        pick = alike[int(np.random.randint(len(alike)))]
        if pick == chosen and len(alike) > 1:
            pick = alike[(alike.index(pick) + 1) % len(alike)]
        reference = store.samples(pick, *draw_reference(self.config, store.utterances[pick].units))
        samples = filled(store.samples(chosen), UNIT_SAMPLES)
        return Spoken(units, samples, filled(store.f0(chosen), FRAMES_PER_UNIT), reference)


@dataclass(frozen=True)
class Rows:
    """How utterances become a batch; all rows have as many units, so that nothing is masked.

    Attributes:
        most: units of a row.
        ticks: of 40 ms that a unit lasts.
        margin: samples before and after a row, so that its first and last mel frames hear what lies around it.
        block, context: where rows are cut as a stream has them, the units of a chunk and those before it; else 0.
        fade: units before the block that are drawn again.
    """

    most: int
    ticks: int
    margin: int
    block: int = 0
    context: int = 0
    fade: int = 0

    @classmethod
    def of(cls, recipe: FlowRecipe, ticks: int) -> Rows:
        """What a config says."""
        model: FlowHiFTConfig = recipe.model
        margin = model.mel.n_fft // 2
        if not recipe.cut_at_blocks:
            return cls(recipe.data.window_units, ticks, margin)
        return cls(0, ticks, margin, model.chunks[-1], model.context, model.fade)

    def __call__(self, spoken: list[Spoken]) -> dict[str, Tensor]:
        """``units`` ``[B, U]``, ``audio`` ``[B, T]`` with margins, ``f0`` ``[B, F]``; ``given``, the units at the
        beginning whose frames are known; ``reference`` and its lengths. Cuts are drawn by numpy's generator."""
        shortest = min(len(each.units) for each in spoken)
        count, step, given = min(self.most, shortest), 1, 0
        if self.block:
            longest = self.context + self.block
            count = shortest
            if shortest >= self.block:  # the first blocks as often as all later ones, which see the same
                most = min(shortest, longest) // self.block
                count = self.block * int(np.random.randint(1, most + 1))
            step, given = self.block, max(0, count - self.block - self.fade) if count > self.block else 0
            # The blocks of a stream begin where the utterance does, until there is more than a chunk sees.
            if count < longest:
                step = 1 << 20
        rows: list[dict[str, Tensor]] = []
        for each in spoken:
            start = step * int(np.random.randint((len(each.units) - count) // step + 1))
            end = start + count
            samples, frames = self.ticks * UNIT_SAMPLES, self.ticks * FRAMES_PER_UNIT
            around = (start * samples - self.margin, count * samples + 2 * self.margin)
            rows.append(
                {
                    "units": torch.from_numpy(each.units[start:end]),
                    "audio": torch.from_numpy(place(each.samples, *around).astype(np.float32)),
                    "f0": torch.from_numpy(each.f0[start * frames : end * frames].astype(np.float32)),
                }
            )
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        batch["given"] = torch.full((len(rows),), given)
        batch["reference"] = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(each.reference) for each in spoken], batch_first=True
        )
        batch["reference_lengths"] = torch.tensor([len(each.reference) for each in spoken])
        return batch
