"""Reading a sentence aloud in several takes: the model listens to each, and keeps the one that it understands best.

What the units say is told by CTC (``emova.decoding.ctc``): the log-probability that a transcript of them is the
sentence. A take that says it clearly is the last one; else the sentence is read again with other random numbers, and
the clearest of all takes is heard. The units of a sentence are written many times faster than they are heard, so that
this costs little; a model without CTC reads each sentence once, and its units come as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from emova.core.errors import InputError
from emova.decoding.ctc import CtcPrefix
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.reply.grammar import Grammar, TokenTable

if TYPE_CHECKING:
    from emova.assistant import AssistantConfig

Write = Callable[[Prompt, Grammar, Sampling], Iterator[int]]
"""Has the model write one reply: its tokens."""

_UNLOCKED: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class TakesConfig:
    """When a sentence is read again.

    Attributes:
        most: takes of a sentence; 1 reads it once.
        clear: a take is good enough if CTC gives its sentence this log-probability a token, or more.
    """

    most: int = 8
    clear: float = -0.1

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"takes.most={self.most}: a sentence is read at least once")


@dataclass(frozen=True)
class Sentence:
    """A sentence to be read aloud: what to ask, and what may come.

    Attributes:
        grammar: a fresh one for each take.
    """

    text: str
    prompt: Prompt
    grammar: Callable[[], Grammar]


class Reader(Protocol):
    """What reads aloud; ``emova.assistant.Assistant`` is one."""

    @property
    def config(self) -> AssistantConfig: ...
    @property
    def table(self) -> TokenTable: ...
    @property
    def decoder(self) -> DecodingBackend[Any]: ...
    def transcribing(self, units: list[int]) -> tuple[Prompt, Grammar]: ...


def read_sentence(
    reader: Reader, sentence: Sentence, write: Write, lock: AbstractContextManager[object] = _UNLOCKED
) -> Iterator[int]:
    """The units of ``sentence``: of its clearest take, or as they are written where no CTC can tell.

    Args:
        lock: is held while a take is listened to.
    """
    takes, sampling, unit_of = reader.config.takes, reader.config.sampling, reader.table.unit_of
    taken = _takes(sentence, write, sampling, unit_of)
    if takes.most == 1 or reader.decoder.new_context().ctc is None:
        yield from next(taken)
        return
    text = reader.table.encode(sentence.text)
    best: list[int] = []
    clearest = -np.inf
    for _, units in zip(range(takes.most), taken, strict=False):
        heard = list(units)
        with lock:
            clear = clearness(reader, heard, text)
        if clear > clearest or not best:
            best, clearest = heard, clear
        if clearest >= takes.clear:
            break
    yield from best


def _takes(sentence: Sentence, write: Write, sampling: Sampling, unit_of: np.ndarray) -> Iterator[Iterator[int]]:
    """The units of one take after another, each with random numbers of its own."""
    number = 0
    while True:
        tokens = write(sentence.prompt, sentence.grammar(), replace(sampling, seed=sampling.seed + number))
        yield (unit for token in tokens if (unit := int(unit_of[token])) >= 0)
        number += 1


def clearness(reader: Reader, units: Sequence[int], text: Sequence[int]) -> float:
    """CTC's log-probability that a transcript of ``units`` is the tokens ``text``, for each of them (nats)."""
    prompt, _ = reader.transcribing(list(units))
    context = reader.decoder.new_context()
    reader.decoder.read(context, prompt)
    assert context.ctc is not None
    prefix = CtcPrefix(context.ctc.log_probs, context.ctc.best)
    for token in text:
        prefix.advance(token)
    return prefix.whole() / max(1, len(text))
