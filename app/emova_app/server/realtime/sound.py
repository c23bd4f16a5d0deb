"""The sound of a realtime talk as bytes on the wire, both ways.

Shape letters: T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr

from emova.core.errors import InputError
from emova_app import g711
from emova_app.pcm import from_pcm, to_pcm
from emova_app.server.api.media import from_base64


@dataclass(frozen=True)
class WireFormat:
    """How samples become bytes.

    Attributes:
        name: OpenAI's.
        rate: Hz.
        width: bytes a sample.
    """

    name: str
    rate: int
    width: int
    decode: Callable[[bytes], np.ndarray]
    encode: Callable[[np.ndarray], bytes]


PCM = WireFormat("audio/pcm", 24_000, 2, from_pcm, to_pcm)
FORMATS = {
    each.name: each
    for each in (
        PCM,
        WireFormat("audio/pcmu", g711.RATE, 1, g711.from_ulaw, g711.to_ulaw),
        WireFormat("audio/pcma", g711.RATE, 1, g711.from_alaw, g711.to_alaw),
    )
}


class Incoming:
    """What a client sends, in pieces, as samples at another rate.

    Args:
        rate: of the samples, Hz.
        max_seconds: most that one piece may hold.
    """

    def __init__(self, wire: WireFormat, rate: int, max_seconds: float) -> None:
        self.wire, self._rate, self._max_seconds = wire, rate, max_seconds
        self.reset()

    def reset(self) -> None:
        """Forget what came before."""
        self._stream: soxr.ResampleStream | None = None
        if self.wire.rate != self._rate:
            self._stream = soxr.ResampleStream(self.wire.rate, self._rate, 1, dtype="float32")

    def take(self, audio: str) -> np.ndarray:
        """The next samples ``[T]`` of base64. Raises: InputError: it is none, too much, or breaks off in a sample."""
        samples = self._decode(audio)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def rest(self) -> np.ndarray:
        """The sound is over: the samples ``[T]`` that waited for others."""
        if self._stream is None:
            return np.zeros(0, dtype=np.float32)
        last = self._stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        self.reset()
        return last

    def whole(self, audio: str) -> np.ndarray:
        """The samples ``[T]`` of a recording. Raises: InputError."""
        return soxr.resample(self._decode(audio), self.wire.rate, self._rate)

    def _decode(self, audio: str) -> np.ndarray:
        wire = self.wire
        if len(audio) > 4 * wire.rate * wire.width * self._max_seconds / 3 + 8:
            raise InputError("the audio: more than one question may have; send less at once")
        data = from_base64(audio, "the audio")
        if len(data) % wire.width:
            raise InputError(f"the audio: {len(data)} bytes, which ends in half a sample; send 16-bit samples")
        return wire.decode(data)


class Outgoing:
    """What the voice says, in pieces, as bytes.

    Args:
        rate: of the voice, Hz.
    """

    def __init__(self, wire: WireFormat, rate: int) -> None:
        self.wire = wire
        self._stream = None if rate == wire.rate else soxr.ResampleStream(rate, wire.rate, 1, dtype="float32")

    def give(self, samples: np.ndarray, last: bool = False) -> bytes:
        """The bytes of the next samples ``[T]``; with ``last``, also those that waited for others."""
        if self._stream is not None:
            samples = self._stream.resample_chunk(np.asarray(samples, dtype=np.float32), last=last)
        return self.wire.encode(samples)
