"""The decoding loop: the model's cache, the grammar's choices, and sampling.

Shape letters: V vocabulary, K allowed ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emova.errors import InputError
from emova.grammar import Grammar


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen among those that the grammar allows; temperature 0 takes the likeliest.

    ``repetition_penalty`` is taken off a unit's score for each time it is among the last ``repetition_window`` units
    (the streaming engine only).
    """

    text_temperature: float = 0.0
    style_temperature: float = 0.0
    unit_temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 0
    repetition_penalty: float = 0.0
    repetition_window: int = 25

    def temperature(self, kind: str) -> float:
        """The temperature for a token of ``kind`` (text, style, units)."""
        return {"text": self.text_temperature, "style": self.style_temperature, "units": self.unit_temperature}[kind]


GREEDY = Sampling(unit_temperature=0.0)


@dataclass(frozen=True)
class Prompt:
    """What the model is fed before it writes: ids, and the tiles of the pictures among them."""

    ids: tuple[int, ...]
    pixel_values: Tensor | None = None
    image_grids: tuple[Any, ...] = ()

    def __add__(self, other: Prompt) -> Prompt:
        tiles = [each.pixel_values for each in (self, other) if each.pixel_values is not None]
        return Prompt(self.ids + other.ids, torch.cat(tiles) if tiles else None, self.image_grids + other.image_grids)


@dataclass
class Context:
    """What the model has read so far; ``waiting`` was written but not yet fed."""

    cache: Any
    length: int = 0
    waiting: list[int] = field(default_factory=list)

    def mark(self) -> tuple[int, tuple[int, ...]]:
        """A point to go back to."""
        return self.length, tuple(self.waiting)

    def rewind(self, mark: tuple[int, tuple[int, ...]]) -> None:
        """Forget everything since ``mark``."""
        length, waiting = mark
        if length < self.length:
            self.cache.crop(length - self.length)
        self.length, self.waiting = length, list(waiting)


class Decoder:
    """Feeds a model and lets it write under a grammar.

    Args:
        model: an EmovaForConditionalGeneration in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.max_length: int = model.config.text_config.max_position_embeddings

    def new_context(self) -> Context:
        """An empty context."""
        from transformers import DynamicCache

        return Context(DynamicCache(config=self.model.config.text_config))

    @torch.inference_mode()
    def feed(self, context: Context, prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits; the scores ``[V]`` of the next token."""
        ids = [*context.waiting, *prompt.ids]
        assert ids and context.length + len(ids) <= self.max_length
        device = self.model.device
        pictures: dict[str, Tensor] = {}
        if prompt.pixel_values is not None:
            grids = [[grid.rows, grid.columns] for grid in prompt.image_grids]
            pictures = {
                "pixel_values": prompt.pixel_values.to(device),
                "image_grids": torch.tensor(grids, device=device),
            }
        output = self.model(
            input_ids=torch.tensor([ids], device=device),
            past_key_values=context.cache,
            use_cache=True,
            logits_to_keep=1,
            **pictures,
        )
        context.length += len(ids)
        context.waiting = []
        return output.logits[0, -1].float()

    def write(self, context: Context, prompt: Prompt, grammar: Grammar, sampling: Sampling) -> Iterator[list[int]]:
        """Let the model write one reply after ``prompt``; yields tokens as they are certain, forced ones in one go.

        The last tokens that the grammar forces stay in ``context.waiting``: the next prompt feeds them.
        """
        generator = torch.Generator().manual_seed(sampling.seed)
        certain = grammar.take_forced()
        if certain:
            yield certain
        if grammar.done:
            return
        scores = self.feed(context, Prompt((*prompt.ids, *certain), prompt.pixel_values, prompt.image_grids))
        while True:
            token = choose(scores, grammar.allowed(), sampling.temperature(grammar.kind), sampling.top_p, generator)
            grammar.advance(token)
            certain = [token, *grammar.take_forced()]
            # What is written counts as read even if the one who listens stops here.
            context.waiting = list(certain)
            yield certain
            if grammar.done:
                return
            scores = self.feed(context, Prompt(()))


@torch.inference_mode()
def choose(
    scores: Tensor, allowed: np.ndarray | Sequence[int], temperature: float, top_p: float, generator: torch.Generator
) -> int:
    """One of the ``allowed`` ids, by its score in ``scores`` ``[V]``: the best, or drawn from the top_p likeliest.

    Raises:
        InputError: the scores are not numbers (damaged weights).
    """
    ids_K = torch.as_tensor(allowed)
    scores_K = scores.cpu()[ids_K]
    if temperature <= 0:
        best = int(scores_K.argmax())
        if not torch.isfinite(scores_K[best]):
            raise InputError("the model's scores are not numbers; its weights are damaged, copy the checkpoint again")
        return int(ids_K[best])
    probabilities, order = (scores_K / temperature).softmax(dim=0).sort(descending=True)
    if not torch.isfinite(probabilities[0]):
        raise InputError("the model's scores are not numbers; its weights are damaged, copy the checkpoint again")
    kept = max(1, int((probabilities.cumsum(dim=0) - probabilities < top_p).sum()))
    drawn = int(torch.multinomial(probabilities[:kept], 1, generator=generator))
    return int(ids_K[order[drawn]])
