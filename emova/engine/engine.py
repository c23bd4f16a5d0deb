"""The decode loop: many replies are written in one step, each in its own cache and under its own grammar.

Shape letters: T positions of one sequence, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError, UnsupportedModelError
from emova.decoding.ctc import CtcFrames, JointSampler
from emova.decoding.loop import Decoder
from emova.decoding.protocol import Context, DecodingBackend, Prompt
from emova.decoding.sampling import Sampler, Sampling
from emova.engine.kv_cache import KVCache
from emova.engine.llama import Llama
from emova.native.step import MOST_POSITIONS
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration

LONGEST_DRAFT = 7
"""Tokens; a draft that is right so far may yet go wrong, and what follows is then read in vain."""


@dataclass(frozen=True)
class EngineConfig:
    """How the engine decodes.

    Attributes:
        int8: int8 weights: less memory to read, slightly other scores.
        native: decode by a step that is compiled at first use, where there is a C compiler, and on a GPU by a
            recorded graph; else operator by operator.
        half_cache: keys and values in float16 where that step reads weights of no higher precision: what a long
            context adds to the cost of a step is mostly reading them.
        speech_window: how far back a reply's speech sees itself while it is written, in units; what came before the
            speech it sees whole. With 0 it sees all of itself, and every second of it costs more than the one before.
        prefill_chunk: most new positions of one sequence in a step, so that a long question does not hold up the
            replies that are being written beside it.
    """

    int8: bool = False
    native: bool = True
    half_cache: bool = True
    speech_window: int = 250
    prefill_chunk: int = 128


class Engine:
    """The language model for decoding, and what turns prompts into its input.

    Args:
        model: in evaluation mode.

    Raises:
        UnsupportedModelError: the language model is not a plain LLaMA.
    """

    def __init__(self, model: EmovaForConditionalGeneration, config: EngineConfig = EngineConfig()) -> None:
        self.model, self.config = model, config
        self.llama = Llama(model, config.int8, config.native, config.half_cache, config.speech_window)

    def new_cache(self, positions: int | None = None) -> KVCache:
        """An empty cache."""
        return self.llama.new_cache(positions)

    @torch.inference_mode()
    def embed(self, prompt: Prompt) -> Tensor:
        """``[T, D]`` embeddings of a prompt, its pictures looked at."""
        embeddings = self.llama.embed(prompt.ids)
        if prompt.pixel_values is None:
            return embeddings
        from emova.model.fusion import scatter_images  # here, because it brings transformers along

        device = embeddings.device
        grids = torch.tensor([[grid.rows, grid.columns] for grid in prompt.image_grids], device=device)
        features = self.model.get_image_features(prompt.pixel_values.to(device), grids)
        mask_BT = torch.tensor([prompt.ids], device=device) == self.model.config.image_token_id
        return scatter_images(embeddings[None], mask_BT, features)[0]

    def new_context(self) -> Context[KVCache]:
        """An empty context with a cache of its own."""
        return Context(self.new_cache(), ctc=CtcFrames.of_model(self.model.config))

    @torch.inference_mode()
    def feed(self, context: Context[KVCache], prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits, if there is anything; the hidden state ``[1, D]`` after it."""
        reading = self.reading(context, prompt)
        hidden = reading.left
        while len(reading.left):
            hidden = self.llama.forward([(context.cache, reading.take(self.config.prefill_chunk))])
            reading.keep_ctc(self.llama)
        return hidden

    def reading(self, context: Context[KVCache], prompt: Prompt, forced: Sequence[int] = ()) -> Reading:
        """What waits in the context, ``prompt`` and ``forced``, about to be read."""
        ids = (*context.waiting, *prompt.ids, *forced)
        embeddings = self.embed(Prompt(ids, prompt.pixel_values, prompt.image_grids))
        assert len(embeddings) <= context.cache.room
        written = [-1] * len(context.waiting)
        context.waiting = []
        context.cache.speech = None
        return Reading(context, embeddings, (*written, *prompt.ids, *[-1] * len(forced)))

    @torch.inference_mode()
    def read(self, cache: KVCache, embeddings: Tensor) -> Tensor:
        """Read ``[T, D]`` (T >= 1) in chunks; the hidden state ``[1, D]`` after the last position."""
        hidden = embeddings[:0]
        for chunk in embeddings.split(self.config.prefill_chunk):
            hidden = self.llama.forward([(cache, chunk)])
        return hidden

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


@dataclass
class Reading:
    """What is being read into a context.

    Attributes:
        left: ``[T, D]`` what is still to be read.
        ids: ``[T]`` its tokens, -1 for those that the model wrote itself; empty where CTC reads nothing.
    """

    context: Context[KVCache]
    left: Tensor
    ids: tuple[int, ...] = ()
    _taken: tuple[int, ...] = ()

    def take(self, most: int) -> Tensor:
        """The next positions, for the model's forward pass."""
        taken, self.left = self.left[:most], self.left[most:]
        self._taken, self.ids = self.ids[:most], self.ids[most:]
        frames = self.context.ctc
        self.context.cache.keep_middle = frames is not None and frames.awaits(self._taken)
        return taken

    def keep_ctc(self, llama: Llama) -> None:
        """The forward pass was made: keep what CTC reads there."""
        cache, frames = self.context.cache, self.context.ctc
        position, self.context.length = self.context.length, cache.length
        if frames is not None and cache.keep_middle:
            assert cache.middle is not None, "the forward pass keeps it where it is asked to"
            middle_TD, cache.middle, cache.keep_middle = cache.middle, None, False
            frames.take(self._taken, position, lambda part: llama.ctc_log_probs(middle_TD[part]))


@dataclass
class GenerationRequest:
    """One reply that is being written.

    Attributes:
        context: what was read; its cache must belong to this request alone.
        grammar: what may come.
        reading: what is still to be read before the next choice.
        written: tokens that are certain and were not taken yet.
        draft: a guess at the tokens that follow, read along behind the certain ones.
        error: why it stopped early.
    """

    context: Context[KVCache]
    grammar: Grammar
    sampler: JointSampler
    reading: Reading
    written: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    error: Exception | None = None
    _choices: np.ndarray | None = None

    @classmethod
    def start(
        cls, engine: Engine, context: Context[KVCache], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> GenerationRequest:
        """A reply after ``prompt``; what waits in the context and what the grammar forces is read with it."""
        forced = grammar.take_forced()
        sampler = JointSampler(Sampler(sampling, engine.llama.token_count), context.ctc)
        if grammar.done:
            context.waiting = [*context.waiting, *prompt.ids, *forced]
            return cls(context, grammar, sampler, Reading(context, engine.llama.embed([])), forced)
        return cls(context, grammar, sampler, engine.reading(context, prompt, forced), forced)

    @property
    def done(self) -> bool:
        """Whether the reply is whole, or broken off by an error."""
        return self.error is not None or self.grammar.done

    @property
    def ready(self) -> bool:
        """Whether everything is read, so that a token can be chosen."""
        return not len(self.reading.left)

    def take_input(self, most: int) -> Tensor:
        """The next positions to read."""
        self._choices = None
        return self.reading.take(most)

    def choices(self) -> np.ndarray:
        """``[A]`` the ids that are allowed now."""
        if self._choices is None:
            self._choices = self.grammar.allowed()
        return self._choices

    def choose(self, scores: np.ndarray, llama: Llama) -> None:
        """Take the next token, and all that follow from it without a choice."""
        certain = self._choose(scores, self.choices())
        if certain:
            self._read_next(certain, llama)

    def choose_along(self, hidden_TD: Tensor, llama: Llama) -> None:
        """Choose after each position of the draft as long as the draft had the same tokens; the rest was read in vain.

        Args:
            hidden_TD: after the certain tokens and each of the draft's.
        """
        draft, self.draft = self.draft, []
        rows_ND, allowed = hidden_TD[-len(draft) - 1 :], self.choices()
        scores_NA = llama.scores(rows_ND, allowed).cpu().numpy()
        for place, scores in enumerate(scores_NA):
            choices = self.grammar.allowed()
            if choices is not allowed:
                scores = llama.scores(rows_ND[place : place + 1], choices)[0].cpu().numpy()
            certain = self._choose(scores, choices)
            if not certain or self.done or certain != draft[place : place + 1]:
                break
        cache = self.context.cache
        cache.crop(place - len(draft))
        self.context.length = cache.length
        if certain:
            self._read_next(certain, llama)

    def _choose(self, scores: np.ndarray, choices: np.ndarray) -> list[int]:
        """The next token and all that follow from it without a choice; none after an error."""
        try:
            token = self.sampler.choose(scores, choices, self.grammar)
        except InputError as error:
            self.error = error
            return []
        self.grammar.advance(token)
        certain = [token, *self.grammar.take_forced()]
        self.written += certain
        # The last tokens are read with whatever comes next; until then they wait.
        self.context.waiting = certain
        return certain

    def _read_next(self, certain: list[int], llama: Llama) -> None:
        """``certain`` is to be read, and with it what is likely to follow."""
        if self.grammar.done:
            return
        cache = self.context.cache
        if self.grammar.kind != "units":
            cache.speech = None
        elif cache.speech is None:
            cache.speech = cache.length + len(certain)
        room = cache.room - len(certain)
        if room < 0:
            self.error = InputError("the reply: the model's context is full; start a new conversation")
            return
        most = max(0, min(room, MOST_POSITIONS - len(certain), LONGEST_DRAFT))
        self.draft = self.sampler.draft(self.grammar, most)
        self.reading = Reading(self.context, llama.embed([*certain, *self.draft]))

    def take_written(self) -> list[int]:
        """The tokens that became certain since the last call."""
        taken, self.written = self.written, []
        return taken


class EngineDecoder:
    """The engine as a DecodingBackend: one reply at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.max_length = engine.llama.max_length

    def new_context(self) -> Context[KVCache]:
        """An empty context."""
        return self.engine.new_context()

    @torch.inference_mode()
    def feed(self, context: Context[KVCache], prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits; the scores ``[V]`` of the next token."""
        return self.engine.llama.scores(self.engine.feed(context, prompt))[0]

    def read(self, context: Context[KVCache], prompt: Prompt) -> None:
        """Read ``prompt`` after what waits."""
        self.engine.feed(context, prompt)

    def write(
        self, context: Context[KVCache], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> Iterator[list[int]]:
        """Let the model write one reply after ``prompt``; yields tokens as they are certain, forced ones in one go.

        Raises:
            InputError: the scores are not numbers (damaged weights).
        """
        request = GenerationRequest.start(self.engine, context, prompt, grammar, sampling)
        if request.written:
            yield request.take_written()
        while not request.done:
            self.engine.step([request])
            if request.written:
                yield request.take_written()
        if request.error is not None:
            raise request.error


def best_decoder(model: EmovaForConditionalGeneration, config: EngineConfig = EngineConfig()) -> DecodingBackend[Any]:
    """The engine where it can run the model (a plain LLaMA on a CPU or a CUDA GPU), else the standard decoder."""
    if model.device.type not in ("cpu", "cuda"):
        return Decoder(model)
    try:
        return EngineDecoder(Engine(model, config))
    except UnsupportedModelError:
        return Decoder(model)
