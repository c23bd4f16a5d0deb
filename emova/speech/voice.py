"""Units to sound in a style, whole or while the units come in.

Shape letters: B batch, U units, N new units, T samples, S style channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.core.streams import Stream
from emova.speech.detokenizer.protocol import SpeechDetokenizer, SpeechStream
from emova.speech.style import Style, StylePrototypes, StyleSet


@dataclass(frozen=True)
class ChunkPlan:
    """How many units are spoken at once: few at first, so that the voice starts soon, then as many as come in while the
    listener still has something to hear, so that little is spent on each.

    Attributes:
        first: units that sound in the first chunk (5 are 0.2 s).
        growth: each chunk is at least so many times the one before.
        largest: of the chunks that have to grow; with so many units none waits any longer.
        reserve: seconds of sound that the listener still has when the next chunk is begun.
    """

    first: int = 5
    growth: float = 2.0
    largest: int = 100
    reserve: float = 0.1

    def after(self, size: int) -> int:
        """The least size of the chunk that follows one of ``size``."""
        return min(self.largest, math.ceil(size * self.growth))


DEFAULT_PLAN = ChunkPlan()


class Voice:
    """A speech detokenizer and its style vectors."""

    def __init__(self, detokenizer: SpeechDetokenizer, prototypes: StylePrototypes) -> None:
        assert prototypes.size == detokenizer.style_size
        self.detokenizer = detokenizer
        self.prototypes = prototypes
        self.device = detokenizer.device

    @property
    def sample_rate(self) -> int:
        """Hz of what is spoken."""
        return self.detokenizer.sample_rate

    @property
    def styles(self) -> StyleSet:
        """What it can sound like."""
        return self.prototypes.styles

    def vector(self, style: Style) -> Tensor:
        """The style's vector, ``[1, S]``. Raises: InputError: there is no such style."""
        return self.prototypes[style][None].to(self.device)

    @torch.inference_mode()
    def synthesize(self, units: Sequence[int], style: Style) -> np.ndarray:
        """All of ``units`` as float32 samples ``[T]``."""
        if not units:
            return np.zeros(0, dtype=np.float32)
        units_BU = torch.tensor([list(units)], device=self.device)
        return _samples(self.detokenizer.decode(units_BU, self.vector(style)))

    def start(
        self, style: Style, plan: ChunkPlan = DEFAULT_PLAN, clock: Callable[[], float] = time.perf_counter
    ) -> Speaking:
        """Speak while the units come in; see ``Speaking``."""
        return Speaking(self, style, plan, clock)


class Speaking(Stream[Sequence[int], np.ndarray]):
    """One utterance that is still being written; the pieces together equal ``Voice.synthesize`` of all units.

    Args:
        clock: seconds; the listener is taken to hear each piece as soon as it is there.

    Attributes:
        style: of the whole utterance; it may be changed until there is sound.
    """

    def __init__(
        self,
        voice: Voice,
        style: Style,
        plan: ChunkPlan = DEFAULT_PLAN,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.style = style
        self._voice, self._plan, self._clock = voice, plan, clock
        self._heard_until = 0.0
        self._stream: SpeechStream | None = None
        self._waiting: list[int] = []
        # A voice that draws whole chunks gives all of one's sound at once.
        self._chunk = 1 if getattr(voice.detokenizer, "draws_chunks", False) else plan.first
        # What the detokenizer holds back makes no sound yet, so the first chunk waits for it too.
        self._held_back = voice.detokenizer.lookahead_units

    @torch.inference_mode()
    def step(self, units: Sequence[int], /) -> np.ndarray:
        """Take units; give the samples ``[T]`` that are certain by now (T may be 0)."""
        self._waiting += units
        if not self._due():
            return np.zeros(0, dtype=np.float32)
        self._chunk, self._held_back = self._plan.after(self._chunk), 0
        stream, units_BN = self._take()
        samples = _samples(stream.step(units_BN))
        self._heard_until = max(self._heard_until, self._clock()) + len(samples) / self._voice.sample_rate
        return samples

    def _due(self) -> bool:
        """Whether what waits is to be spoken now."""
        count = len(self._waiting)
        if count < self._chunk + self._held_back:
            return False
        return count >= self._plan.largest or self._clock() >= self._heard_until - self._plan.reserve

    @torch.inference_mode()
    def finish(self) -> np.ndarray:
        """The rest of the samples."""
        stream, units_BN = self._take()
        return _samples(stream.finish(units_BN))

    def _take(self) -> tuple[SpeechStream, Tensor]:
        """The stream and what it is to speak next."""
        if self._stream is None:
            self._stream = self._voice.detokenizer.streaming(self._voice.vector(self.style))
        units_BN = torch.tensor([self._waiting], dtype=torch.long, device=self._voice.device)
        self._waiting = []
        return self._stream, units_BN


def _samples(waveform_BT: Tensor) -> np.ndarray:
    samples = waveform_BT[0].float().cpu().numpy()
    if not np.isfinite(samples).all():
        raise InputError("the voice's samples are not numbers; its weights are damaged, copy the checkpoint again")
    return samples.clip(-1.0, 1.0)
