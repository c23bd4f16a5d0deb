"""The page's microphone: its samples go to the session while they are spoken, and silero-vad tells speech from silence.

Shape letters: T samples.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emova.core.errors import InputError

if TYPE_CHECKING:
    from emova_app.demo.page_sessions import Visit

RATE = 16_000  # Hz, of silero-vad
WINDOW = 512  # samples that silero-vad judges at once
MAX_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ActivityConfig:
    """When speech begins and when a question is over.

    Attributes:
        start_above: the probability of speech that begins a question, in
        start_windows: windows of 32 ms in a row.
        over_windows: the same while the page's own voice sounds, of which some may come back by the microphone.
        stop_below: the probability below which a window is a pause.
        stop_seconds: a pause so long ends the question.
        lead_seconds: what was heard so long before the beginning belongs to it.
    """

    start_above: float = 0.5
    start_windows: int = 3
    over_windows: int = 6
    stop_below: float = 0.35
    stop_seconds: float = 0.7
    lead_seconds: float = 0.4


class VoiceActivity:
    """silero-vad's network, loaded once for all visits.

    Raises:
        InputError: the packages silero-vad or onnxruntime are missing.
    """

    CONTEXT = 64  # samples of the window before, which the network wants to see again

    def __init__(self) -> None:
        found = importlib.util.find_spec("silero_vad")  # its __init__ would load torch and more
        try:
            import onnxruntime
        except ModuleNotFoundError:
            found = None
        if found is None or found.origin is None:
            raise InputError("the demo: packages are missing; run pip install 'emova[demo]'")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        file = Path(found.origin).parent / "data" / "silero_vad.onnx"
        self._network = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """The state before anything was heard."""
        return np.zeros((2, 1, 128), np.float32), np.zeros(self.CONTEXT, np.float32)

    def step(self, state: tuple[np.ndarray, np.ndarray], window: np.ndarray) -> tuple[float, tuple[Any, Any]]:
        """The probability of speech in the next ``[512]`` samples at 16 kHz, and the next state."""
        memory, context = state
        seen = np.concatenate([context, window])[None].astype(np.float32)
        inputs = {"input": seen, "state": memory, "sr": np.array(RATE, np.int64)}
        probability, memory = self._network.run(None, inputs)
        return float(probability[0, 0]), (memory, window[-self.CONTEXT :])

    def probabilities(self, samples: np.ndarray) -> list[float]:
        """Of each whole window of ``[T]`` samples at 16 kHz."""
        state, found = self.start(), []
        for start in range(0, len(samples) - WINDOW + 1, WINDOW):
            probability, state = self.step(state, samples[start : start + WINDOW])
            found.append(probability)
        return found


class Endpointer:
    """Finds where questions begin and end in a stream of samples."""

    def __init__(self, activity: VoiceActivity, config: ActivityConfig = ActivityConfig()) -> None:
        self._activity, self.config = activity, config
        self._state: Any = activity.start()
        self._left = np.zeros(0, np.float32)
        self._lead = np.zeros(0, np.float32)
        self._above = self._below = 0
        self.speaking = False

    def step(self, samples: np.ndarray, sounding: bool = False) -> tuple[np.ndarray, bool, bool]:
        """Take the next ``[T]`` samples: what of them belongs to a question, whether one began, whether it ended.

        ``sounding``: the page plays something while they are heard.
        """
        config = self.config
        needed = config.over_windows if sounding else config.start_windows
        self._left = np.concatenate([self._left, samples])
        parts: list[np.ndarray] = []
        began = ended = False
        while len(self._left) >= WINDOW and not ended:
            window, self._left = self._left[:WINDOW], self._left[WINDOW:]
            probability, self._state = self._activity.step(self._state, window)
            if self.speaking:
                parts.append(window)
                self._below = self._below + 1 if probability < config.stop_below else 0
                if self._below * WINDOW >= config.stop_seconds * RATE:
                    self.speaking, self._above, ended = False, 0, True
            else:
                self._lead = np.concatenate([self._lead, window])[-int(config.lead_seconds * RATE) :]
                self._above = self._above + 1 if probability > config.start_above else 0
                if self._above >= needed:
                    parts.append(self._lead)
                    self.speaking, self._below, began = True, 0, True
                    self._lead = np.zeros(0, np.float32)
        return (np.concatenate(parts) if parts else np.zeros(0, np.float32)), began, ended


@dataclass
class _Open:
    """A recording that goes on."""

    mode: str
    rate: int
    resampler: Any
    endpointer: Endpointer | None


class Hearing:
    """One page's microphone, push-to-talk ("push") or hands-free ("free")."""

    def __init__(self, visit: Visit, activity: VoiceActivity) -> None:
        self._visit, self._activity = visit, activity
        self._open: _Open | None = None
        self._heard: list[np.ndarray] = []

    def step(self, mode: str, rate: int, samples: np.ndarray, heard_seconds: float | None) -> dict[str, bool]:
        """The next ``[T]`` samples at ``rate`` Hz.

        Args:
            heard_seconds: what the page has played of the reply that still sounds; None if none does.

        Returns: ``began``: a question begins, what sounds must stop; ``ended``: it is over and can be asked.

        Raises:
            InputError: the question is too long; it is forgotten.
        """
        opened = self._opened(mode, rate)
        if opened.resampler is not None:
            samples = opened.resampler.resample_chunk(samples)
        began = ended = False
        if opened.endpointer is not None:
            samples, began, ended = opened.endpointer.step(samples, heard_seconds is not None)
        elif not self._heard:
            began = True
        if began:
            self._begin(heard_seconds)
        if len(samples):
            self._heard.append(samples)
            try:
                self._visit.session.hear(samples)
            except InputError:
                self.drop()
                raise
        return {"began": began, "ended": ended}

    def _opened(self, mode: str, rate: int) -> _Open:
        if self._open is None or (self._open.mode, self._open.rate) != (mode, rate):
            import soxr

            self.drop()
            resampler = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, dtype="float32")
            self._open = _Open(mode, rate, resampler, Endpointer(self._activity) if mode == "free" else None)
        return self._open

    def _begin(self, heard_seconds: float | None) -> None:
        visit, opened = self._visit, self._open
        visit.alive()
        self._open = opened  # a conversation that was closed for idleness begins anew; the microphone goes on
        visit.interrupt(heard_seconds)
        self._forget()
        visit.show_picture()

    def take(self) -> np.ndarray | None:
        """The question ``[T]`` that was heard and goes to the session now; None if there was none."""
        heard, self._heard = self._heard, []
        if self._open is not None and self._open.mode == "push":
            self._open = None
        return np.concatenate(heard) if heard else None

    def drop(self) -> None:
        """The microphone was closed: what was not asked is forgotten."""
        self._open = None
        self._forget()

    def _forget(self) -> None:
        if self._heard:
            self._heard = []
            if not self._visit.session.closed and self._visit.session.request is None:
                self._visit.session.unhear()


def decode_chunk(pcm: Any, rate: Any) -> tuple[np.ndarray, int]:
    """Samples ``[T]`` and rate of what the page's microphone sent. Raises: InputError: it is no sound."""
    from emova_app.demo.page_sessions import from_pcm

    if not isinstance(pcm, str) or len(pcm) > 2 * MAX_CHUNK_BYTES or not isinstance(rate, int | float):
        raise InputError("the microphone: no sound came; check it and try again")
    if not 8_000 <= rate <= 192_000:
        raise InputError(f"the microphone: {rate:g} Hz; choose one between 8000 and 192000 Hz")
    try:
        data = base64.b64decode(pcm, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the microphone: no sound came; check it and try again") from None
    return from_pcm(data), int(rate)
