"""The standard decoding loop, for any model of transformers: its cache, the grammar's choices, and sampling.

Shape letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emova.grammar import Grammar
from emova.sampling import Sampler, Sampling


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

        Raises:
            InputError: the scores are not numbers (damaged weights).
        """
        certain = grammar.take_forced()
        if certain:
            yield certain
        if grammar.done:
            return
        scores = self.feed(context, Prompt((*prompt.ids, *certain), prompt.pixel_values, prompt.image_grids))
        sampler = Sampler(sampling, len(scores))
        while True:
            allowed = grammar.allowed()
            token = sampler.choose(scores.cpu().numpy()[allowed], allowed, grammar.kind)
            grammar.advance(token)
            certain = [token, *grammar.take_forced()]
            # What is written counts as read even if the one who listens stops here.
            context.waiting = list(certain)
            yield certain
            if grammar.done:
                return
            scores = self.feed(context, Prompt(()))
