"""G.711, the sound of telephones: one byte a sample, 8 kHz, in two laws (ITU-T G.711, 1988).

Shape letters: T samples.
"""

from __future__ import annotations

import numpy as np

RATE = 8000  # Hz
_ULAW_BIAS, _ULAW_CLIP = 132, 32635
_ALAW_MASK = 0x55  # every other bit is turned over on the line


def _ulaw_table() -> np.ndarray:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 15) << 3) + _ULAW_BIAS << (code >> 4 & 7)) - _ULAW_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> np.ndarray:
    code = np.arange(256) ^ _ALAW_MASK
    segment, step = code >> 4 & 7, (code & 15) << 4
    magnitude = np.where(segment, step + 264 << np.maximum(segment - 1, 0), step + 8)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_ULAW, _ALAW = _ulaw_table(), _alaw_table()


def from_ulaw(data: bytes) -> np.ndarray:
    """The samples ``[T]``, float32 within -1 to 1, of mu-law bytes."""
    return _ULAW[np.frombuffer(data, dtype=np.uint8)].astype(np.float32) / 32768


def from_alaw(data: bytes) -> np.ndarray:
    """The samples ``[T]``, float32 within -1 to 1, of A-law bytes."""
    return _ALAW[np.frombuffer(data, dtype=np.uint8)].astype(np.float32) / 32768


def to_ulaw(samples: np.ndarray) -> bytes:
    """Samples ``[T]`` within -1 to 1 as mu-law bytes."""
    linear = _linear(samples)
    magnitude = np.minimum(np.abs(linear), _ULAW_CLIP) + _ULAW_BIAS
    segment = _highest_bit(magnitude) - 7
    code = (segment << 4) | (magnitude >> segment + 3 & 15)
    return (~np.where(linear < 0, code | 0x80, code) & 0xFF).astype(np.uint8).tobytes()


def to_alaw(samples: np.ndarray) -> bytes:
    """Samples ``[T]`` within -1 to 1 as A-law bytes."""
    linear = _linear(samples)
    magnitude = np.where(linear < 0, -linear - 1, linear)
    segment = np.maximum(_highest_bit(np.maximum(magnitude, 1)) - 7, 0)
    code = (segment << 4) | (magnitude >> np.maximum(segment, 1) + 3 & 15)
    return (np.where(linear < 0, code, code | 0x80) ^ _ALAW_MASK).astype(np.uint8).tobytes()


def _linear(samples: np.ndarray) -> np.ndarray:
    return (np.asarray(samples).clip(-1, 1) * 32768).round().clip(-32768, 32767).astype(np.int32)


def _highest_bit(values: np.ndarray) -> np.ndarray:
    return np.frexp(values.astype(np.float64))[1] - 1
