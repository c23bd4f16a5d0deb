"""A LLaMA's layers as the engine runs them: fused matrices, and what is computed position by position.

Queries and keys have their rotary pairs side by side, so that the rotation is one complex product.

Shape letters: N positions, P positions of the context, D width, H heads, K key-value heads, C head width, O outputs,
I inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from emova.core.errors import UnsupportedModelError
from emova.native.int4 import int4_floats, int4_groups

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from emova.model import EmovaForConditionalGeneration

WeightBits = Literal[0, 4, 8]
"""What a weight is rounded to; 0: as it is."""
INT8_ROWS = 8
"""Up to so many rows, int8 weights are multiplied as they are; for more they are expanded first."""


class Linear:
    """``[N, I]`` to ``[N, O]``.

    Attributes:
        weight: ``[O, I]``, shared with the model; or int8.
        scale: of int8 weights a scale a row ``[O]``; of 4-bit ones, -8 to 7, a scale a row and 32 columns.
    """

    def __init__(self, weight: Tensor, bits: WeightBits) -> None:
        self.weight = weight
        self.scale: Tensor | None = None
        if bits == 8:
            weight = weight.detach().float()
            self.scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12)
            self.weight = (weight / self.scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        elif bits == 4:
            self.weight, self.scale = int4_groups(weight)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return self.rows(x_NI, slice(None))

    def rows(self, x_NI: Tensor, rows: slice | Tensor) -> Tensor:
        """Only these outputs: the rest of the weights is not touched."""
        weight = self.weight[rows]
        if self.scale is None:
            return functional.linear(x_NI, weight)
        scale = self.scale[rows]
        if scale.dim() == 2:
            return functional.linear(x_NI, int4_floats(weight, scale).to(x_NI.dtype))
        if x_NI.shape[0] <= INT8_ROWS and x_NI.device.type == "cpu" and isinstance(rows, slice):
            half = torch.bfloat16
            return torch._weight_int8pack_mm(x_NI.to(half), weight, scale.to(half)).to(x_NI.dtype)
        return functional.linear(x_NI, weight.to(x_NI.dtype)) * scale


class DecoderLayer:
    """One layer's weights; ``pair`` orders a head's channels so that rotary pairs stand side by side."""

    def __init__(self, layer: LlamaDecoderLayer, pair: Tensor, bits: WeightBits) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        queries, keys = (
            projection.weight.detach().unflatten(0, (-1, len(pair)))[:, pair].flatten(0, 1)
            for projection in (attention.q_proj, attention.k_proj)
        )
        self.qkv = Linear(torch.cat([queries, keys, attention.v_proj.weight.detach()]), bits)
        self.qkv_bias: Tensor | None = None
        if attention.q_proj.bias is not None:
            query, key = (
                projection.bias.detach().unflatten(0, (-1, len(pair)))[:, pair].flatten()
                for projection in (attention.q_proj, attention.k_proj)
            )
            self.qkv_bias = torch.cat([query, key, attention.v_proj.bias.detach()])
        self.out = Linear(attention.o_proj.weight.detach(), bits)
        self.gate_up = Linear(torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]), bits)
        self.down = Linear(mlp.down_proj.weight.detach(), bits)
        self.before_attention = layer.input_layernorm.weight.detach()
        self.before_mlp = layer.post_attention_layernorm.weight.detach()


class DecoderLayers:
    """All layers of a LLaMA, its embedding, its norm and its tied or own head.

    Args:
        model: what is not fused is shared with it, not copied.
        bits: of the linears' weights and the head's. Where they have 4, the head and the first layer have 8: what that
            layer loses, all others read.

    Raises:
        UnsupportedModelError: the language model is not a plain LLaMA.
    """

    def __init__(self, model: EmovaForConditionalGeneration, bits: WeightBits = 0) -> None:
        config = model.config.text_config
        plain = config.model_type == "llama" and not config.attention_bias and not config.mlp_bias
        # Qwen2 is a LLaMA whose queries, keys and values have biases.
        qwen = config.model_type == "qwen2" and not config.use_sliding_window
        if not (plain or qwen) or config.hidden_act != "silu":
            raise UnsupportedModelError(
                "the streaming engine runs plain LLaMA and Qwen2 models only; use the standard decoder"
            )
        language_model = model.model.language_model
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.max_length: int = config.max_position_embeddings
        assert model.config.token_count is not None, "set when the configuration is made"
        self.token_count: int = model.config.token_count
        self.ctc_layer: int = model.config.ctc_layer
        self.blank: int = model.config.pad_token_id or 0
        self.embedding = language_model.embed_tokens.weight.detach()
        self.norm = language_model.norm.weight.detach()
        pair = torch.arange(self.width).view(2, -1).T.flatten()
        first: WeightBits = 8 if bits else 0
        self.layers = [
            DecoderLayer(layer, pair, bits if place else first) for place, layer in enumerate(language_model.layers)
        ]
        self.head = Linear(model.lm_head.weight.detach(), 8 if bits else 0)
        with torch.inference_mode():
            positions = torch.arange(self.max_length, device=self.embedding.device)[None]
            cosine, sine = language_model.rotary_emb(self.embedding.float(), positions)
            self.rotation = torch.complex(cosine[0].float(), sine[0].float())[:, None, : self.width // 2].contiguous()

    def project(self, layer: DecoderLayer, x_ND: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys ``[N, H + K, C]``, and values ``[N, K, C]``."""
        rotated = (self.heads + self.kv_heads) * self.width
        qkv = layer.qkv(self.normalise(x_ND, layer.before_attention))
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias
        pairs = torch.view_as_complex(qkv[:, :rotated].float().unflatten(1, (-1, self.width // 2, 2)))
        qk = torch.view_as_real(pairs * rotation).flatten(2).to(x_ND.dtype)
        return qk, qkv[:, rotated:].unflatten(1, (self.kv_heads, self.width))

    def feed_forward(self, layer: DecoderLayer, x_ND: Tensor) -> Tensor:
        """The second half of a layer."""
        gate, up = layer.gate_up(self.normalise(x_ND, layer.before_mlp)).chunk(2, dim=1)
        return x_ND + layer.down(functional.silu(gate) * up)

    def normalise(self, x_ND: Tensor, weight: Tensor) -> Tensor:
        """RMS norm."""
        return functional.rms_norm(x_ND, (x_ND.shape[-1],), weight, self.eps)
