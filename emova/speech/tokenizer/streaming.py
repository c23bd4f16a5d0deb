"""Speech to units from whatever a user hands over: a file, samples, or chunks of samples as they come in.

Shape letters: T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.core.io import Source
from emova.speech.audio import AudioLimits, check_samples, is_silent, load_audio
from emova.speech.tokenizer.protocol import SpeechTokenizer

Audio: TypeAlias = Source | np.ndarray | Tensor | Iterable[np.ndarray]


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
        _check_sound(samples, rate, limits, reject_silence)
    elif isinstance(audio, str | Path | bytes | bytearray | memoryview) or hasattr(audio, "read"):
        samples = load_audio(audio, rate, limits, reject_silence=reject_silence)  # type: ignore[arg-type]
    elif isinstance(audio, Iterable):
        return _listen_to_chunks(tokenizer, audio, limits, reject_silence)
    else:
        raise InputError("the audio: neither a file nor samples; give a path, bytes, samples or chunks of samples")
    return tokenizer.encode(torch.from_numpy(samples)[None].to(tokenizer.device))[0].tolist()


def _listen_to_chunks(
    tokenizer: SpeechTokenizer, chunks: Iterable[np.ndarray], limits: AudioLimits, reject_silence: bool
) -> list[int]:
    rate = tokenizer.sample_rate
    units: list[int] = []
    heard: list[np.ndarray] = []
    count = 0
    with tokenizer.streaming(1) as stream:
        for chunk in chunks:
            try:
                samples = np.atleast_1d(np.asarray(chunk, dtype=np.float32))
            except (TypeError, ValueError):
                samples = np.zeros((0, 0), dtype=np.float32)
            if samples.ndim != 1 or not np.isfinite(samples).all():
                raise InputError("the audio: a chunk is not one row of numbers; give float arrays of shape [T]")
            count += len(samples)
            if count > limits.max_seconds * rate:
                raise InputError(f"the audio: longer than {limits.max_seconds:g} s; stop earlier")
            heard.append(samples)
            units += stream.step(torch.from_numpy(samples.clip(-1, 1))[None].to(tokenizer.device))[0].tolist()
        whole = check_samples(np.concatenate(heard) if heard else np.zeros(0), rate, limits)
        _check_sound(whole, rate, limits, reject_silence)
        return units + stream.finish()[0].tolist()


def _check_sound(samples: np.ndarray, rate: int, limits: AudioLimits, reject_silence: bool) -> None:
    if reject_silence and is_silent(samples, rate, limits.silence_dbfs):
        raise InputError("the audio: only silence; check the microphone and record it again")
