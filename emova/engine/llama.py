"""A LLaMA's forward pass without overhead, over the weights of an EmovaForConditionalGeneration.

Each sequence has its own static cache. Sequences that read one new position, as replies do that are being written, go
through the linears together, by the compiled step where there is one; only attention runs sequence by sequence, so a
sequence's cost and result do not depend on its neighbours' lengths.

Shape letters: N new positions of all sequences, T new positions of one, P positions in a cache, D width, H heads,
K key-value heads, G heads a key-value head, C head width, L layers, V vocabulary, A allowed ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emova.decoding.ctc import ctc_log_probs
from emova.engine.cuda_graph import ReplayedStep
from emova.engine.kv_cache import KVCache
from emova.engine.layers import DecoderLayers, WeightBits
from emova.native.compiled import STEP
from emova.native.panels import Kind, kind_of
from emova.native.step import EIGHT, MOST_POSITIONS, NativeLlama

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration


class _Rows:
    """Where the scores of an allowed set lie in the head: a run of rows, and the places within it."""

    def __init__(self, allowed: np.ndarray, device: torch.device) -> None:
        self.allowed = allowed  # kept, so that its id stays its own
        self.start, self.stop = int(allowed.min()), int(allowed.max()) + 1
        self.places: Tensor | None = None
        if len(allowed) != self.stop - self.start or not (np.diff(allowed) == 1).all():
            self.places = torch.from_numpy(allowed - self.start).to(device)


class Llama(DecoderLayers):
    """The layers over caches: reading embeddings, and the scores of what may follow.

    Args:
        model, bits: of ``DecoderLayers``.
        native: decode by the compiled step where it can be had.
        graphs: decode one sequence on a GPU by a recorded graph.
        half_cache: keys and values as float16 where the compiled step reads weights of no more than that.
        speech_window: of the caches.

    Raises:
        UnsupportedModelError: the language model is not a plain LLaMA.
    """

    def __init__(
        self,
        model: EmovaForConditionalGeneration,
        bits: WeightBits = 0,
        native: bool = True,
        half_cache: bool = True,
        speech_window: int = 0,
        graphs: bool = True,
    ) -> None:
        super().__init__(model, bits)
        self._rows: dict[int, _Rows] = {}
        self.native: NativeLlama | None = None
        on_cpu = self.embedding.device.type == "cpu" and self.embedding.dtype == torch.float32
        biased = any(layer.qkv_bias is not None for layer in self.layers)  # the compiled step knows none
        if native and on_cpu and self.width % EIGHT == 0 and not biased:
            compiled = STEP.prepare()
            self.native = None if compiled is None else NativeLlama(compiled, self)
        self.cache_dtype = self.embedding.dtype
        if half_cache and self.native is not None and self.native.kind is not Kind.FLOAT32:
            self.cache_dtype = torch.float16
        self.speech_window = speech_window
        self.graphs = graphs and self.embedding.device.type == "cuda"

    def new_cache(self, positions: int | None = None) -> KVCache:
        """An empty cache for ``positions`` (the model's context if None)."""
        positions = min(positions or self.max_length, self.max_length)
        shape = (len(self.layers), self.kv_heads, positions, self.width)
        return KVCache(*shape, self.cache_dtype, self.embedding.device, self.speech_window)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """``[T, D]``; one token's lies where the table is."""
        if len(ids) == 1:
            return self.embedding[ids[0]][None]
        return self.embedding[torch.as_tensor(ids, dtype=torch.long, device=self.embedding.device)]

    @torch.inference_mode()
    def forward(self, sequences: Sequence[tuple[KVCache, Tensor]], every: bool = False, lasting: bool = True) -> Tensor:
        """Read each sequence's new embeddings ``[T, D]`` into its cache.

        Args:
            every: the hidden states of all positions ``[N, D]``, not only of each sequence's last ``[B, D]``.
            lasting: if not, this thread's next call may write over the result; a compiled step then allocates nothing.
        """
        assert all(0 < len(new) <= cache.room for cache, new in sequences)
        if every:
            return self._compiled(sequences) if self._fits(sequences) else self._read(sequences, every)
        # Sequences of one new position go together; those that read more go by themselves, so that nobody's scores
        # depend on who else is there.
        steps = [index for index, (cache, new) in enumerate(sequences) if len(new) == 1 and not cache.keep_middle]
        if len(steps) == len(sequences):
            return self._step(sequences, lasting)
        hidden = [self._step([sequences[index] for index in steps])] if steps else []
        others = [index for index in range(len(sequences)) if index not in steps]
        hidden += [self._read_one(*sequences[index]) for index in others]
        if len(hidden) == 1:
            return hidden[0]
        order = torch.tensor([*steps, *others], device=hidden[0].device).argsort()
        return torch.cat(hidden)[order]

    def _read_one(self, cache: KVCache, new_TD: Tensor) -> Tensor:
        """Several new positions of one sequence; the hidden state of the last, ``[1, D]``."""
        if self.native is None or len(new_TD) > 2 * MOST_POSITIONS:
            return self._read([(cache, new_TD)], every=False)
        middles = []
        for part_TD in new_TD.split(MOST_POSITIONS):
            hidden = self._compiled([(cache, part_TD)])
            middles.append(cache.middle)
        if cache.keep_middle and len(middles) > 1:
            cache.middle = torch.cat([middle for middle in middles if middle is not None])
        return hidden[-1:]

    def _fits(self, sequences: Sequence[tuple[KVCache, Tensor]]) -> bool:
        """Whether the compiled step can read them at once."""
        return self.native is not None and sum(len(new) for _, new in sequences) <= MOST_POSITIONS

    def _compiled(self, sequences: Sequence[tuple[KVCache, Tensor]], lasting: bool = True) -> Tensor:
        """New positions that ``_fits``; the hidden states of all, ``[N, D]``."""
        assert self.native is not None
        caches, counts = [cache for cache, _ in sequences], [len(new) for _, new in sequences]
        x_ND = sequences[0][1] if len(sequences) == 1 else torch.cat([new for _, new in sequences])
        layers = self.ctc_layer if any(cache.keep_middle for cache in caches) else 0
        hidden_ND, middle_ND = self.native.step(caches, counts, x_ND, layers, lasting)
        if middle_ND is not None:
            for cache, middle_TD in zip(caches, middle_ND.split(counts), strict=True):
                cache.middle = middle_TD if cache.keep_middle else None
        return hidden_ND

    def _step(self, sequences: Sequence[tuple[KVCache, Tensor]], lasting: bool = True) -> Tensor:
        """One new position of each sequence."""
        if self.native is not None and len(sequences) > MOST_POSITIONS:
            shares = [sequences[first : first + MOST_POSITIONS] for first in range(0, len(sequences), MOST_POSITIONS)]
            return torch.cat([self._compiled(share) for share in shares])
        if self._fits(sequences):
            return self._compiled(sequences, lasting)
        if self.graphs and len(sequences) == 1:
            ((cache, new),) = sequences
            if cache.replay is None:
                cache.replay = ReplayedStep(self, cache, capture=True)
            hidden_1D = cache.replay(new, cache.length, cache.hole(cache.length))
            cache.length += 1
            return hidden_1D
        return self._read(sequences, every=False)

    def _read(self, sequences: Sequence[tuple[KVCache, Tensor]], every: bool) -> Tensor:
        """Any number of new positions of one sequence, or one of each."""
        caches = [cache for cache, _ in sequences]
        counts = [len(new) for _, new in sequences]
        x_ND = sequences[0][1] if len(sequences) == 1 else torch.cat([new for _, new in sequences])
        starts = [cache.length for cache in caches]
        turns = [self.rotation[start : start + count] for start, count in zip(starts, counts, strict=True)]
        rotation = turns[0] if len(turns) == 1 else torch.cat(turns)
        masks = [self._mask(cache, count, x_ND.device) for cache, count in zip(caches, counts, strict=True)]
        for index, layer in enumerate(self.layers):
            qk, v_NKC = self.project(layer, x_ND, rotation)
            mixed = []
            first = 0
            for cache, start, count, mask in zip(caches, starts, counts, masks, strict=True):
                new = slice(first, first + count)
                mixed.append(self._attend(cache, index, start, qk[new], v_NKC[new], mask))
                first += count
            x_ND = self.feed_forward(layer, x_ND + layer.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed)))
            if index + 1 == self.ctc_layer:
                for cache, middle_TD in zip(caches, x_ND.split(counts), strict=True):
                    cache.middle = middle_TD if cache.keep_middle else None
        for cache, count in zip(caches, counts, strict=True):
            cache.length += count
        if not every and len(sequences) == 1:
            x_ND = x_ND[-1:]
        return self.normalise(x_ND, self.norm)

    def _mask(self, cache: KVCache, count: int, device: torch.device) -> Tensor | None:
        """``[T, P]``, what each new position sees; None where that is everything up to it."""
        start = cache.length
        holes = [] if cache.speech is None else [cache.hole(start + place) for place in range(count)]
        if (count == 1 or start == 0) and not any(last > first for first, last in holes):
            return None
        mask = torch.ones(count, start + count, dtype=torch.bool, device=device).tril(start)
        for place, (first, last) in enumerate(holes):
            mask[place, first:last] = False
        return mask

    def _attend(self, cache: KVCache, layer: int, start: int, qk: Tensor, v_TKC: Tensor, mask: Tensor | None) -> Tensor:
        """One sequence's new positions against its cache: ``[T, H * C]``."""
        count = len(qk)
        keys, values = cache.keys[layer], cache.values[layer]
        keys[:, start : start + count] = qk[:, self.heads :].transpose(0, 1)
        values[:, start : start + count] = v_TKC.transpose(0, 1)
        seen = slice(start + count)
        keys_KPC, values_KPC = keys[None, :, seen].to(qk.dtype), values[None, :, seen].to(qk.dtype)
        if count == 1:
            # The heads that share keys take the place of positions: nothing is repeated.
            q_KGC = qk[0, : self.heads].view(1, self.kv_heads, -1, self.width)
            mixed = functional.scaled_dot_product_attention(q_KGC, keys_KPC, values_KPC, attn_mask=mask)
            return mixed.reshape(1, -1)
        q_HTC = qk[:, : self.heads].transpose(0, 1)[None]
        mixed = functional.scaled_dot_product_attention(
            q_HTC, keys_KPC, values_KPC, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return mixed[0].transpose(0, 1).reshape(count, -1)

    @torch.inference_mode()
    def scores(self, hidden_ND: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` (float32) of the ``allowed`` ids in their order; of all tokens if None. ``lasting`` as in
        ``forward``.

        Only the head's rows between the first and the last allowed id are read: while units are written, the text's
        rows cost nothing.
        """
        if allowed is None:
            return self._head_rows(hidden_ND, 0, self.token_count, lasting)
        rows = self._rows.get(id(allowed))
        if rows is None:
            rows = _Rows(allowed, hidden_ND.device)
            if len(allowed) > 64:  # the grammar keeps its large sets; small ones are made anew each time
                if len(self._rows) >= 256:
                    self._rows.clear()
                self._rows[id(allowed)] = rows
            elif rows.stop - rows.start > 256:
                ids = torch.from_numpy(allowed).to(hidden_ND.device)
                return self._few(hidden_ND, ids)
        scores = self._head_rows(hidden_ND, rows.start, rows.stop, lasting)
        return scores if rows.places is None else scores[:, rows.places]

    @torch.inference_mode()
    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """``[T, C]`` what CTC reads at the positions of speech units, from a cache's ``middle`` there."""
        return ctc_log_probs(self._head_rows(self.normalise(middle_TD, self.norm), 0, self.blank + 1), self.blank)

    def _head_rows(self, hidden_ND: Tensor, start: int, stop: int, lasting: bool = True) -> Tensor:
        if self.native is not None and len(hidden_ND) <= MOST_POSITIONS:
            return self.native.scores(hidden_ND, start, stop, lasting)
        if self.native is not None and len(hidden_ND) <= 4 * MOST_POSITIONS:
            return torch.cat([self.native.scores(part, start, stop) for part in hidden_ND.split(MOST_POSITIONS)])
        return self.head.rows(hidden_ND, slice(start, stop)).float()

    @property
    def kind(self) -> Kind:
        """How a decoding step finds the weights of the layers."""
        return kind_of(self.layers[-1].down) if self.native is None else self.native.kind

    def bytes_read(self, allowed: np.ndarray | None = None) -> int:
        """What one step of one sequence reads of the weights, for scores of ``allowed`` or of all tokens."""
        rows = self.token_count if allowed is None else int(allowed.max() - allowed.min()) + 1
        if self.native is not None:
            return self.native.bytes_read(rows)
        linears = [each for layer in self.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        head = rows * self.head.weight.shape[1] * self.head.weight.element_size()
        return head + sum(each.weight.numel() * each.weight.element_size() for each in linears)

    def _few(self, hidden_ND: Tensor, ids_A: Tensor) -> Tensor:
        return self.head.rows(hidden_ND, ids_A).float()
