"""Whisper behind the codebook: the rest of its encoder over units, and its decoder, which reads the words.

It learns beside a tokenizer (``emova train vq``) and measures it by how well speech is recognised through the units
alone (GLM-4-Voice, Zeng et al. 2024, §3.1, Table 1). A tokenizer's folder may hold it as ``reader``; nothing else needs
it.

Shapes: B batch, U units (or encoder frames), D width, L text tokens, V text tokens that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperConfig
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.core.weights import load_state, read_folder, save_folder
from emova.core.writing import write_text
from emova.speech.tokenizer.spiral import Block, block_causal_mask

if TYPE_CHECKING:
    from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer

FOLDER = "reader"
IGNORED = -100
TOKENS_A_SECOND, LEAST_TOKENS = 6, 8
"""Of text: more than anyone says."""
_TEXT = "tokenizer.json"


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of what lies behind the codebook.

    Attributes:
        width, heads, ffn, layers: of the encoder's rest.
        positions: units whose place in time it knows.
        block: units that see each other; a unit also sees all before them, as in the layers before the codebook.
        decoder_layers, decoder_heads, decoder_ffn, tokens, longest: of the decoder; V; a text's tokens at most.
        prompts: by language, what the decoder reads before the text.
        end: the token behind the text.
    """

    width: int
    heads: int
    ffn: int
    layers: int
    positions: int
    block: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    tokens: int
    longest: int
    prompts: dict[str, list[int]]
    end: int

    def decoder(self) -> WhisperConfig:
        """The decoder's sizes as transformers has them."""
        return WhisperConfig(
            vocab_size=self.tokens, d_model=self.width, decoder_layers=self.decoder_layers,
            decoder_attention_heads=self.decoder_heads, decoder_ffn_dim=self.decoder_ffn,
            max_target_positions=self.longest, pad_token_id=0,
        )  # fmt: skip


class WordDecoder(nn.Module):
    """Whisper's decoder over encoded speech of any length; what lies behind a row's end is not looked at."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.decoder = WhisperDecoder(config)
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
    """Quantised units to words."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(Block(config.width, config.heads, config.ffn) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.words = WordDecoder(config.decoder())

    def encode(self, codes_BUD: Tensor, inside_BU: Tensor) -> Tensor:
        """``[B, U, D]`` as the decoder hears them."""
        count = codes_BUD.shape[1]
        x_BUD = codes_BUD + self.positions.weight[:count]
        mask = block_causal_mask(count, self.config.block, count, inside_BU.sum(1), x_BUD.device)
        for layer in self.layers:
            x_BUD, _ = layer(x_BUD, mask)
        return self.norm(x_BUD)

    def forward(self, heard_BUD: Tensor, inside_BU: Tensor, tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
        """Cross-entropy of the words in what ``encode`` gave, a mean over the targets that are not ``IGNORED``."""
        logits_BLV = self.words(tokens_BL, heard_BUD, inside_BU)
        return functional.cross_entropy(logits_BLV.float().flatten(0, 1), targets_BL.flatten(), ignore_index=IGNORED)

    @torch.inference_mode()
    def read(self, tokenizer: WhisperVQTokenizer, units_U: Tensor, language: str) -> list[int]:
        """The text tokens that it reads in a recording's units. Raises: InputError: it knows no such language."""
        prompt = self.config.prompts.get(language)
        if prompt is None:
            raise InputError(f"language {language}: the reader knows {', '.join(self.config.prompts)}")
        if not len(units_U):
            return []
        inside_1U = torch.ones(1, len(units_U), dtype=torch.bool, device=units_U.device)
        heard_1UD = self.encode(tokenizer.encoder.codebook(units_U[None]), inside_1U)
        limit = LEAST_TOKENS + int(len(units_U) / tokenizer.unit_rate * TOKENS_A_SECOND)
        return self.words.read(heard_1UD, inside_1U, prompt, self.config.end, [limit])[0]

    def save(self, tokenizer_folder: str | Path, text: str) -> None:
        """Write it into a tokenizer's folder, in 16 bits, with its text tokens (``tokenizer.json``)."""
        folder = Path(tokenizer_folder) / FOLDER
        save_folder(folder, self.config, self.state_dict(), "float16")
        write_text(folder / _TEXT, text)


class ReadsWords:
    """A tokenizer's reader with its text tokens: units to words.

    Attributes:
        languages: that it knows.
    """

    def __init__(self, reader: WhisperReader, text: str) -> None:
        from tokenizers import Tokenizer

        self._reader, self._text = reader, Tokenizer.from_str(text)
        self.languages = tuple(reader.config.prompts)

    @classmethod
    def from_tokenizer(cls, folder: str | Path) -> Self | None:
        """That of a tokenizer's folder; None where it has none. Raises: InputError: a file is missing or damaged."""
        path = Path(folder) / FOLDER
        if not path.is_dir():
            return None
        values, state = read_folder(path)
        reader = WhisperReader(config_from_dict(ReaderConfig, values, path / "config.json"))
        load_state(reader, state, path)
        try:
            return cls(reader.eval(), (path / _TEXT).read_text(encoding="utf-8"))
        except Exception:  # tokenizers raises nothing narrower
            raise InputError(f"{path / _TEXT}: missing or damaged; export the tokenizer again") from None

    def __call__(self, tokenizer: WhisperVQTokenizer, units_U: Tensor, language: str = "en") -> str:
        """What is said. Raises: InputError: it knows no such language."""
        tokens = self._reader.to(units_U.device).read(tokenizer, units_U, language)
        return str(self._text.decode(tokens, skip_special_tokens=True)).strip()
