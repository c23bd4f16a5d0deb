"""Audio files in and out: one channel of float32 at a wanted rate, within limits that hold while decoding.

Shape letters: T samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from emova.core.errors import InputError
from emova.core.io import Source, read_source, shown
from emova.core.writing import staged_output
from emova.speech.containers import Container, identify

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import InputContainer
    from torch import Tensor

SUPPORTED = "wav, flac, mp3, ogg, m4a or webm"
_FULL_SCALE = 32768.0
_CANCELLED = 0.02
"""Channels whose mean has less than this share of the loudest one's power are of opposite sign."""


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted as audio.

    Attributes:
        max_seconds: longest audio, in s.
        min_seconds: shortest audio, in s.
        max_bytes: largest file, in bytes.
        min_sample_rate: lowest sample rate of a file, in Hz.
        max_sample_rate: highest sample rate of a file, in Hz.
        max_channels: most channels of a file.
        max_level: largest magnitude of a floating-point sample; a little above 1 is clipped, far above is no audio.
        silence_dbfs: audio whose loudest 30 ms stay below this level, in dB of full scale, is silent.
    """

    max_seconds: float = 60.0
    min_seconds: float = 0.05
    max_bytes: int = 64 << 20
    min_sample_rate: int = 4_000
    max_sample_rate: int = 384_000
    max_channels: int = 32
    max_level: float = 16.0
    silence_dbfs: float = -60.0


class _Collector:
    """Takes decoded blocks, mixes them down, and stops at the limits."""

    def __init__(self, name: str, rate: int, channels: int, limits: AudioLimits) -> None:
        self.name, self.rate, self.limits = name, rate, limits
        if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
            raise InputError(
                f"{name}: a sample rate of {rate} Hz; convert it to one between {limits.min_sample_rate} and "
                f"{limits.max_sample_rate} Hz"
            )
        if not 1 <= channels <= limits.max_channels:
            raise InputError(f"{name}: {channels} channels; convert it to one or two")
        self._middle: list[np.ndarray] = []
        self._first: list[np.ndarray] = []
        self._power = np.zeros(channels)
        self._count = 0

    def check_length(self, samples: int) -> None:
        """Refuse more than the longest audio. Raises: InputError."""
        if samples > self.limits.max_seconds * self.rate:
            raise InputError(
                f"{self.name}: longer than {self.limits.max_seconds:g} s; cut it, or raise the limit (max_seconds)"
            )

    def add(self, block: np.ndarray) -> None:
        """Take a block ``[T, C]``. Raises: InputError."""
        self._count += len(block)
        self.check_length(self._count)
        if not np.isfinite(block).all():
            raise InputError(f"{self.name}: some samples are not numbers; export the audio again")
        if block.size and np.abs(block).max() > self.limits.max_level:
            raise InputError(
                f"{self.name}: samples far beyond full scale; export the audio with samples within -1 to 1"
            )
        self._middle.append(block.mean(axis=1, dtype=np.float32))
        if block.shape[1] > 1:
            # The second of two channels follows from their mean and the first.
            self._first.append(block[:, 0].astype(np.float32))
            self._power += np.square(block, dtype=np.float64).sum(axis=0)

    def samples(self) -> np.ndarray:
        """All samples ``[T]``: the channels' mean, or one of them where they cancel each other out.

        Raises:
            InputError: too few.
        """
        if self._count < self.limits.min_seconds * self.rate:
            reason = "holds no sound" if self._count == 0 else f"shorter than {self.limits.min_seconds:g} s"
            raise InputError(f"{self.name}: {reason}; give a longer recording")
        middle = np.concatenate(self._middle)
        loudest = self._power.max(initial=0.0)
        if loudest > 0 and np.square(middle, dtype=np.float64).sum() < _CANCELLED * loudest:
            first = np.concatenate(self._first)
            middle = 2 * middle - first if len(self._power) == 2 and self._power[1] > self._power[0] else first
        return middle.clip(-1.0, 1.0)


def load_audio(
    source: Source, sample_rate: int, limits: AudioLimits = AudioLimits(), *, reject_silence: bool = False
) -> np.ndarray:
    """Decode an audio file to one channel of float32, ``[T]``, at ``sample_rate`` Hz, within -1 to 1.

    Args:
        source: a path, the file's bytes, or a binary stream; wav, flac, ogg by libsndfile, mp3, m4a and webm by FFmpeg.
        reject_silence: refuse audio without sound, as a question must have some.

    Raises:
        InputError: missing, empty, truncated, no audio, over a limit, or silent.
    """
    import soxr

    data, name = read_source(source, "audio", limits.max_bytes)
    found = identify(data)
    if not found.whole:
        raise InputError(f"{name}: the file is truncated; copy or record it again")
    if found.demuxer is not None:
        collector = _decode_ffmpeg(found, name, limits)
    else:
        collector = _decode_sndfile(found.data, name, limits)
    samples = collector.samples()
    if reject_silence and is_silent(samples, collector.rate, limits.silence_dbfs):
        raise InputError(f"{name}: only silence; check the microphone and record it again")
    if collector.rate != sample_rate:
        samples = soxr.resample(samples, collector.rate, sample_rate).clip(-1.0, 1.0)
    return np.ascontiguousarray(samples, dtype=np.float32)


def check_samples(samples: ArrayLike | Tensor, sample_rate: int, limits: AudioLimits = AudioLimits()) -> np.ndarray:
    """Check samples ``[T]`` that a program hands over at ``sample_rate`` Hz, as ``load_audio`` checks a file.

    Floats are within -1 to 1; int16 is taken by its full scale.

    Raises:
        InputError: not one channel of numbers, or over a limit.
    """
    array = _as_floats(samples)
    if array is None or array.ndim != 1:
        raise InputError("the audio: not one row of samples; give a float array of shape [T]")
    collector = _Collector("the audio", sample_rate, 1, limits)
    collector.add(array[:, None])
    return collector.samples()


def _is_tensor(samples: object) -> TypeGuard[Tensor]:
    """Without importing torch for an array."""
    return hasattr(samples, "detach")


def _as_floats(samples: ArrayLike | Tensor) -> np.ndarray | None:
    """float32 on the CPU, from a tensor of any kind and device too; None: these are no numbers.

    Raises:
        InputError: whole numbers whose full scale is unknown.
    """
    try:
        if _is_tensor(samples) and not samples.is_complex():
            held = samples.detach().to("cpu")
            samples = held.float().numpy() if held.is_floating_point() else held.numpy()
        array = np.asarray(samples)
        floats = array.astype(np.float32)
    except (TypeError, ValueError, RuntimeError):
        return None
    if array.dtype == np.int16:
        return floats / _FULL_SCALE
    if array.size and array.dtype.kind in "iub":
        raise InputError(f"the audio: samples of {array.dtype}; give floats within -1 to 1, or int16")
    return floats


def check_chunk(samples: ArrayLike | Tensor, limits: AudioLimits = AudioLimits()) -> np.ndarray:
    """Check the next samples ``[T]`` (T may be 0) of a recording that is still going on; float32 within -1 to 1.

    Raises:
        InputError: not one row of numbers, or far beyond full scale.
    """
    array = _as_floats(samples)
    chunk = np.zeros((0, 0), dtype=np.float32) if array is None else np.atleast_1d(array)
    if chunk.ndim != 1 or not np.isfinite(chunk).all():
        raise InputError("the audio: a chunk is not one row of numbers; give float arrays of shape [T]")
    if np.abs(chunk).max(initial=0.0) > limits.max_level:
        raise InputError("the audio: samples far beyond full scale; give float samples within -1 to 1")
    return chunk.clip(-1.0, 1.0)


def is_silent(samples: np.ndarray, sample_rate: int, floor_dbfs: float = AudioLimits.silence_dbfs) -> bool:
    """Whether the loudest 30 ms of ``samples`` ``[T]`` stay below ``floor_dbfs`` (a constant offset is no sound)."""
    window = max(1, min(len(samples), int(0.03 * sample_rate)))
    frames = samples[: len(samples) // window * window].reshape(-1, window).astype(np.float64)
    power = frames.var(axis=1).max(initial=0.0)
    return bool(power < 10 ** (floor_dbfs / 10))


def save_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write ``samples`` ``[T]``, within -1 to 1, as 16-bit PCM; the file appears whole or not at all.

    Raises:
        InputError: the name does not end in .wav, or the file cannot be written.
    """
    import soundfile

    if Path(path).suffix.lower() != ".wav":
        raise InputError(f"{shown(path)}: only WAV is written; give a name that ends in .wav")
    samples = np.asarray(samples, dtype=np.float32)
    assert samples.ndim == 1 and np.isfinite(samples).all()
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.clip(-1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    with staged_output(path) as file:
        file.write(buffer.getbuffer())


# --- decoders ---------------------------------------------------------------------------------------------------------
def _no_audio(name: str) -> InputError:
    return InputError(f"{name}: not audio that can be decoded; give {SUPPORTED}")


def _decode_sndfile(data: bytes, name: str, limits: AudioLimits) -> _Collector:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            collector = _Collector(name, file.samplerate, file.channels, limits)
            # Headers of streams say that the length is unknown, as a huge number.
            expected, decoded = (file.frames if file.frames < 1 << 48 else 0), 0
            collector.check_length(expected)
            while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
                decoded += len(block)
                collector.add(block)
            if decoded < expected and file.format in ("WAV", "WAVEX", "FLAC", "AIFF"):
                raise InputError(f"{name}: the file is truncated; copy or record it again")
    except (soundfile.SoundFileError, RuntimeError, TypeError, OverflowError):
        truncated = data[:4] in (b"fLaC", b"OggS", b"RIFF") and len(data) > 64
        if truncated:
            raise InputError(f"{name}: the audio is damaged or truncated; copy or record it again") from None
        raise _no_audio(name) from None
    return collector


def _decode_ffmpeg(found: Container, name: str, limits: AudioLimits) -> _Collector:
    import av

    collector: _Collector | None = None
    delay = found.delay
    try:
        with av.open(io.BytesIO(found.data), "r", format=found.demuxer) as opened:
            if not opened.streams.audio:
                raise InputError(f"{name}: a film or picture without sound; give {SUPPORTED}")
            stream = opened.streams.audio[0]
            for block, rate in _ffmpeg_blocks(opened, stream, skip_damaged=found.demuxer == "mp3"):
                if collector is None:
                    collector = _Collector(name, rate, block.shape[1], limits)
                collector.add(block[delay:])
                delay = max(0, delay - len(block))
    except InputError:
        raise
    except (av.FFmpegError, ValueError, MemoryError, OSError):
        raise InputError(f"{name}: the audio is damaged or truncated; copy or record it again") from None
    if collector is None:
        raise _no_audio(name)
    return collector


def _ffmpeg_blocks(opened: InputContainer, stream: AudioStream, skip_damaged: bool) -> Iterator[tuple[np.ndarray, int]]:
    import av

    resampler = None
    for packet in opened.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if not skip_damaged:
                raise
            continue  # each frame of an MP3 stands alone; every player passes over a bad one
        for frame in frames:
            if resampler is None:
                resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
            for converted in resampler.resample(frame):
                yield converted.to_ndarray().T, converted.sample_rate
