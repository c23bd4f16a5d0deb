"""Sound in the formats that clients ask for, whole or while it is being made.

Shape letters: T samples.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np

from emova_app.pcm import to_pcm

Format = Literal["wav", "mp3", "flac", "opus", "aac", "pcm16", "pcm"]
MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
}
# FFmpeg's container and codec, options of the container, options of the codec. Opus leaves in pages of 0.2 s, and no
# frame of an MP3 leans on earlier ones.
_CODECS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "wav": ("wav", "pcm_s16le", {}, {}),
    "mp3": ("mp3", "libmp3lame", {"write_xing": "0"}, {"reservoir": "0"}),
    "flac": ("flac", "flac", {}, {}),
    "opus": ("ogg", "libopus", {"page_duration": "200000"}, {}),
    "aac": ("adts", "aac", {}, {}),
}


class _Sink:
    """Takes what the container writes; it cannot go back, so each byte is final."""

    def __init__(self) -> None:
        self.waiting = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        self.waiting += bytes(data)
        return len(data)

    def take(self) -> bytes:
        taken, self.waiting = bytes(self.waiting), bytearray()
        return taken


class Encoder:
    """Takes samples and gives bytes; all of them joined are one file.

    Args:
        kind: the format.
        rate: Hz.
        whole: the file may be changed up to its end, so that its head says how long it is; all comes at the end.
    """

    def __init__(self, kind: str, rate: int, whole: bool = False) -> None:
        self._file: _File | None = None
        if kind in _CODECS:
            # A FLAC file's head says how long it is, and some players insist.
            self._file = _File(kind, rate, io.BytesIO() if whole or kind == "flac" else _Sink())

    def add(self, samples: np.ndarray) -> bytes:
        """Take ``[T]``; give what is final."""
        return to_pcm(samples) if self._file is None else self._file.add(samples)

    def finish(self) -> bytes:
        """The rest."""
        return b"" if self._file is None else self._file.finish()


class _File:
    """A file that FFmpeg writes into ``sink``."""

    def __init__(self, kind: str, rate: int, sink: _Sink | io.BytesIO) -> None:
        import av

        container, codec, options, codec_options = _CODECS[kind]
        self._rate, self._sink, self._position = rate, sink, 0
        self._container = av.open(sink, "w", format=container, options=options)
        stream = self._container.add_stream(codec, rate=rate, layout="mono", options=codec_options)
        assert isinstance(stream, av.AudioStream)
        self._stream = stream

    def add(self, samples: np.ndarray) -> bytes:
        """Take ``[T]``; give what is final."""
        import av

        if not len(samples):
            return b""
        frame = av.AudioFrame.from_ndarray(np.frombuffer(to_pcm(samples), "<i2")[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self._rate, self._position
        self._position += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        return self._sink.take() if isinstance(self._sink, _Sink) else b""

    def finish(self) -> bytes:
        """The rest."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._sink.take() if isinstance(self._sink, _Sink) else self._sink.getvalue()


def encode(kind: str, samples: np.ndarray, rate: int) -> bytes:
    """All of ``samples`` ``[T]`` as one file."""
    encoder = Encoder(kind, rate, whole=True)
    return encoder.add(samples) + encoder.finish()
