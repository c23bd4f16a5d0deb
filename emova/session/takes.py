"""Reading a sentence aloud with an ear on it: every piece of speech is heard as it is written, and said again if it is
not what the text says.

What the units say is told by CTC (``emova.decoding.ctc``): the log-probability that they spell a beginning of the
sentence, and at the end of the speech all of it. A piece that loses little of it is kept; else it is said again with
other random numbers, and the clearest of all takes is kept. A word may only be understood when the next one has begun,
so a take goes on a little beyond what is kept of it. Units are written many times faster than they are heard, so that
this costs little. A model without CTC reads each sentence once.

Shape letters: T frames of CTC, C text tokens and the blank (the last), S places in the spelling: a blank before,
between and behind all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from emova.core.errors import InputError
from emova.decoding.protocol import Context, DecodingBackend, Mark, Prompt
from emova.decoding.sampling import Sampling
from emova.reply.grammar import Grammar, TokenTable

Write = Callable[[Prompt, Grammar, Sampling, Context[Any]], Iterator[int]]
"""Has the model write on in a context, after what was read there and the prompt: its tokens."""
_UNLOCKED: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class TakesConfig:
    """How a sentence is read aloud.

    Attributes:
        most: takes of a piece; 1 says each once, unheard.
        piece: units of a take.
        kept: units of it that are kept; the others are said anew, as the beginning of the next piece.
        clear: a take is good enough if it loses no more than this much of the log-probability (nats).
        temperature: of its units; a reply's, whose words the model knows by heart, is higher (``Sampling``).
    """

    most: int = 3
    piece: int = 36
    kept: int = 20
    clear: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"takes.most={self.most}: a sentence is read at least once")
        if not 1 <= self.kept <= self.piece:
            raise InputError(f"takes.kept={self.kept}: give 1 to {self.piece}, the units of a take (takes.piece)")


@dataclass(frozen=True)
class Sentence:
    """A sentence to be read aloud: what to ask, and what may come.

    Attributes:
        grammar: of the whole of it.
        piece: of the next units, given how many were said and how many more there may be.
    """

    text: str
    prompt: Prompt
    grammar: Callable[[], Grammar]
    piece: Callable[[int, int], Grammar]


class Choices(Protocol):
    """How its units are chosen."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def takes(self) -> TakesConfig: ...


class Reader(Protocol):
    """What reads aloud; ``emova.assistant.Assistant`` is one."""

    @property
    def config(self) -> Choices: ...
    @property
    def table(self) -> TokenTable: ...
    @property
    def reading_decoder(self) -> DecodingBackend[Any]: ...
    def transcribing(self, units: list[int]) -> tuple[Prompt, Grammar]: ...


class Spelling:
    """How well frames of CTC spell a text, or a beginning of it, as more of them come in.

    Args:
        tokens: of the text.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._labels_S = np.full(2 * len(tokens) + 1, -1)  # the last class is the blank
        self._labels_S[1::2] = tokens
        # The blank between two tokens may be left out, unless they are the same.
        self._skips_S = np.zeros(len(self._labels_S), dtype=bool)
        self._skips_S[3::2] = self._labels_S[3::2] != self._labels_S[1:-2:2]

    def begin(self) -> np.ndarray:
        """``[S]`` the log-probabilities of all places before the first frame."""
        start_S = np.full(len(self._labels_S), -np.inf)
        start_S[0] = 0.0
        return start_S

    def go_on(self, places_S: np.ndarray, log_probs_TC: np.ndarray) -> np.ndarray:
        """``[S]`` the log-probabilities of all places after some more frames."""
        for frame_C in log_probs_TC:
            one_S = np.concatenate([[-np.inf], places_S])[:-1]
            two_S = np.where(self._skips_S, np.concatenate([[-np.inf], one_S])[:-1], -np.inf)
            places_S = np.logaddexp(np.logaddexp(places_S, one_S), two_S) + frame_C[self._labels_S]
        return places_S


def begins(places_S: np.ndarray) -> float:
    """The log-probability that what was heard spells a beginning of the text."""
    return float(np.logaddexp.reduce(places_S))


def ends(places_S: np.ndarray) -> float:
    """The log-probability that it spells all of the text."""
    return float(np.logaddexp.reduce(places_S[-2:]))


class Ear:
    """Listens to a sentence while it is written: a context of its own, in which its units are a user's speech.

    Attributes:
        places: ``[S]`` where in the spelling it may be (``Spelling``).
    """

    def __init__(self, reader: Reader, text: str) -> None:
        prompt, _ = reader.transcribing([0])
        unit = next(place for place, token in enumerate(prompt.ids) if reader.table.unit_of[token] >= 0)
        self._decoder, self._behind = reader.reading_decoder, prompt.ids[unit + 1]
        self._context = reader.reading_decoder.new_context()
        self._decoder.read(self._context, Prompt(prompt.ids[:unit]))
        self._spelling = Spelling(reader.table.encode(text))
        self.places = self._spelling.begin()

    def mark(self) -> tuple[Mark, np.ndarray]:
        """A point to go back to."""
        return self._context.mark(), self.places

    def rewind(self, mark: tuple[Mark, np.ndarray]) -> None:
        """Forget everything since ``mark``."""
        point, self.places = mark
        self._context.rewind(point)

    def hear(self, tokens: Sequence[int], ended: bool) -> None:
        """Some more units, by their token ids; ``ended``: nothing follows."""
        frames = self._context.ctc
        assert frames is not None
        before = len(frames)
        # What stands behind the last unit belongs to it, as in training.
        self._decoder.read(self._context, Prompt((*tokens, self._behind) if ended else tuple(tokens)))
        self.places = self._spelling.go_on(self.places, frames.log_probs[before:])


@dataclass(frozen=True)
class _Take:
    """Tokens that were written, and how much of the log-probability was lost by them."""

    tokens: list[int]
    ended: bool
    loss: float


def read_sentence(
    reader: Reader, sentence: Sentence, write: Write, lock: AbstractContextManager[object] = _UNLOCKED
) -> Iterator[int]:
    """The units of ``sentence``, piece by piece, each from its clearest take; as they are written where no CTC can
    tell.

    Args:
        lock: is held while a take is listened to.
    """
    takes, unit_of = reader.config.takes, reader.table.unit_of
    context = reader.reading_decoder.new_context()
    sampling = reader.config.sampling
    if context.ctc is not None:
        sampling = replace(sampling, unit_temperature=takes.temperature)
    if takes.most == 1 or context.ctc is None:
        written = write(sentence.prompt, sentence.grammar(), sampling, context)
        yield from (unit for token in written if (unit := int(unit_of[token])) >= 0)
        return
    with lock:
        reader.reading_decoder.read(context, sentence.prompt)
        ear = Ear(reader, sentence.text)
    said = number = 0
    while True:
        point, heard = context.mark(), ear.mark()
        best: _Take | None = None
        for _ in range(takes.most):
            drawn = replace(sampling, seed=sampling.seed + number)
            number += 1
            tokens = list(write(Prompt(()), sentence.piece(said, takes.piece), drawn, context))
            ended = bool(unit_of[tokens[-1]] < 0)
            with lock:
                ear.hear([token for token in tokens if unit_of[token] >= 0], ended)
            loss = begins(heard[1]) - (ends(ear.places) if ended else begins(ear.places))
            if best is None or loss < best.loss:
                best = _Take(tokens, ended, loss)
            context.rewind(point)
            ear.rewind(heard)
            if best.loss <= takes.clear:
                break
        assert best is not None
        spoken = [token for token in best.tokens if unit_of[token] >= 0]
        kept = spoken if best.ended else spoken[: takes.kept]
        yield from (int(unit_of[token]) for token in kept)
        if best.ended:
            return
        opening = len(best.tokens) - len(spoken)  # what the first piece begins with
        context.waiting += best.tokens[: opening + len(kept)]
        said += len(kept)
        with lock:
            ear.hear(kept, ended=False)
