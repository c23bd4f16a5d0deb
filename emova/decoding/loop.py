"""The standard decoding loop, for any model of transformers: its cache, the grammar's choices, and sampling.

Shape letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emova.decoding.ctc import CtcFrames, JointSampler
from emova.decoding.sampling import Sampler, Sampling
from emova.reply.grammar import Grammar


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
    """What the model has read so far; ``waiting`` was written but not yet fed.

    Attributes:
        ctc: what CTC reads at the last stretch of speech units; None where the model was not trained to.
    """

    cache: Any
    length: int = 0
    waiting: list[int] = field(default_factory=list)
    ctc: CtcFrames | None = None

    def mark(self) -> tuple[int, tuple[int, ...]]:
        """A point to go back to."""
        return self.length, tuple(self.waiting)

    def rewind(self, mark: tuple[int, tuple[int, ...]]) -> None:
        """Forget everything since ``mark``."""
        length, waiting = mark
        if length < self.length:
            self.cache.crop(length - self.length)
            if self.ctc is not None:
                self.ctc.rewind(length)
        self.length, self.waiting = length, list(waiting)


def new_ctc_frames(config: Any) -> CtcFrames | None:
    """For a new context of the model with this EmovaConfig."""
    first = config.speech_first_token_id
    return CtcFrames((first, first + config.speech_codebook_size)) if config.ctc_layer else None


def ctc_log_probs(scores_TV: Tensor, blank: int) -> np.ndarray:
    """``[T, C]`` of the head's scores; the text's tokens lie below the blank."""
    return scores_TV[:, : blank + 1].float().log_softmax(-1).cpu().numpy()


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

        return Context(DynamicCache(config=self.model.config.text_config), ctc=new_ctc_frames(self.model.config))

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
        frames = context.ctc
        reads_ctc = frames is not None and frames.awaits(prompt.ids)
        output = self.model(
            input_ids=torch.tensor([ids], device=device),
            past_key_values=context.cache,
            use_cache=True,
            logits_to_keep=1,
            output_hidden_states=reads_ctc,
            **pictures,
        )
        if frames is not None and reads_ctc:
            config = self.model.config
            middle_ND = output.hidden_states[config.ctc_layer][0, len(context.waiting) :]
            normed_ND = self.model.model.language_model.norm(middle_ND)
            log_probs = lambda part: ctc_log_probs(self.model.lm_head(normed_ND[part]), config.pad_token_id)  # noqa: E731
            frames.take(prompt.ids, context.length + len(context.waiting), log_probs)
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
        sampler = JointSampler(Sampler(sampling, len(scores)), context.ctc)
        while True:
            allowed = grammar.allowed()
            token = sampler.choose(scores.cpu().numpy()[allowed], allowed, grammar)
            grammar.advance(token)
            certain = [token, *grammar.take_forced()]
            # What is written counts as read even if the one who listens stops here.
            context.waiting = list(certain)
            yield certain
            if grammar.done:
                return
            scores = self.feed(context, Prompt(()))
