"""The language model in llama.cpp: the layers and the head of a GGUF file, quantised or not, behind our embeddings.

Embeddings go in, so pictures are read like words; the scores of all tokens come out. Sequences that lie in one context
(``emova.engine.llamacpp_context``) and read a few new positions, as replies do that are being written, are read in one
call, so that the weights are read once for all of them; those that read more go by themselves.

Shape letters: T new positions of one sequence, B sequences, D width, V vocabulary, A allowed ids, C classes of CTC.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emova.checkpoint.gguf import FINGERPRINT, fingerprint
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.llamacpp import llama_cpp
from emova.decoding.ctc import ctc_log_probs
from emova.engine.llamacpp_context import CHUNK, Handle, LlamaCppCache, MiddleTap, SharedContext

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration

_F32 = "0"  # llama.cpp's file type
_ALL_LAYERS = 999
TOGETHER = 8
"""Most new positions of a sequence that are read in one call with those of others."""
MOST_PARALLEL = CHUNK // TOGETHER
"""Most sequences of one context."""


class LlamaCpp:
    """A LanguageModel whose layers are a GGUF file.

    Args:
        model: of the same checkpoint; its layers are not used, they may be missing.
        path: what ``emova export gguf`` wrote of it.
        half_cache: keys and values as float16 where the file's weights have no more than 16 bits.
        speech_window: how far back speech that is being written sees itself, in positions; 0 is all the way.
        parallel: sequences of one context, 1 to ``MOST_PARALLEL``; it keeps the memory of all from the first one on.

    Raises:
        InputError: llama-cpp-python is not installed; the file is missing, damaged, or of another checkpoint.
    """

    def __init__(
        self,
        model: EmovaForConditionalGeneration,
        path: str | Path,
        half_cache: bool = True,
        speech_window: int = 0,
        parallel: int = 1,
    ) -> None:
        assert 1 <= parallel <= MOST_PARALLEL
        self._api, config, path = llama_cpp("the backend llama.cpp"), model.config, Path(path)
        language_model = model.model.language_model
        self._embedding = language_model.embed_tokens.weight.detach()
        self._norm = language_model.norm.weight.detach()
        self._eps: float = config.text_config.rms_norm_eps
        self._ctc_layer, self._blank = config.ctc_layer, config.pad_token_id or 0
        self._ctc_head = model.lm_head.weight.detach()[: self._blank + 1] if self._ctc_layer else None
        self._speech_window, self._parallel = speech_window, parallel
        self._contexts: weakref.WeakSet[SharedContext] = weakref.WeakSet()
        self.max_length: int = config.text_config.max_position_embeddings
        assert config.token_count is not None, "set when the configuration is made"
        self.token_count: int = config.token_count
        options = self._api.llama_model_default_params()
        options.n_gpu_layers = 0 if self._embedding.device.type == "cpu" else _ALL_LAYERS
        pointer = self._api.llama_model_load_from_file(str(path).encode(), options)
        if not pointer:
            raise InputError(f"{shown(path)}: llama.cpp cannot read it; write it again with emova export gguf")
        self._model = Handle(pointer, self._api.llama_model_free)
        if self._said(FINGERPRINT) != fingerprint(model):
            raise InputError(f"{shown(path)}: not made of this checkpoint; write it with emova export gguf")
        whole = self._said("general.file_type") == _F32 or not half_cache
        self._cache_type = self._api.GGML_TYPE_F32 if whole else self._api.GGML_TYPE_F16

    def _said(self, key: str) -> str:
        """What the file says of itself."""
        buffer = ctypes.create_string_buffer(256)
        self._api.llama_model_meta_val_str(self._model.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def new_cache(self, positions: int | None = None) -> LlamaCppCache:
        """An empty cache for ``positions`` (the model's context if None). Raises: InputError: there is no memory."""
        positions = min(positions or self.max_length, self.max_length)
        for context in list(self._contexts):
            place = context.take_place()
            if place is not None:
                return LlamaCppCache(context, place, positions, self._speech_window)
        context = self._new_context(self.max_length if self._parallel > 1 else positions)
        place = context.take_place()
        assert place is not None
        if self._parallel > 1:
            self._contexts.add(context)
        return LlamaCppCache(context, place, positions, self._speech_window)

    def _new_context(self, positions: int) -> SharedContext:
        api, options = self._api, self._api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = positions * self._parallel, CHUNK, CHUNK
        options.n_seq_max, options.kv_unified, options.swa_full = 2 * self._parallel, True, True
        options.type_k = options.type_v = self._cache_type
        options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if hasattr(options, "n_outputs_max_per_seq"):  # else a sequence's last position alone is scored
            options.n_outputs_max = options.n_outputs_max_per_seq = CHUNK
        tap = None
        if self._ctc_layer:
            tap = MiddleTap(self._ctc_layer - 1, len(self._norm))
            options.cb_eval = tap.callback
        pointer = api.llama_init_from_model(self._model.pointer, options)
        if not pointer:
            raise InputError(
                f"the backend llama.cpp: no memory for a context of {options.n_ctx} tokens; close a session"
            )
        handle = Handle(pointer, api.llama_free, self._model, tap)
        return SharedContext(api, handle, self._parallel, self.token_count, tap)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """``[T, D]``"""
        return self._embedding[torch.as_tensor(ids, dtype=torch.long, device=self._embedding.device)].float()

    @torch.inference_mode()
    def forward(
        self, sequences: Sequence[tuple[LlamaCppCache, Tensor]], every: bool = False, lasting: bool = True
    ) -> Tensor:
        """Read each sequence's new embeddings ``[T, D]``; the scores of all tokens ``[B, V]``, or after each position
        where ``every``."""
        assert all(0 < len(new) <= cache.room for cache, new in sequences)
        rows: list[Tensor | None] = [None] * len(sequences)
        if not every and len(sequences) > 1:
            self._read_together([(cache, new.cpu()) for cache, new in sequences], rows)
        for place, (cache, new) in enumerate(sequences):
            if rows[place] is None:
                rows[place] = cache.read(new.cpu(), every)
        read = [row for row in rows if row is not None]
        return read[0] if len(read) == 1 else torch.cat(read)

    def _read_together(self, sequences: Sequence[tuple[LlamaCppCache, Tensor]], rows: list[Tensor | None]) -> None:
        """One call for each context that several of ``sequences`` have a place in, as replies do that are being
        written; what follows each goes into its place of ``rows``. Those that read more are left."""
        beside: dict[SharedContext, list[int]] = {}
        for place, (cache, new) in enumerate(sequences):
            if len(new) <= TOGETHER:
                beside.setdefault(cache.context, []).append(place)
        for context, places in beside.items():
            if len(places) == 1:
                continue
            with context.lock:
                parts = {place: part for place in places if (part := sequences[place][0].part(sequences[place][1]))}
                if len(parts) < 2:
                    continue
                for row, place in zip(context.decode(list(parts.values())), parts, strict=True):
                    rows[place] = row[None]

    def scores(self, rows_NV: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` of the ``allowed`` ids in their order; of all tokens if None."""
        return rows_NV if allowed is None else rows_NV[:, torch.from_numpy(allowed)]

    @torch.inference_mode()
    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """``[T, C]`` what CTC reads at the positions of speech units, from a cache's ``middle`` there."""
        assert self._ctc_head is not None, "the model was trained with CTC"
        normed_TD = functional.rms_norm(middle_TD.to(self._norm), self._norm.shape, self._norm, self._eps)
        return ctc_log_probs(functional.linear(normed_TD, self._ctc_head), self._blank)
