"""A question that is still being asked: sound becomes units as it comes in, a picture is kept until it is asked about.

Shape letters: T samples.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.speech.audio import AudioLimits, is_silent

if TYPE_CHECKING:
    from emova.assistant import Assistant


class StreamingTokenizer:
    """One recording that is still going on.

    Args:
        tokenizer: a SpeechTokenizer.
        limits: how long it may be, and what counts as silence.
    """

    def __init__(self, tokenizer: Any, limits: AudioLimits) -> None:
        self.rate: int = tokenizer.sample_rate
        self.limits = limits
        self.units: list[int] = []
        self.samples = 0
        self.silent = True
        self._window = int(0.03 * self.rate)
        self._left = np.zeros(0, dtype=np.float32)
        self._device = tokenizer.device
        self._open = ExitStack()
        self._stream = self._open.enter_context(tokenizer.streaming(1))

    def step(self, samples: Any) -> None:
        """Hear the next ``[T]`` samples.

        Raises:
            InputError: they are no samples, or the recording is too long.
        """
        try:
            chunk = np.atleast_1d(np.asarray(samples, dtype=np.float32))
        except (TypeError, ValueError):
            chunk = np.zeros((0, 0), dtype=np.float32)
        if chunk.ndim != 1 or not np.isfinite(chunk).all():
            raise InputError("the audio: a chunk is not one row of numbers; give float arrays of shape [T]")
        if self.samples + len(chunk) > self.limits.max_seconds * self.rate:
            raise InputError(f"the audio: longer than {self.limits.max_seconds:g} s; stop earlier")
        self.samples += len(chunk)
        if self.silent:
            heard = np.concatenate([self._left, chunk])
            whole = len(heard) // self._window * self._window
            self.silent = is_silent(heard[:whole], self.rate, self.limits.silence_dbfs) if whole else True
            self._left = heard[whole:]
        self.units += self._stream.step(torch.from_numpy(chunk.clip(-1, 1))[None].to(self._device))[0].tolist()

    def finish(self) -> None:
        """The question is over. Raises: InputError: it is too short, or silence."""
        if self.samples < self.limits.min_seconds * self.rate:
            raise InputError(f"the audio: shorter than {self.limits.min_seconds:g} s; record it again")
        if self.silent:
            raise InputError("the audio: only silence; check the microphone and record it again")
        self.units += self._stream.finish()[0].tolist()

    def close(self) -> None:
        """Drop the state."""
        self._open.close()


class Question:
    """The parts of one question, and the prompt that they make."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self.picture: Prompt | None = None
        self.ears: StreamingTokenizer | None = None

    def show(self, image: Any) -> None:
        """Take a loaded picture; it replaces an earlier one of this question."""
        prompt = self._assistant._prompt([{"role": "user", "content": [{"type": "image", "image": image}]}])
        # Without the start of the text and the role before it, the end of turn and the next role after it.
        self.picture = Prompt(prompt.ids[2:-2], prompt.pixel_values, prompt.image_grids)

    def hear(self, samples: Any) -> None:
        """Take the next samples. Raises: InputError."""
        if self.ears is None:
            self.ears = StreamingTokenizer(self._assistant.speech_tokenizer, self._assistant.config.audio_limits)
        self.ears.step(samples)

    @property
    def empty(self) -> bool:
        """Whether nothing was said or shown."""
        return self.picture is None and self.ears is None

    def so_far(self) -> Prompt:
        """What is certain already: the beginning of ``prompt``."""
        ids = self._assistant.parts.processor.token_ids
        heard: tuple[int, ...] = ()
        if self.ears is not None:
            heard = (ids.speech_start, *ids.from_units(self.ears.units))
        return self._behind_picture((ids.user, *heard))

    def prompt(self, text: str | None) -> Prompt:
        """The whole question, as training renders it."""
        content: list[dict[str, Any]] = []
        if self.ears is not None:
            content.append({"type": "audio", "units": self.ears.units})
        if text is not None:
            content.append({"type": "text", "text": text})
        return self._behind_picture(self._assistant._prompt([{"role": "user", "content": content}]).ids[1:])

    def _behind_picture(self, ids: tuple[int, ...]) -> Prompt:
        if self.picture is None:
            return Prompt(ids)
        return Prompt((ids[0], *self.picture.ids, *ids[1:]), self.picture.pixel_values, self.picture.image_grids)

    def close(self) -> None:
        """Drop the recording's state."""
        if self.ears is not None:
            self.ears.close()
