"""The loss of a packed row: that of its tokens, and those beside it (``emova_train.stages.losses.auxiliary``).

The vocabulary head runs only where a loss is wanted. Shape letters: N positions of the row, K positions with a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from emova.model import EmovaForConditionalGeneration
from emova_train.stages.losses.auxiliary import AuxiliaryLoss, HiddenStates
from emova_train.stages.losses.tokens import token_loss


def packed_loss(
    model: EmovaForConditionalGeneration, batch: Mapping[str, Tensor], auxiliary: Sequence[AuxiliaryLoss] = ()
) -> dict[str, Tensor]:
    """The terms of ``token_loss`` and of each auxiliary loss; in training ``loss`` is their weighted sum.

    Args:
        batch: of ``emova_train.data.packing.collate`` with the same auxiliary losses.
    """
    pictures = {name: batch[name] for name in ("pixel_values", "image_grids") if name in batch}
    bounds = batch["cu_seq_lens"]
    longest = int((bounds[1:] - bounds[:-1]).max())
    with ExitStack() as stack:
        for each in auxiliary:
            stack.enter_context(each.observe(model))
        outputs = model.model(
            input_ids=batch["input_ids"],
            sequence_ids=batch["sequence_ids"],
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=longest,
            max_length_k=longest,
            use_cache=False,
            output_hidden_states=bool(auxiliary),
            **pictures,
        )
    asked = [(each, each.asks(batch)) for each in auxiliary]
    norm = model.model.language_model.norm
    rows = [outputs.last_hidden_state[0, batch["keep"]]]
    rows += [norm(outputs.hidden_states[layer][0][positions]) for _, asks in asked for layer, positions in asks]
    # One call for all, in every batch: under ZeRO-3 the processes wait for each other in every module, forward and
    # back. Through the module, not its weight, since the call gathers weights that are spread.
    logits = iter(model.lm_head(torch.cat(rows)).split([len(each) for each in rows]))
    terms = token_loss(next(logits)[:, : model.config.token_count], batch, accuracy=not model.training)
    for each, asks in asked:
        states = HiddenStates(model, outputs.hidden_states, tuple(next(logits) for _ in asks))
        for name, loss in each(states, batch).items():
            terms[name] = loss.detach()
            if model.training:
                terms["loss"] = terms["loss"] + each.weight * loss
    return terms
