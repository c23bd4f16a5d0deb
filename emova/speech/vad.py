"""When somebody speaks: silero-vad's network through onnxruntime, and turns out of its probabilities.

Shape letters: T samples.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from emova.core.errors import InputError

RATE = 16_000  # Hz
WINDOW = 512  # samples that the network judges at once: 32 ms
_CONTEXT = 64  # samples before them that it sees too
_INSTALL = "run pip install 'emova[serve]' (or 'emova[demo]')"

Detector = Callable[[np.ndarray], float]
"""The probability that the next window ``[512]`` at 16 kHz is speech."""


@dataclass(frozen=True)
class TurnConfig:
    """When a turn begins and ends (the first three as in OpenAI's ``server_vad``).

    Attributes:
        threshold: probability above which a window is speech.
        prefix_ms: sound before the start that belongs to the turn.
        silence_ms: silence that ends it.
        start_windows: windows of speech in a row that make a start; a click is shorter.
        echo_windows: the same while the program's own voice sounds, which the microphone may hear.
    """

    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int = 500
    start_windows: int = 2
    echo_windows: int = 6


class _Network(Protocol):
    """What of onnxruntime's session is used."""

    def run(self, outputs: None, inputs: dict[str, np.ndarray], /) -> list[np.ndarray]: ...


@lru_cache(maxsize=1)
def _network() -> _Network:
    """The network, once a process. The package itself is not imported: only its ONNX file is read."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError(f"voice activity detection needs onnxruntime; {_INSTALL}") from None
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"voice activity detection needs silero-vad; {_INSTALL}")
    path = Path(found.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    network: _Network = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return network


class SpeechDetector:
    """The probability of speech, window by window.

    Raises:
        InputError: the packages silero-vad or onnxruntime are missing.
    """

    def __init__(self) -> None:
        self._network = _network()
        self._rate = np.array(RATE, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._before = np.zeros(_CONTEXT, dtype=np.float32)

    def __call__(self, window: np.ndarray) -> float:
        """The probability that the window ``[512]`` at 16 kHz is speech."""
        seen = np.concatenate([self._before, window], dtype=np.float32)
        self._before = seen[-_CONTEXT:]
        inputs: dict[str, np.ndarray] = {"input": seen[None], "state": self._state, "sr": self._rate}
        probability, self._state = self._network.run(None, inputs)
        return float(probability[0, 0])


def speech_share(samples: np.ndarray, threshold: float = TurnConfig.threshold) -> float:
    """How much of ``[T]`` samples at 16 kHz is speech, 0 to 1; a rest shorter than a window is not looked at."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    detector = SpeechDetector()
    return float(np.mean([detector(window) > threshold for window in windows])) if len(windows) else 0.0


@dataclass(frozen=True)
class Started:
    """Speech began: ``samples`` are what belongs to the turn so far, from ``at_ms`` on."""

    at_ms: int
    samples: np.ndarray


@dataclass(frozen=True)
class Going:
    """More of the turn's sound; whether it is speech, or silence that may end the turn."""

    samples: np.ndarray
    speech: bool = True


@dataclass(frozen=True)
class Stopped:
    """Speech ended."""

    at_ms: int


@dataclass(frozen=True)
class Paused:
    """A silence has begun; only who ends turns by their words asks (``emova.speech.turn_end``)."""

    at_ms: int


Turn = Started | Going | Paused | Stopped


class TurnTaking:
    """Sound in pieces of any length to turns; it keeps no more than the prefix.

    Args:
        detector: gives a window's probability of speech; silero-vad if None.
    """

    def __init__(self, config: TurnConfig, detector: Detector | None = None) -> None:
        self.config = config
        self._detector = detector or SpeechDetector()
        self.speaking = False
        self._left = np.zeros(0, dtype=np.float32)
        self._kept = np.zeros(0, dtype=np.float32)
        self._position = 0  # samples judged
        self._speech = self._silence = 0  # windows in a row

    def patience_ms(self) -> int:
        """The silence, in ms, that ends a turn."""
        return self.config.silence_ms

    def step(self, samples: np.ndarray, *, echo: bool = False) -> list[Turn]:
        """Take ``[T]`` samples at 16 kHz. ``echo``: the program's own voice sounds while they are heard."""
        turns: list[Turn] = []
        heard = np.concatenate([self._left, samples])
        whole = len(heard) // WINDOW * WINDOW
        self._left = heard[whole:]
        needed = self.config.echo_windows if echo else self.config.start_windows
        for window in heard[:whole].reshape(-1, WINDOW):
            self._position += WINDOW
            turns += self._judge(window, self._detector(window), needed)
        return turns

    def take(self) -> np.ndarray:
        """The sound ``[T]`` that waits here, for a turn to begin or to be judged; it is not kept any longer."""
        waiting = np.concatenate([self._kept, self._left])
        self._kept = self._left = np.zeros(0, dtype=np.float32)
        return waiting

    def _judge(self, window: np.ndarray, probability: float, needed: int) -> list[Turn]:
        at_ms = self._position * 1000 // RATE
        if not self.speaking:
            self._speech = self._speech + 1 if probability >= self.config.threshold else 0
            most = self.config.prefix_ms * RATE // 1000 + needed * WINDOW
            self._kept = np.concatenate([self._kept, window])[-most:]
            if self._speech < needed:
                return []
            self.speaking, self._silence = True, 0
            kept, self._kept = self._kept, np.zeros(0, dtype=np.float32)
            return [Started(max(0, at_ms - len(kept) * 1000 // RATE), kept)]
        # A little below the threshold is still speech: voices swell and fade.
        self._silence = self._silence + 1 if probability < self.config.threshold - 0.15 else 0
        turns: list[Turn] = [Going(window, not self._silence)]
        if self._silence * WINDOW * 1000 >= self.patience_ms() * RATE:
            self.speaking, self._speech = False, 0
            turns.append(Stopped(at_ms))
        return turns
