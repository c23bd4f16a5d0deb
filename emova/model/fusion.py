"""Putting image features into the text's embeddings, and masks for packed sequences.

Shape letters: B batch, T positions, D width, V visual tokens of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scatter_images(embeddings_BTD: Tensor, image_mask_BT: Tensor, features_VD: Tensor) -> Tensor:
    """Replace the embeddings at image placeholders by the features, in order.

    Raises:
        ValueError: there are not as many placeholders as features.
    """
    placeholders = int(image_mask_BT.sum())
    if placeholders != features_VD.shape[0]:
        raise ValueError(f"input_ids holds {placeholders} image placeholders, the pictures give {features_VD.shape[0]}")
    return embeddings_BTD.masked_scatter(image_mask_BT[..., None], features_VD.to(embeddings_BTD.dtype))


def packed_positions(sequence_ids_BT: Tensor) -> Tensor:
    """Positions that start at zero with every new sequence id. [B, T]"""
    steps = torch.arange(sequence_ids_BT.shape[1], device=sequence_ids_BT.device).expand_as(sequence_ids_BT)
    changed = torch.ones_like(sequence_ids_BT, dtype=torch.bool)
    changed[:, 1:] = sequence_ids_BT[:, 1:] != sequence_ids_BT[:, :-1]
    starts = torch.where(changed, steps, 0).cummax(dim=1).values
    return steps - starts


def packed_mask(sequence_ids_BT: Tensor, attention: str, dtype: torch.dtype) -> Tensor | None:
    """Block-diagonal causal mask: a position sees the earlier ones of its own sequence.

    Args:
        sequence_ids_BT: which sequence each position belongs to; padding may have any id of its own.
        attention: the attention implementation's name.
        dtype: of the additive mask that "eager" needs.

    Returns:
        [B, 1, T, T]: True where attention is allowed for "sdpa", additive for "eager"; None for the implementations
        that read packing off the positions (flash attention).
    """
    if attention not in ("sdpa", "eager"):
        return None
    length = sequence_ids_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=sequence_ids_BT.device).tril()
    allowed = (sequence_ids_BT[:, None, :, None] == sequence_ids_BT[:, None, None, :]) & causal_TT
    if attention == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
