"""The standard decoding loop, for any model of transformers: its cache, the grammar's choices, and sampling.

Shape letters: V vocabulary, N positions of a prompt, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emova.decoding.ctc import CtcFrames, JointSampler, ctc_log_probs
from emova.decoding.protocol import Context, Prompt
from emova.decoding.sampling import Sampler, Sampling
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from transformers import DynamicCache

    from emova.model import EmovaForConditionalGeneration


class Decoder:
    """The DecodingBackend over transformers' own forward pass.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: EmovaForConditionalGeneration) -> None:
        self.model = model
        self.max_length: int = model.config.text_config.max_position_embeddings

    def new_context(self) -> Context[DynamicCache]:
        """An empty context."""
        from transformers import DynamicCache

        return Context(DynamicCache(config=self.model.config.text_config), ctc=CtcFrames.of_model(self.model.config))

    @torch.inference_mode()
    def feed(self, context: Context[DynamicCache], prompt: Prompt) -> Tensor:
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
            blank = config.pad_token_id or 0
            log_probs = lambda part: ctc_log_probs(self.model.lm_head(normed_ND[part]), blank)  # noqa: E731
            frames.take(prompt.ids, context.length + len(context.waiting), log_probs)
        context.length += len(ids)
        context.waiting = []
        return output.logits[0, -1].float()

    def read(self, context: Context[DynamicCache], prompt: Prompt) -> None:
        """Read ``prompt`` after what waits."""
        self.feed(context, prompt)

    def write(
        self, context: Context[DynamicCache], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> Iterator[list[int]]:
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
