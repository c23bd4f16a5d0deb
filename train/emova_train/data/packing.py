"""Whole conversations laid end to end in one row; nothing is padded.

Shape letters: N positions of the row, S sequences, K positions with a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from emova_train.data.examples import Example


class Weigh(Protocol):
    """How much each position of a row counts: kinds [N] to weights [N], 0 where no loss is taken."""

    def __call__(self, kinds_N: np.ndarray) -> np.ndarray: ...


class Targets(Protocol):
    """What a loss beside that of the tokens adds to a batch."""

    def targets(self, examples: Sequence[Example], bounds: np.ndarray) -> dict[str, Tensor]:
        """Tensors by names of its own, whose positions are the row's: ``bounds`` [S + 1] says where each begins."""
        ...


def collate(packs: Sequence[Sequence[Example]], weigh: Weigh, losses: Sequence[Targets] = ()) -> dict[str, Tensor]:
    """The batch of several packs, as one row.

    Returns:
        input_ids, sequence_ids [1, N]; cu_seq_lens [S + 1]; keep [K], the positions to predict from; targets, kinds,
        modalities, weights [K]; what the ``losses`` add; pixel_values and image_grids where there are pictures.
    """
    examples = [each for pack in packs for each in pack]
    assert examples
    lengths = np.asarray([len(each) for each in examples])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([each.ids for each in examples])
    kinds = np.concatenate([each.kinds for each in examples]).astype(np.int64)
    weight = weigh(kinds)
    predicted = np.flatnonzero(weight > 0)
    batch = {
        "input_ids": torch.from_numpy(ids)[None],
        "sequence_ids": torch.from_numpy(np.repeat(np.arange(len(examples)), lengths))[None],
        "cu_seq_lens": torch.from_numpy(bounds).to(torch.int32),
        "keep": torch.from_numpy(predicted - 1),
        "targets": torch.from_numpy(ids[predicted]),
        "kinds": torch.from_numpy(kinds[predicted]),
        "modalities": torch.from_numpy(np.repeat([each.modality for each in examples], lengths)[predicted]),
        "weights": torch.from_numpy(weight[predicted].astype(np.float32)),
    }
    for loss in losses:
        batch.update(loss.targets(examples, bounds))
    tiles = [each.pixel_values for each in examples if each.pixel_values is not None]
    if tiles:
        batch["pixel_values"] = torch.cat(tiles)
        batch["image_grids"] = torch.tensor([grid for each in examples for grid in each.grids])
    return batch
