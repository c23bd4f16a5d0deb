"""Recordings that visitors send, as files or from the page's microphone.

Shape letters: T samples.
"""

from __future__ import annotations

import numpy as np
import soxr

from emova.core.errors import InputError
from emova.speech.audio import AudioLimits, check_samples, is_silent, load_audio
from emova.speech.vad import RATE
from emova_app.demo.calls import Given
from emova_app.demo.conversation.microphone import decode_chunk
from emova_app.demo.uploads.files import Store

MAX_SECONDS = 60.0
READABLE = AudioLimits(max_seconds=600.0, max_bytes=16 << 20)
"""What is decoded at all, to use the first minute of it."""


class LongRecordingError(InputError):
    """More sound than can be used; its beginning can."""


def sent_recording(given: Given, uploads: Store, longest: float = MAX_SECONDS) -> np.ndarray:
    """The recording ``[T]`` at ``RATE`` Hz that a page sent: the ``path`` of an upload, or ``pcm`` at ``rate`` Hz.

    With ``first``, only the first ``longest`` seconds are used.

    Raises:
        LongRecordingError: it is longer, and ``first`` was not said.
        InputError: no sound, or unusable.
    """
    if given.get("pcm") is not None:
        samples, rate = decode_chunk(given.get("pcm"), given.get("rate"))
        samples = check_samples(samples if rate == RATE else soxr.resample(samples, rate, RATE), RATE, READABLE)
        if is_silent(samples, RATE):
            raise InputError("nothing was heard; check the microphone and record again")
    else:
        data = uploads.take(given.get("path"), "the recording")
        samples = load_audio(data, RATE, READABLE, reject_silence=True)
    most = int(longest * RATE)
    # The page's recorder stops at the limit, give or take a block.
    if len(samples) > most + RATE // 2 and not given.get("first"):
        seconds = len(samples) / RATE
        raise LongRecordingError(f"the recording is {seconds:.0f} s long; at most {longest:.0f} s can be used")
    return samples[:most]
