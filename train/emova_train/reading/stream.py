"""The endless stream of batches: always from the shard that was read least, so that new shards are read as they come.

The state is a count a shard and the place in the present one; it is all that a resumed run needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova_train.reading.rows import NOTHING, Reading, fill_rows, lay, reading


@dataclass
class StreamState:
    """How often each shard was begun, the present one and how many of its batches are taken."""

    begun: dict[str, int] = field(default_factory=dict)
    shard: str = ""
    taken: int = 0


def read_shard(path: Path, tokenizer: PreTrainedTokenizerBase, ids_of: TokenIds, longest: int) -> list[Reading]:
    """The sentences of a shard of at most ``longest`` positions."""
    lines = path.read_text(encoding="utf-8").splitlines()
    made = (reading(json.loads(line), tokenizer, ids_of) for line in lines)
    return [each for each in made if len(each) <= longest]


def tensors(readings: list[list[Reading]], length: int, pad: int, most: int) -> dict[str, Tensor]:
    """A batch of one shape.

    Returns:
        ids, owners [R, T]; looks [R, T, 2]; places and targets [most], the learnt places of the flattened rows, filled
        up with place 0 and the target -100.
    """
    batch = lay(readings, length, pad)
    flat = batch["targets"].reshape(-1)
    learnt = np.flatnonzero(flat != NOTHING)[:most]
    places, targets = np.zeros(most, np.int64), np.full(most, NOTHING)
    places[: len(learnt)], targets[: len(learnt)] = learnt, flat[learnt]
    arrays = {"ids": batch["ids"], "owners": batch["owners"], "looks": batch["looks"], "places": places,
              "targets": targets}  # fmt: skip
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Stream:
    """Batches of the shards in a folder; the first shard is left for validation."""

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, length: int, rows: int, seed: int, state: StreamState
    ) -> None:
        self.folder, self.tokenizer, self.token_ids = folder, tokenizer, TokenIds.from_tokenizer(tokenizer)
        self.length, self.rows, self.seed, self.state = length, rows, seed, state
        self.most = length * rows * 7 // 8
        self.pad = self.token_ids.pad

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            if not self.state.shard:
                self._choose()
            batches = self._batches(self.folder / self.state.shard, self.state.begun[self.state.shard])
            for batch in batches[self.state.taken :]:
                self.state.taken += 1
                yield batch
            self.state.shard, self.state.taken = "", 0

    def _choose(self) -> None:
        names = sorted(path.name for path in self.folder.glob("aloud-*.jsonl"))[1:]
        if not names:
            raise InputError(f"{self.folder}: fewer than two shards; run `python -m emova_data.nano.aloud.spoken`")
        begun = self.state.begun
        self.state.shard = min(names, key=lambda name: (begun.get(name, 0), name))
        begun[self.state.shard] = begun.get(self.state.shard, 0) + 1

    def _batches(self, path: Path, visit: int) -> list[dict[str, Tensor]]:
        sentences = read_shard(path, self.tokenizer, self.token_ids, self.length)
        rng = np.random.default_rng([self.seed, visit, int(path.stem.rpartition("-")[2])])
        sentences = [sentences[int(index)] for index in rng.permutation(len(sentences))]
        rows = fill_rows([len(each) for each in sentences], self.length)
        order = rng.permutation(len(rows))
        groups = [order[start : start + self.rows] for start in range(0, len(order) - self.rows + 1, self.rows)]
        return [
            tensors([[sentences[each] for each in rows[int(row)]] for row in group], self.length, self.pad, self.most)
            for group in groups
        ]

    def validation(self, count: int) -> list[dict[str, Tensor]]:
        """The first ``count`` sentences of the first shard, as batches."""
        first = min(self.folder.glob("aloud-*.jsonl"))
        sentences = read_shard(first, self.tokenizer, self.token_ids, self.length)[:count]
        rows = [[sentences[each] for each in row] for row in fill_rows([len(each) for each in sentences], self.length)]
        rows += [[]] * (-len(rows) % self.rows)
        return [
            tensors(rows[at : at + self.rows], self.length, self.pad, self.most)
            for at in range(0, len(rows), self.rows)
        ]
