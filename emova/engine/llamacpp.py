"""The language model in llama.cpp: the layers and the head of a GGUF file, quantised or not, behind our embeddings.

Embeddings go in, so pictures are read like words; the scores of all tokens come out. Each sequence has a context of its
own, with a cache of its own, so its result does not depend on its neighbours; several are computed one after the other.

Shape letters: T new positions of one sequence, B sequences, D width, V vocabulary, A allowed ids, C classes of CTC.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
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
from emova.engine.kv_cache import SequenceState, unseen

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration

CHUNK = 256
"""Most positions that are read at once."""
_ALL, _SEEN = 0, 1
"""llama.cpp's sequences in a context: everything that was read, and what of it speech that is being written sees."""
_F32 = "0"  # llama.cpp's file type
_ALL_LAYERS = 999


class _Handle:
    """A pointer of llama.cpp's that is freed with the last reference to this object."""

    def __init__(self, pointer: int, free: object, *kept: object) -> None:
        self.pointer = pointer
        # Whatever ``kept`` holds is alive until then: a context is freed before its model.
        weakref.finalize(self, lambda made, _: free(made), pointer, kept)  # type: ignore[operator]


class _Middle:
    """What one layer gives, taken from llama.cpp while it computes.

    Args:
        layer: counted from 0.
    """

    def __init__(self, layer: int, width: int) -> None:
        from llama_cpp import llama_cpp

        library = llama_cpp._lib  # the package has no other way to a tensor's name and numbers
        self._name = library.ggml_get_name
        self._name.argtypes, self._name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._get = library.ggml_backend_tensor_get
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None
        self._wanted, self._width = f"l_out-{layer}".encode(), width
        self.count = 0
        """Positions that are being read; 0: nothing is taken."""
        self.taken: Tensor | None = None
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._look)

    def _look(self, tensor: int, asks: bool, _: object) -> bool:
        if not self.count or self._name(tensor) != self._wanted:
            return not asks  # False: not wanted; True: go on
        if not asks:
            self.taken = torch.empty(self.count, self._width)
            self._get(tensor, self.taken.data_ptr(), 0, 4 * self.taken.numel())
        return True


class LlamaCppCache(SequenceState):
    """One sequence's keys and values: a context of llama.cpp.

    Args:
        api: llama-cpp-python.
        context: of ``positions``; ``middle`` is what looks into it.
    """

    def __init__(
        self, api: ModuleType, context: _Handle, positions: int, vocabulary: int, speech_window: int,
        middle: _Middle | None,
    ) -> None:  # fmt: skip
        super().__init__(positions)
        self._api, self._context, self._tap = api, context, middle
        self._vocabulary, self._speech_window = vocabulary, speech_window
        self._memory = api.llama_get_memory(context.pointer)
        self._hole: tuple[int, int] | None = None  # what _SEEN lacks of _ALL; None: there is no _SEEN

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        super().crop(change)
        for sequence in (_ALL, _SEEN):
            assert self._api.llama_memory_seq_rm(self._memory, sequence, self.length, -1)

    def read(self, x_TD: Tensor, every: bool) -> Tensor:
        """Read embeddings; the scores of all tokens after each ``[T, V]``, or after the last ``[1, V]``."""
        rows, middles, start = [], [], 0
        while start < len(x_TD):
            hole = unseen(self.speech, self._speech_window, self.length)
            stop = start + 1
            most = min(len(x_TD), start + CHUNK)
            while stop < most and unseen(self.speech, self._speech_window, self.length + stop - start) == hole:
                stop += 1
            wanted = stop - start if every else int(stop == len(x_TD))
            rows.append(self._decode(x_TD[start:stop], self._see(hole), wanted))
            if self._tap is not None and self._tap.taken is not None:
                middles.append(self._tap.taken)
            start = stop
        if self.keep_middle:
            self.middle = torch.cat(middles)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _see(self, hole: tuple[int, int]) -> tuple[int, ...]:
        """The sequences that the next positions belong to; they see the first of them."""
        api, (first, last) = self._api, hole
        if last <= first:
            if self._hole is not None:
                api.llama_memory_seq_rm(self._memory, _SEEN, -1, -1)
                self._hole = None
            return (_ALL,)
        if self._hole is None or self._hole[0] != first:
            api.llama_memory_seq_rm(self._memory, _SEEN, -1, -1)
            api.llama_memory_seq_cp(self._memory, _ALL, _SEEN, -1, -1)
            self._hole = first, first
        before = self._hole[1]
        if last > before:
            api.llama_memory_seq_rm(self._memory, _SEEN, before, last)
        elif last < before:
            api.llama_memory_seq_cp(self._memory, _ALL, _SEEN, last, before)
        self._hole = hole
        return (_SEEN, _ALL)

    def _decode(self, x_TD: Tensor, sequences: tuple[int, ...], wanted: int) -> Tensor:
        """The scores after the last ``wanted`` positions, ``[wanted, V]``."""
        count, api = len(x_TD), self._api
        threads = torch.get_num_threads()
        api.llama_set_n_threads(self._context.pointer, threads, threads)
        x_TD = x_TD.float().contiguous()
        positions = (ctypes.c_int32 * count)(*range(self.length, self.length + count))
        own = ctypes.cast((ctypes.c_int32 * len(sequences))(*sequences), ctypes.POINTER(ctypes.c_int32))
        owners = (ctypes.POINTER(ctypes.c_int32) * count)(*[own] * count)
        batch = api.llama_batch(
            n_tokens=count,
            token=None,
            embd=ctypes.cast(x_TD.data_ptr(), ctypes.POINTER(ctypes.c_float)),
            pos=positions,
            n_seq_id=(ctypes.c_int32 * count)(*[len(sequences)] * count),
            seq_id=owners,
            logits=(ctypes.c_int8 * count)(*[0] * (count - wanted), *[1] * wanted),
        )
        if self._tap is not None:
            self._tap.count, self._tap.taken = (count if self.keep_middle else 0), None
        if api.llama_decode(self._context.pointer, batch) != 0:
            raise RuntimeError("llama.cpp could not read a batch")
        self.length += count
        if not wanted:
            return torch.empty(0, self._vocabulary)
        scores = np.ctypeslib.as_array(api.llama_get_logits(self._context.pointer), (wanted, self._vocabulary))
        return torch.from_numpy(scores.copy())


class LlamaCpp:
    """A LanguageModel whose layers are a GGUF file.

    Args:
        model: of the same checkpoint; its layers are not used, they may be missing.
        path: what ``emova export gguf`` wrote of it.
        half_cache: keys and values as float16 where the file's weights have no more than 16 bits.
        speech_window: how far back speech that is being written sees itself, in positions; 0 is all the way.

    Raises:
        InputError: llama-cpp-python is not installed; the file is missing, damaged, or of another checkpoint.
    """

    def __init__(
        self, model: EmovaForConditionalGeneration, path: str | Path, half_cache: bool = True, speech_window: int = 0
    ) -> None:
        self._api, config, path = llama_cpp("the backend llama.cpp"), model.config, Path(path)
        language_model = model.model.language_model
        self._embedding = language_model.embed_tokens.weight.detach()
        self._norm = language_model.norm.weight.detach()
        self._eps: float = config.text_config.rms_norm_eps
        self._ctc_layer, self._blank = config.ctc_layer, config.pad_token_id or 0
        self._ctc_head = model.lm_head.weight.detach()[: self._blank + 1] if self._ctc_layer else None
        self._speech_window = speech_window
        self.max_length: int = config.text_config.max_position_embeddings
        assert config.token_count is not None, "set when the configuration is made"
        self.token_count: int = config.token_count
        options = self._api.llama_model_default_params()
        options.n_gpu_layers = 0 if self._embedding.device.type == "cpu" else _ALL_LAYERS
        pointer = self._api.llama_model_load_from_file(str(path).encode(), options)
        if not pointer:
            raise InputError(f"{shown(path)}: llama.cpp cannot read it; write it again with emova export gguf")
        self._model = _Handle(pointer, self._api.llama_model_free)
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
        api, positions = self._api, min(positions or self.max_length, self.max_length)
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = positions, CHUNK, CHUNK
        options.n_seq_max, options.kv_unified, options.swa_full = 2, True, True
        options.type_k = options.type_v = self._cache_type
        options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if hasattr(options, "n_outputs_max_per_seq"):  # else a sequence's last position alone is scored
            options.n_outputs_max = options.n_outputs_max_per_seq = CHUNK
        middle = None
        if self._ctc_layer:
            middle = _Middle(self._ctc_layer - 1, len(self._norm))
            options.cb_eval = middle.callback
        pointer = api.llama_init_from_model(self._model.pointer, options)
        if not pointer:
            raise InputError(f"the backend llama.cpp: no memory for a context of {positions} tokens; close a session")
        context = _Handle(pointer, api.llama_free, self._model, middle)
        return LlamaCppCache(api, context, positions, self.token_count, self._speech_window, middle)

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
        rows = [cache.read(new.cpu(), every) for cache, new in sequences]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def scores(self, rows_NV: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` of the ``allowed`` ids in their order; of all tokens if None."""
        return rows_NV if allowed is None else rows_NV[:, torch.from_numpy(allowed)]

    @torch.inference_mode()
    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """``[T, C]`` what CTC reads at the positions of speech units, from a cache's ``middle`` there."""
        assert self._ctc_head is not None, "the model was trained with CTC"
        normed_TD = functional.rms_norm(middle_TD.to(self._norm), self._norm.shape, self._norm, self._eps)
        return ctc_log_probs(functional.linear(normed_TD, self._ctc_head), self._blank)
