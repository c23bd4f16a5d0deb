"""Units as text, two in three bytes: shards of many sentences stay small. Of codebooks of up to 4,096 units."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from emova.core.errors import InputError

_BITS = 12


def pack_units(units: Sequence[int]) -> str:
    """Units below 4096 as ``COUNT:BASE64``. Raises: InputError: there are others, of a larger codebook."""
    if len(units) and not 0 <= min(units) <= max(units) < 1 << _BITS:
        raise InputError(f"units: {max(units)} is one of a codebook of more than {1 << _BITS}; give another tokenizer")
    even = np.asarray([*units, 0] if len(units) % 2 else units, np.uint32).reshape(-1, 2)
    joined = even[:, 0] << _BITS | even[:, 1]
    packed = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=1).astype(np.uint8)
    return f"{len(units)}:{base64.b64encode(packed.tobytes()).decode()}"


def unpack_units(packed: str) -> np.ndarray:
    """The units [U] uint16 that ``pack_units`` packed."""
    count, _, coded = packed.partition(":")
    parts = np.frombuffer(base64.b64decode(coded), np.uint8).reshape(-1, 3).astype(np.uint32)
    joined = parts[:, 0] << 16 | parts[:, 1] << 8 | parts[:, 2]
    return np.stack([joined >> _BITS, joined & 4095], axis=1).reshape(-1)[: int(count)].astype(np.uint16)
