"""What an assistant gives: a reply, spoken sound, and the events of a reply that is still being written; what a session
gives beside them.

Shape letters: T samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emova.core.errors import InputError, InternalFault
from emova.reply.calls import Call, CallDelta, CallStarted
from emova.reply.parser import StyleChosen, TextDelta, TranscriptDelta
from emova.speech.audio import save_wav
from emova.speech.style import Style


@dataclass(frozen=True)
class Timings:
    """Where the time went, in s; ``first_speak`` is the voice's part of ``first_audio``."""

    listen: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    speak: float = 0.0
    first_audio: float = 0.0
    first_speak: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, eq=False)
class Speech:
    """Spoken sound: ``audio`` is float32 ``[T]`` at ``sample_rate`` Hz, ``units`` say what is spoken."""

    units: tuple[int, ...]
    style: Style
    audio: np.ndarray
    sample_rate: int

    def save(self, path: str | Path) -> None:
        """Write a 16-bit WAV, whole or not at all. Raises: InputError."""
        save_wav(path, self.audio, self.sample_rate)


@dataclass(frozen=True, eq=False)
class Reply:
    """One answer, or calls of tools in its place: then it has no text, no units and no sound.

    Attributes:
        transcript: what the user was understood to ask.
        text: the answer.
        emotion, pitch, voice: how it is spoken.
        units: what is spoken.
        audio: float32 ``[T]`` at ``sample_rate`` Hz, within -1 to 1.
        style_understood: False where a style word of the model was replaced by the default.
        timings: where the time went.
        calls: the tools that it calls.
    """

    transcript: str
    text: str
    emotion: str
    pitch: str
    voice: str
    units: tuple[int, ...]
    audio: np.ndarray
    sample_rate: int
    style_understood: bool = True
    timings: Timings = field(default_factory=Timings)
    calls: tuple[Call, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the voice as a 16-bit WAV, whole or not at all. Raises: InputError."""
        save_wav(path, self.audio, self.sample_rate)


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """The next stretch of the voice: float32 ``[T]`` at ``sample_rate`` Hz."""

    samples: np.ndarray
    sample_rate: int


@dataclass(frozen=True, eq=False)
class Done:
    """The end of a reply, and all of it."""

    reply: Reply


Event = TranscriptDelta | TextDelta | StyleChosen | AudioChunk | CallStarted | CallDelta | Done


@dataclass(frozen=True)
class Cancelled:
    """The reply was broken off: the player drops what it has buffered.

    Attributes:
        generation: of the session from now on; sound of an earlier one is out of date.
        heard_units: units of the reply that stay in the conversation, because they were heard.
    """

    generation: int
    heard_units: int


@dataclass(frozen=True)
class Failed:
    """The turn failed and left no trace; the session goes on. An InputError says what to do, an InternalFault is no
    user's doing.
    """

    error: InputError | InternalFault

    @property
    def message(self) -> str:
        """One line for the user."""
        return str(self.error)


SessionEvent = Event | Cancelled | Failed
