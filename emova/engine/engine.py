"""The decode loop: many replies are written in one step, each in its own cache and under its own grammar.

Shape letters: T positions of one sequence, D width, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from emova.core.errors import InputError, UnsupportedModelError
from emova.decoding.ctc import CtcFrames, JointSampler
from emova.decoding.protocol import Context, Prompt
from emova.decoding.sampling import Sampler, Sampling
from emova.engine.causal_lm import CausalLM
from emova.engine.layers import WeightBits
from emova.engine.llama import Llama
from emova.engine.protocol import LanguageModel, SequenceCache
from emova.engine.request import GenerationRequest, Reading
from emova.engine.vllm_config import VllmConfig
from emova.native.step import MOST_POSITIONS
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration


Backend = Literal["auto", "native", "torch", "llama.cpp", "vllm"]


@dataclass(frozen=True)
class EngineConfig:
    """How the engine decodes.

    Attributes:
        backend: what computes the language model. ``native``: on a CPU, a step that is compiled at first use.
            ``torch``: operator by operator, on a GPU by a recorded graph. ``llama.cpp``: the layers of a GGUF file.
            ``vllm``: vLLM in a process of its own. ``auto``: llama.cpp where the checkpoint has such a file, else the
            compiled step where it can be had, else torch.
        gguf: the file for llama.cpp; empty: the one in the checkpoint's folder.
        vllm: how vLLM is run.
        checkpoint: the folder of the weights, for vLLM; whoever loads the checkpoint sets it.
        int8: int8 weights: less memory to read, slightly other scores.
        int4: 4-bit weights with a scale for 32 of a row, the head and the first layer in int8: scores that differ more
            (``emova bench decode`` says how much). It takes the place of ``int8``.
        half_cache: keys and values in float16 where that step reads weights of no higher precision: what a long
            context adds to the cost of a step is mostly reading them.
        speech_window: how far back a reply's speech sees itself while it is written, in units; what came before the
            speech it sees whole. With 0 it sees all of itself, and every second of it costs more than the one before.
        prefill_chunk: most new positions of one sequence in a step, so that a long question does not hold up the
            replies that are being written beside it.
        graphs: on a GPU, record the step of one sequence once and replay it as one CUDA graph; where that fails, a
            warning says so and the step runs operator by operator.
        parallel: sequences that share a context of llama.cpp, so that one call decodes all that are being written; it
            keeps the memory of so many from the first one on.
    """

    backend: Backend = "auto"
    gguf: str = ""
    int8: bool = False
    int4: bool = False
    half_cache: bool = True
    speech_window: int = 250
    prefill_chunk: int = 128
    graphs: bool = True
    parallel: int = 1
    vllm: VllmConfig = VllmConfig()
    checkpoint: str = ""

    @property
    def holds_layers(self) -> bool:
        """Whether torch holds the language model's layers; elsewhere they are in a file or a process of their own."""
        return self.backend not in ("llama.cpp", "vllm")


class Engine:
    """The language model for decoding, and what turns prompts into its input.

    Args:
        model: in evaluation mode.

    Raises:
        UnsupportedModelError: the backend does not run this language model.
        InputError: the backend cannot be had here.
    """

    def __init__(self, model: EmovaForConditionalGeneration, config: EngineConfig = EngineConfig()) -> None:
        self.model, self.config = model, config
        self.llama = _language_model(model, config)
        self._seen: tuple[weakref.ref[Tensor], Tensor] | None = None  # the last pictures, and their features

    def new_cache(self, positions: int | None = None) -> SequenceCache:
        """An empty cache."""
        return self.llama.new_cache(positions)

    @torch.inference_mode()
    def embed(self, prompt: Prompt) -> Tensor:
        """``[T, D]`` embeddings of a prompt, its pictures looked at."""
        embeddings = self.llama.embed(prompt.ids)
        if prompt.pixel_values is None:
            return embeddings
        from emova.model.fusion import scatter_images  # here, because it brings transformers along

        mask_BT = torch.tensor([prompt.ids], device=embeddings.device) == self.model.config.image_token_id
        return scatter_images(embeddings[None], mask_BT, self._look(prompt, embeddings.device))[0]

    def _look(self, prompt: Prompt, device: torch.device) -> Tensor:
        """The features of a prompt's pictures. A question is read in two contexts, and looked at once."""
        pixels, seen = prompt.pixel_values, self._seen
        assert pixels is not None
        if seen is not None and seen[0]() is pixels:
            return seen[1]
        grids = torch.tensor([[grid.rows, grid.columns] for grid in prompt.image_grids], device=device)
        features = self.model.get_image_features(pixels.to(device), grids)
        self._seen = weakref.ref(pixels), features
        return features

    def new_context(self) -> Context[SequenceCache]:
        """An empty context with a cache of its own."""
        ctc = None if self.config.backend == "vllm" else CtcFrames.of_model(self.model.config)
        return Context(self.new_cache(), ctc=ctc)

    @torch.inference_mode()
    def feed(self, context: Context[SequenceCache], prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits, if there is anything; the hidden state ``[1, D]`` after it."""
        reading = self.reading(context, prompt)
        hidden = reading.left
        while len(reading.left):
            hidden = self.llama.forward([(context.cache, reading.take(self.config.prefill_chunk))])
            reading.keep_ctc(self.llama)
        return hidden

    def reading(self, context: Context[SequenceCache], prompt: Prompt, forced: Sequence[int] = ()) -> Reading:
        """What waits in the context, ``prompt`` and ``forced``, about to be read."""
        ids = (*context.waiting, *prompt.ids, *forced)
        embeddings = self.embed(Prompt(ids, prompt.pixel_values, prompt.image_grids))
        assert len(embeddings) <= context.cache.room
        written = [-1] * len(context.waiting)
        context.waiting = []
        context.cache.speech = None
        return Reading(context, embeddings, (*written, *prompt.ids, *[-1] * len(forced)))

    @torch.inference_mode()
    def read(self, cache: SequenceCache, embeddings: Tensor) -> Tensor:
        """Read ``[T, D]`` (T >= 1) in chunks; the hidden state ``[1, D]`` after the last position."""
        hidden = embeddings[:0]
        for chunk in embeddings.split(self.config.prefill_chunk):
            hidden = self.llama.forward([(cache, chunk)])
        return hidden

    def start(
        self,
        context: Context[SequenceCache],
        prompt: Prompt,
        grammar: Grammar,
        sampling: Sampling,
        before: Sequence[int] = (),
    ) -> GenerationRequest:
        """A reply after ``prompt``, to be written by ``step``.

        What waits in the context and what the grammar forces is read with it.

        Args:
            before: tokens of another reply, which were read behind ``prompt``: those with which this one begins too
                are not read again. Nothing of ``prompt`` is left to be read then.
        """
        forced = grammar.take_forced()
        sampler = JointSampler(Sampler(sampling, self.llama.token_count), context.ctc)
        if grammar.done:
            context.waiting = [*context.waiting, *prompt.ids, *forced]
            return GenerationRequest(context, grammar, sampler, Reading(context, self.llama.embed([])), forced)
        kept = 0
        if before:
            assert not prompt.ids
            while kept < min(len(before), len(forced) - 1) and before[kept] == forced[kept]:
                kept += 1
            context.rewind((context.length - len(before) + kept, ()))
        reading = self.reading(context, prompt, forced[kept:])
        return GenerationRequest(context, grammar, sampler, reading, forced)

    @torch.inference_mode()
    def step(self, requests: Sequence[GenerationRequest]) -> None:
        """One forward pass for all ``requests`` (none of them done), and one more for each that has a draft. Each that
        has read all of its input chooses.

        A request whose scores are damaged is done with an error; the others go on.
        """
        drafted, requests = ([w for w in requests if bool(w.draft) == has] for has in (True, False))
        for request in drafted:
            hidden_TD = self.llama.forward([(request.context.cache, request.take_input(MOST_POSITIONS))], every=True)
            request.reading.keep_ctc(self.llama)
            request.choose_along(hidden_TD, self.llama)
        if not requests:
            return
        rows = [(request.context.cache, request.take_input(self.config.prefill_chunk)) for request in requests]
        hidden = self.llama.forward(rows, lasting=False)
        for request in requests:
            request.reading.keep_ctc(self.llama)
        # Those that choose among the same set share one product with the head.
        groups: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            if request.ready:
                groups.setdefault(id(request.choices()), []).append(index)
        for indices in groups.values():
            allowed = requests[indices[0]].choices()
            rows_ND = hidden if len(indices) == len(hidden) else hidden[indices]
            scores = self.llama.scores(rows_ND, allowed, lasting=False).cpu().numpy()
            for index, row in zip(indices, scores, strict=True):
                requests[index].choose(row, self.llama)


def _language_model(model: EmovaForConditionalGeneration, config: EngineConfig) -> LanguageModel[Any]:
    if config.backend == "llama.cpp":
        from emova.engine.llamacpp import LlamaCpp

        return LlamaCpp(model, config.gguf, config.half_cache, config.speech_window, config.parallel)
    if config.backend == "vllm":
        from emova.engine.vllm import Vllm

        return Vllm(model, config.checkpoint, config.vllm)
    native = config.backend != "torch"
    if model.device.type not in ("cpu", "cuda") and config.backend != "native":
        return CausalLM(model)  # other devices lack operators of the leaner way
    try:
        bits: WeightBits = 4 if config.int4 else 8 if config.int8 else 0
        llama = Llama(model, bits, native, config.half_cache, config.speech_window, config.graphs)
    except UnsupportedModelError:
        if config.backend != "native":
            return CausalLM(model)
        llama = None
    if config.backend == "native" and (llama is None or llama.native is None):
        raise InputError(
            "the backend native: this model, device or machine has no compiled step (emova info tells why); take torch"
        )
    assert llama is not None
    return llama
