"""Any causal language model of transformers behind the engine: its own forward pass, its own cache.

Sequences are computed one after the other, so a sequence's result does not depend on its neighbours.

Shape letters: N positions, T new positions of one sequence, B sequences, D width, V vocabulary, A allowed ids,
C classes of CTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import UnsupportedModelError
from emova.decoding.ctc import ctc_log_probs
from emova.engine.kv_cache import SequenceState

if TYPE_CHECKING:
    from transformers import DynamicCache

    from emova.model import EmovaForConditionalGeneration


class CausalLMCache(SequenceState):
    """One sequence's keys and values, all of them kept: a layer with a sliding window can go back too."""

    def __init__(self, positions: int) -> None:
        from transformers import DynamicCache

        super().__init__(positions)
        self.kept: DynamicCache = DynamicCache()

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        super().crop(change)
        if not self.length:
            self.kept = type(self.kept)()
        elif change:
            self.kept.crop(change)


class CausalLM:
    """A LanguageModel over transformers' own classes. Speech that is being written sees all of itself.

    Raises:
        UnsupportedModelError: the model keeps a state that cannot be shortened, as recurrent ones do.
    """

    def __init__(self, model: EmovaForConditionalGeneration) -> None:
        self._model, self._config = model.model.language_model, model.config
        if getattr(self._model, "_is_stateful", False):
            raise UnsupportedModelError("the engine goes back in a dialogue, and this model's state cannot")
        self._whole = model
        self.max_length: int = self._config.text_config.max_position_embeddings
        assert self._config.token_count is not None, "set when the configuration is made"
        self.token_count: int = self._config.token_count

    def new_cache(self, positions: int | None = None) -> CausalLMCache:
        """An empty cache for ``positions`` (the model's context if None)."""
        return CausalLMCache(min(positions or self.max_length, self.max_length))

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """``[T, D]``"""
        device = self._whole.lm_head.weight.device
        return self._model.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.long, device=device))

    @torch.inference_mode()
    def forward(
        self, sequences: Sequence[tuple[CausalLMCache, Tensor]], every: bool = False, lasting: bool = True
    ) -> Tensor:
        """Read each sequence's new embeddings ``[T, D]``; hidden states ``[B, D]``, or of each position where
        ``every``."""
        assert all(0 < len(new) <= cache.room for cache, new in sequences)
        rows = []
        for cache, new_TD in sequences:
            output = self._model(
                inputs_embeds=new_TD[None],
                past_key_values=cache.kept,
                use_cache=True,
                output_hidden_states=cache.keep_middle,
            )
            cache.length += len(new_TD)
            cache.middle = output.hidden_states[self._config.ctc_layer][0] if cache.keep_middle else None
            hidden_TD = output.last_hidden_state[0]
            rows.append(hidden_TD if every else hidden_TD[-1:])
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    @torch.inference_mode()
    def scores(self, rows_ND: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` (float32) of the ``allowed`` ids in their order; ``[N, V]`` of all tokens if None."""
        scores_NV = self._whole.scores(rows_ND)[:, : self.token_count].float()
        return scores_NV if allowed is None else scores_NV[:, torch.from_numpy(allowed).to(scores_NV.device)]

    @torch.inference_mode()
    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """``[T, C]`` what CTC reads at the positions of speech units, from a cache's ``middle`` there."""
        blank = self._config.pad_token_id or 0
        return ctc_log_probs(self._whole.lm_head(self._model.norm(middle_TD)), blank)
