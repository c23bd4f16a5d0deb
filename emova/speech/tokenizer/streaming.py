"""Speech to units from whatever a user hands over: a file, samples, or chunks of samples as they come in.

Shape letters: T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emova.core.errors import InputError, TooLongError
from emova.core.io import Source
from emova.core.streams import Stream, run
from emova.speech.audio import AudioLimits, check_chunk, check_samples, is_silent, load_audio
from emova.speech.tokenizer.protocol import SpeechTokenizer

Audio: TypeAlias = Source | np.ndarray | Tensor | Iterable[ArrayLike]
SILENT = "the audio: only silence; check the microphone and record it again"


def listen(tokenizer: SpeechTokenizer, audio: Audio, limits: AudioLimits, reject_silence: bool) -> list[int]:
    """The units of ``audio``.

    Args:
        audio: a path, a file's bytes, a binary stream; or samples ``[T]`` at the tokenizer's rate, or chunks of them.
        reject_silence: refuse audio without sound.

    Raises:
        InputError: the audio is unusable, or silent where it should not be.
    """
    rate = tokenizer.sample_rate
    if isinstance(audio, np.ndarray | Tensor):
        samples = check_samples(audio, rate, limits)
        if reject_silence and is_silent(samples, rate, limits.silence_dbfs):
            raise InputError(SILENT)
    elif isinstance(audio, str | Path | bytes | bytearray | memoryview) or hasattr(audio, "read"):
        samples = load_audio(audio, rate, limits, reject_silence=reject_silence)  # type: ignore[arg-type]
    elif isinstance(audio, Mapping):
        raise InputError(f"the audio: a dictionary; give the samples in it alone, at {rate} Hz")
    elif isinstance(audio, tuple) and len(audio) == 2 and any(isinstance(each, int | np.integer) for each in audio):
        raise InputError(f"the audio: a pair of samples and their rate; give the samples alone, at {rate} Hz")
    elif isinstance(audio, Iterable):
        with closing(StreamingTokenizer(tokenizer, limits, reject_silence)) as stream:
            return [unit for units in run(stream, audio) for unit in units]
    else:
        raise InputError("the audio: neither a file nor samples; give a path, bytes, samples or chunks of samples")
    return tokenizer.encode(torch.from_numpy(samples)[None].to(tokenizer.device))[0].tolist()


class StreamingTokenizer(Stream[ArrayLike, list[int]]):
    """One recording that is still going on: chunks of samples to units, within the limits of a recording.

    Args:
        limits: how long it may be, and what counts as silence.
        reject_silence: refuse a recording without sound when it ends.

    Attributes:
        units: all that are certain so far.
        samples: how many were taken.
    """

    def __init__(self, tokenizer: SpeechTokenizer, limits: AudioLimits, reject_silence: bool = True) -> None:
        self.limits = limits
        self.units: list[int] = []
        self.samples = 0
        self._rate, self._device = tokenizer.sample_rate, tokenizer.device
        self._silent = reject_silence
        self._window = int(0.03 * self._rate)
        self._left = np.zeros(0, dtype=np.float32)  # too few samples to judge their level
        self._open = ExitStack()
        self._stream = self._open.enter_context(tokenizer.streaming(1))

    def step(self, samples: ArrayLike, /) -> list[int]:
        """Take the next ``[T]`` samples at the tokenizer's rate; the units that are certain by now.

        Raises:
            InputError: they are no samples; the recording stays as it was.
            TooLongError: the recording is longer than the limit.
        """
        chunk = check_chunk(samples, self.limits)
        if self.samples + len(chunk) > self.limits.max_seconds * self._rate:
            raise TooLongError(f"the audio: longer than {self.limits.max_seconds:g} s; stop earlier")
        self.samples += len(chunk)
        if self._silent:
            unjudged = np.concatenate([self._left, chunk])
            whole = len(unjudged) // self._window * self._window
            self._silent = not whole or is_silent(unjudged[:whole], self._rate, self.limits.silence_dbfs)
            self._left = unjudged[whole:]
        return self._take(self._stream.step(torch.from_numpy(chunk)[None].to(self._device)))

    def finish(self) -> list[int]:
        """The recording is over: its last units. Raises: InputError: it is too short, or silence."""
        if self.samples < self.limits.min_seconds * self._rate:
            reason = f"shorter than {self.limits.min_seconds:g} s" if self.samples else "holds no sound"
            raise InputError(f"the audio: {reason}; record it again")
        if self._silent:
            raise InputError(SILENT)
        return self._take(self._stream.finish())

    @property
    def silent(self) -> bool:
        """Whether there was no sound so far, where that is refused."""
        return self._silent

    def _take(self, units_BU: Tensor) -> list[int]:
        new: list[int] = units_BU[0].tolist()
        self.units += new
        return new

    def close(self) -> None:
        """Drop the tokenizer's state."""
        self._open.close()
