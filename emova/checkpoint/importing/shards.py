"""A model's tensors by and by: into files of bounded size, so that no more than one of them lies in memory.

Shape letters: V rows of a vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

from torch import Tensor

from emova.core.writing import save_tensors, write_text

SHARD_BYTES = 4 << 30


def moved(table_VD: Tensor, rows: Tensor) -> Tensor:
    """An embedding or a head with its rows in our order; rows of no token are zeros, never read and never chosen."""
    new = table_VD[rows.clamp(min=0)]
    return new.masked_fill((rows < 0)[:, None], 0)


def write_shards(named: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Files of no more than ``SHARD_BYTES``, so that no more than that lies in memory, and their index."""
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    held = number = total = 0

    def flush() -> None:
        nonlocal shard, held, number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_tensors(folder / file, shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard, held = {}, 0

    for name, tensor in named:
        size = prod(tensor.shape) * tensor.element_size()
        if shard and held + size > SHARD_BYTES:
            flush()
        shard[name] = tensor
        held, total = held + size, total + size
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
