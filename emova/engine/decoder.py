"""The engine as a decoding backend: one reply at a time.

Shape letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emova.core.errors import UnsupportedModelError
from emova.decoding.loop import Decoder
from emova.decoding.protocol import Context, DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.engine import Engine, EngineConfig
from emova.engine.protocol import SequenceCache
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration


class EngineDecoder:
    """The engine as a DecodingBackend: one reply at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.max_length = engine.llama.max_length

    def new_context(self) -> Context[SequenceCache]:
        """An empty context."""
        return self.engine.new_context()

    @torch.inference_mode()
    def feed(self, context: Context[SequenceCache], prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits; the scores ``[V]`` of the next token."""
        return self.engine.llama.scores(self.engine.feed(context, prompt))[0]

    def read(self, context: Context[SequenceCache], prompt: Prompt) -> None:
        """Read ``prompt`` after what waits."""
        self.engine.feed(context, prompt)

    def write(
        self, context: Context[SequenceCache], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> Iterator[list[int]]:
        """Let the model write one reply after ``prompt``; yields tokens as they are certain, forced ones in one go.

        Raises:
            InputError: the scores are not numbers (damaged weights).
        """
        request = self.engine.start(context, prompt, grammar, sampling)
        if request.written:
            yield request.take_written()
        while not request.done:
            self.engine.step([request])
            if request.written:
                yield request.take_written()
        if request.error is not None:
            raise request.error


def best_decoder(model: EmovaForConditionalGeneration, config: EngineConfig) -> DecodingBackend[Any]:
    """The engine where it can run the model, else the standard decoder.

    Raises:
        InputError: the backend that was asked for cannot be had.
    """
    try:
        return EngineDecoder(Engine(model, config))
    except UnsupportedModelError:
        return Decoder(model)
