"""The language model's forward pass in plain matrix products, for rows of one shape on a processor.

It uses the checkpoint's own parameters and computes what transformers' LLaMA computes (a test holds them equal); what
is left out is everything that a training of one task does not need, which leaves whole-graph compilation possible.

Shape letters: R rows, T positions, D width, H heads, G key-value heads, C head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def rotation(length: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, C] of rotary positions."""
    inverse = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
    angle = torch.outer(torch.arange(length).float(), inverse)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(each: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``each`` [..., T, C] turned by its position."""
    left, right = each.chunk(2, dim=-1)
    return each * cosine + torch.cat([-right, left], dim=-1) * sine


def normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square normalisation in float32, in the type of ``x``."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * weight).to(x.dtype)


def looking_loss(scores_RTT: Tensor, looks_RT2: Tensor) -> Tensor:
    """How much of a head's attention misses the text that is spoken next: mean of -log of the share that finds it.

    Args:
        scores_RTT: of the head, masked, before the softmax.
        looks_RT2: the places [first, last) to find; (0, 0) for none.
    """
    key = torch.arange(scores_RTT.shape[-1], device=scores_RTT.device)
    there = (key >= looks_RT2[..., :1]) & (key < looks_RT2[..., 1:])
    wide = scores_RTT.float()
    found = wide.masked_fill(~there, -1e9).logsumexp(-1) - wide.logsumexp(-1)
    wanted = looks_RT2[..., 1] > 0
    return -(found * wanted).sum() / wanted.sum().clamp_min(1)


class Reader(torch.nn.Module):
    """A LLaMA that learns to say units.

    Args:
        language_model: transformers' LlamaModel; its parameters are shared, not copied.
        classes: the ids [first, last) that can be said; the loss chooses among them alone.
        length: T.
        guided: {layer: heads} whose first heads are shown where to look.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self, language_model: LlamaModel, classes: tuple[int, int], length: int, guided: dict[int, int]
    ) -> None:
        super().__init__()
        self.model = language_model
        self.classes = classes
        self.guided = guided
        config = language_model.config
        self.heads: int = config.num_attention_heads
        self.groups: int = config.num_key_value_heads or self.heads
        self.width: int = config.head_dim or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        rotary = config.rope_parameters
        assert rotary is not None and "rope_theta" in rotary, "transformers fills it in"
        cosine, sine = rotation(length, self.width, float(rotary["rope_theta"] or 0.0))
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def hidden(self, ids: Tensor, owners: Tensor, looks: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The last hidden states [R, T, D] and the mean loss of the guided heads."""
        rows, length = ids.shape
        x = self.model.embed_tokens(ids).to(dtype)
        place = torch.arange(length, device=ids.device)
        hidden_R1TT = ((owners[:, :, None] != owners[:, None, :]) | (place[None] > place[:, None]))[:, None]
        bias = torch.zeros(hidden_R1TT.shape, dtype=dtype, device=ids.device).masked_fill(hidden_R1TT, -1e9)
        cosine, sine = self.cosine[:length].to(dtype), self.sine[:length].to(dtype)
        looking = torch.zeros((), device=ids.device)
        layer: LlamaDecoderLayer
        for number, layer in enumerate(self.model.layers):  # type: ignore[assignment]  # modules, to torch
            attention, mlp = layer.self_attn, layer.mlp
            h = normed(x, layer.input_layernorm.weight, self.epsilon)
            whole = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).to(dtype)
            joined = (h @ whole.T).view(rows, length, -1, self.width).transpose(1, 2)
            q, k, v = joined.split([self.heads, self.groups, self.groups], dim=1)
            q, k = rotate(q, cosine, sine) * self.width**-0.5, rotate(k, cosine, sine)
            shared = self.heads // self.groups
            q = q.reshape(rows, self.groups, shared * length, self.width)
            scores = (q @ k.transpose(-1, -2)).view(rows, self.heads, length, length) + bias
            if looks is not None and self.guided.get(number):
                for head in range(self.guided[number]):
                    looking = looking + looking_loss(scores[:, head], looks) / sum(self.guided.values())
            shares = scores.softmax(-1)
            mixed = shares.view(rows, self.groups, shared * length, length) @ v
            mixed = mixed.view(rows, self.heads, length, self.width).transpose(1, 2).reshape(rows, length, -1)
            x = x + mixed @ attention.o_proj.weight.to(dtype).T
            h = normed(x, layer.post_attention_layernorm.weight, self.epsilon)
            up = h @ torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(dtype).T
            gate, up = up.chunk(2, dim=-1)
            x = x + (functional.silu(gate) * up) @ mlp.down_proj.weight.to(dtype).T
        return normed(x, self.model.norm.weight, self.epsilon), looking

    def forward(self, ids: Tensor, owners: Tensor, places: Tensor, targets: Tensor, looks: Tensor | None,
                dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Cross entropy [K] at chosen places, whether each was right, and the guided heads' loss.

        Args:
            ids, owners: [R, T].
            places: [K], of the flattened rows; a padding place has the target -100.
            targets: [K], ids.
            looks: [R, T, 2] or None.
        """
        hidden, looking = self.hidden(ids, owners, looks, dtype)
        first, last = self.classes
        chosen = hidden.reshape(-1, hidden.shape[-1])[places]
        logits = chosen @ self.model.embed_tokens.weight[first:last].to(dtype).T
        wide = logits.float()
        losses = functional.cross_entropy(wide, targets - first, reduction="none", ignore_index=-100 - first)
        return losses, wide.argmax(-1) == targets - first, looking
