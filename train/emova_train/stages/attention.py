"""Attention over a packed row: causal, and inside each sequence alone. Registered with transformers by its name.

Shape letters: N positions of the row, S sequences, H heads, G key-value heads, C head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import emova.core.compat  # noqa: F401

# isort: split
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED_ATTENTION = "emova_packed"


def choose_attention(wanted: str) -> str:
    """The attention implementation for packed rows; ``auto`` is flash attention on a GPU that has it."""
    if wanted != "auto":
        return wanted
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED_ATTENTION


def packed_attention(
    module: nn.Module | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence alone; its cost grows with their lengths, not with the row's.

    Args:
        query: [1, H, N, C]; key and value: [1, G, N, C].
        cu_seq_lens_q: [S + 1], where the sequences begin and end.
        max_length_q: the longest sequence.

    Returns:
        [1, N, H, C]
    """
    assert attention_mask is None and cu_seq_lens_q is not None, "packed attention is for packed training alone"
    if torch.is_autocast_enabled(query.device.type):
        # The rotation of queries and keys is done in float32, and left there it doubles the time of what follows.
        query, key, value = (each.to(torch.get_autocast_dtype(query.device.type)) for each in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.is_cuda and query.dtype != torch.float32 and dropout == 0.0 and max_length_q is not None:
        return _varlen_attention(query, key, value, cu_seq_lens_q, max_length_q, scale), None
    bounds = cu_seq_lens_q.tolist()
    parts = []
    for first, last in zip(bounds, bounds[1:], strict=False):
        q, k, v = (each[:, :, first:last] for each in (query, key, value))
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and dropout == 0.0:
            parts.append(_plain_attention(q, k, v, scale))
        else:
            parts.append(
                functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=True
                )
            )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    """All sequences by one kernel, which a GPU needs: [1, N, H, C]."""
    from torch.nn.attention.varlen import varlen_attn

    shared = query.shape[1] // key.shape[1]
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    # Each key-value head for each of its queries: not every release of torch takes fewer of them.
    key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    attended = varlen_attn(
        query.contiguous(), key, value, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0)
    )
    assert isinstance(attended, Tensor)
    return attended[None]


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention by matrix products, which a CPU trains twice as fast in bfloat16 as torch's fused kernel."""
    _, heads, length, width = query.shape
    groups = key.shape[1]
    grouped = (query * scale).reshape(1, groups, heads // groups * length, width)
    scores = (grouped @ key.transpose(-1, -2)).view(1, heads, length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    shares = scores.masked_fill(future, -torch.inf).softmax(-1, dtype=torch.float32).to(value.dtype)
    return (shares.view(1, groups, heads // groups * length, length) @ value).view(1, heads, length, width)


def _no_mask(*_: object, **__: object) -> None:
    return None


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _no_mask)
