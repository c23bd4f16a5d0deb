"""One reply that is being written: what is still to be read, what was chosen, and a draft of what may follow.

Shape letters: T positions of one sequence, N positions of a draft, A allowed ids, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from emova.core.errors import InputError
from emova.decoding.ctc import JointSampler
from emova.decoding.protocol import Context
from emova.engine.protocol import LanguageModel, SequenceCache
from emova.native.step import MOST_POSITIONS
from emova.reply.grammar import Grammar

LONGEST_DRAFT = 7
"""Tokens; a draft that is right so far may yet go wrong, and what follows is then read in vain."""


@dataclass
class Reading:
    """What is being read into a context.

    Attributes:
        left: ``[T, D]`` what is still to be read.
        ids: ``[T]`` its tokens, -1 for those that the model wrote itself; empty where CTC reads nothing.
    """

    context: Context[SequenceCache]
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

    def keep_ctc(self, llama: LanguageModel[Any]) -> None:
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

    context: Context[SequenceCache]
    grammar: Grammar
    sampler: JointSampler
    reading: Reading
    written: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    error: Exception | None = None
    _choices: np.ndarray | None = None

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

    def choose(self, scores: np.ndarray, llama: LanguageModel[Any]) -> None:
        """Take the next token, and all that follow from it without a choice."""
        certain = self._choose(scores, self.choices())
        if certain:
            self._read_next(certain, llama)

    def choose_along(self, hidden_TD: Tensor, llama: LanguageModel[Any]) -> None:
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
            self.grammar.advance(token)
            certain = [token, *self.grammar.take_forced()]
        except InputError as error:
            self.error = error
            return []
        self.written += certain
        # The last tokens are read with whatever comes next; until then they wait.
        self.context.waiting = certain
        return certain

    def _read_next(self, certain: list[int], llama: LanguageModel[Any]) -> None:
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
