"""Whisper behind the codebook: the rest of its encoder over units, and its decoder, which reads the words.

Shapes: B batch, U units (or encoder frames), D width, L text tokens, V text tokens that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from emova.speech.tokenizer.spiral import Block, block_causal_mask
from emova_train.vq.whisper import Whisper, block_state

IGNORED = -100


class WordDecoder(nn.Module):
    """Whisper's decoder over encoded speech of any length; what lies behind a row's end is not looked at."""

    def __init__(self, whisper: Whisper) -> None:
        super().__init__()
        config = whisper.config
        config._attn_implementation = "sdpa"
        self.decoder = WhisperDecoder(config)
        own = "decoder."
        state = {name.removeprefix(own): value for name, value in whisper.state.items() if name.startswith(own)}
        self.decoder.load_state_dict(state)
        self.longest = config.max_target_positions

    def forward(
        self, tokens_BL: Tensor, heard_BUD: Tensor, inside_BU: Tensor, past: EncoderDecoderCache | None = None
    ) -> Tensor:
        """The logits behind each token, ``[B, L, V]``; with ``past`` the tokens follow those that it has."""
        decoder, new = self.decoder, tokens_BL.shape[1]
        before = 0 if past is None else past.get_seq_length()
        x_BLD = decoder.embed_tokens(tokens_BL) + decoder.embed_positions.weight[before : before + new]
        ones = torch.ones(new, before + new, dtype=torch.bool, device=tokens_BL.device)
        causal = ones.tril(before)[None, None].expand(len(tokens_BL), 1, -1, -1)
        seen = inside_BU[:, None, None].expand(-1, 1, new, -1)
        for layer in decoder.layers:
            x_BLD = layer(x_BLD, causal, heard_BUD, encoder_attention_mask=seen, past_key_values=past)
        return decoder.layer_norm(x_BLD) @ decoder.embed_tokens.weight.T

    @torch.inference_mode()
    def read(
        self, heard_BUD: Tensor, inside_BU: Tensor, prompt: Sequence[int], end: int, limits_B: Sequence[int]
    ) -> list[list[int]]:
        """The likeliest token after another, until ``end`` or a row's limit."""
        past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        new_BL = torch.tensor([list(prompt)] * len(heard_BUD), device=heard_BUD.device)
        over_B = torch.zeros(len(heard_BUD), dtype=torch.bool, device=heard_BUD.device)
        found: list[Tensor] = []
        for _ in range(min(max(limits_B, default=0), self.longest - len(prompt))):
            logits_BV = self(new_BL, heard_BUD, inside_BU, past)[:, -1]
            next_B = logits_BV.argmax(-1).masked_fill(over_B, end)
            found.append(next_B)
            over_B = over_B | (next_B == end)
            if bool(over_B.all()):
                break
            new_BL = next_B[:, None]
        rows = torch.stack(found, dim=1).tolist() if found else [[] for _ in heard_BUD]
        return [
            (row[: row.index(end)] if end in row else row)[:limit] for row, limit in zip(rows, limits_B, strict=True)
        ]


class WhisperReader(nn.Module):
    """Quantised units to words; of training alone.

    Args:
        first: the encoder's layers that lie before the codebook.
        block: units that see each other; a unit also sees all before them, as in the layers before the codebook.
    """

    def __init__(self, whisper: Whisper, first: int, pooling: int, block: int) -> None:
        super().__init__()
        config, self.block = whisper.config, max(1, block)
        self.positions = nn.Embedding(-(-config.max_source_positions // pooling), config.d_model)
        # A unit stands where its first frame did: the decoder finds its place in time by that.
        self.positions.load_state_dict({"weight": whisper.state["encoder.embed_positions.weight"][::pooling]})
        self.layers = nn.ModuleList(
            Block(config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(config.encoder_layers - first)
        )
        for index, layer in enumerate(self.layers):
            layer.load_state_dict(block_state(whisper, first + index))
        self.norm = nn.LayerNorm(config.d_model)
        self.norm.load_state_dict({kind: whisper.state[f"encoder.layer_norm.{kind}"] for kind in ("weight", "bias")})
        self.words = WordDecoder(whisper)

    def encode(self, codes_BUD: Tensor, inside_BU: Tensor) -> Tensor:
        """``[B, U, D]`` as the decoder hears them."""
        count = codes_BUD.shape[1]
        x_BUD = codes_BUD + self.positions.weight[:count]
        mask = block_causal_mask(count, self.block, count, inside_BU.sum(1), x_BUD.device)
        for layer in self.layers:
            x_BUD, _ = layer(x_BUD, mask)
        return self.norm(x_BUD)

    def forward(self, heard_BUD: Tensor, inside_BU: Tensor, tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        """Cross-entropy of the words in what ``encode`` gave, a mean over the targets that are not ``IGNORED``."""
        logits_BLV = self.words(tokens_BL, heard_BUD, inside_BU)
        return functional.cross_entropy(logits_BLV.float().flatten(0, 1), targets_BL.flatten(), ignore_index=IGNORED)
