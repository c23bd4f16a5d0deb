"""One sequence's decoding step in fixed shapes, so that a GPU can record it once and replay it as one CUDA graph.

Attention runs over the whole cache behind a mask, and everything that changes lies in tensors: the embedding, the
position, and what it does not see. Uncaptured, the same step runs operator by operator on any device; that is how its
law is tested.

Shape letters: P positions of the cache, D width, H heads, K key-value heads, G heads a key-value head, C head width.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional

from emova.engine.kv_cache import KVCache
from emova.engine.layers import DecoderLayers

log = logging.getLogger(__name__)
_WARM_UP = 3  # runs before the recording, as torch asks for


class ReplayedStep:
    """The step over one cache's memory; who calls it counts the positions.

    Args:
        capture: record a graph (on a CUDA device); where that fails, the step runs operator by operator.
    """

    def __init__(self, llama: DecoderLayers, cache: KVCache, capture: bool) -> None:
        # Not the cache itself, which holds this step: its memory is freed with the session.
        self._llama, self._keys, self._values = llama, cache.keys, cache.values
        device = llama.embedding.device
        self._x_1D = torch.zeros(1, llama.embedding.shape[1], dtype=llama.embedding.dtype, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._hole = [torch.zeros_like(self._position) for _ in range(2)]
        self._places_P = torch.arange(cache.keys.shape[2], device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hidden_1D = self._x_1D
        # Positions that were never written take part behind the mask: they must be numbers.
        cache.keys[:, :, cache.length :] = 0
        cache.values[:, :, cache.length :] = 0
        if capture and device.type == "cuda":
            try:
                self._record(cache.length)
            except RuntimeError as error:
                log.warning("the decoding step could not be recorded as a graph, it runs slower: %s", error)
                self._graph = None

    def _record(self, position: int) -> None:
        # The runs write at this position; it is the next one, and written anew by the first real step.
        self._position.fill_(position)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._hidden_1D = self._compute()
        self._graph = graph

    def __call__(self, x_1D: Tensor, position: int, hole: tuple[int, int] = (0, 0)) -> Tensor:
        """Read one embedding ``[1, D]`` at a position that does not see those from ``hole[0]`` up to ``hole[1]``.

        Returns the normalised hidden state ``[1, D]``.
        """
        self._x_1D.copy_(x_1D)
        self._position.fill_(position)
        for bound, place in zip(self._hole, hole, strict=True):
            bound.fill_(place)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._hidden_1D = self._compute()
        return self._hidden_1D.clone()

    def _compute(self) -> Tensor:
        llama = self._llama
        rotation = llama.rotation.index_select(0, self._position)
        unseen_P = (self._places_P >= self._hole[0]) & (self._places_P < self._hole[1])
        seen_P = ((self._places_P <= self._position) & ~unseen_P)[None]
        x_1D = self._x_1D
        for index, layer in enumerate(llama.layers):
            qk, v_1KC = llama.project(layer, x_1D, rotation)
            keys_KPC, values_KPC = self._keys[index], self._values[index]
            keys_KPC.index_copy_(1, self._position, qk[:, llama.heads :].transpose(0, 1))
            values_KPC.index_copy_(1, self._position, v_1KC.transpose(0, 1))
            q_KGC = qk[0, : llama.heads].view(1, llama.kv_heads, -1, llama.width)
            mixed = functional.scaled_dot_product_attention(q_KGC, keys_KPC[None], values_KPC[None], attn_mask=seen_P)
            x_1D = llama.feed_forward(layer, x_1D + layer.out(mixed.reshape(1, -1)))
        return llama.normalise(x_1D, llama.norm)
