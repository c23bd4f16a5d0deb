"""Sound as bytes on the wire: 16-bit little-endian PCM, one channel.

Shape letters: T samples.
"""

from __future__ import annotations

import numpy as np


def to_pcm(samples: np.ndarray) -> bytes:
    """Samples ``[T]`` within -1 to 1 as 16-bit little-endian integers."""
    return (np.asarray(samples).clip(-1, 1) * 32767).round().astype("<i2").tobytes()


def from_pcm(pcm: bytes) -> np.ndarray:
    """The inverse of ``to_pcm``: float32 ``[T]``; half a sample at the end is dropped."""
    return np.frombuffer(pcm[: len(pcm) // 2 * 2], dtype="<i2").astype(np.float32) / 32768
