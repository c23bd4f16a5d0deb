"""Reading a sentence aloud with an ear on it: every piece of speech is heard as it is written, and said again if it is
not what the text says.

What the units say is told by the speech tokenizer's decoder of phones: by CTC, the log-probability that they are a
beginning of the sentence's sounds, and at the end of the speech all of them. A piece that loses little of it is kept;
else it is said again with other random numbers, and the clearest of all takes is kept. A sound may only be understood
when the next one has begun, so a take goes on a little beyond what is kept of it. Units are written many times faster
than they are heard, so that this costs little. Where the sounds are not known, or the tokenizer tells none, each
sentence is read once.

Shape letters: T frames of CTC, P phones and the blank (class 0), S places in the spelling: a blank before, between and
behind all phones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from emova.core.errors import InputError
from emova.decoding.protocol import Context, DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.reply.grammar import Grammar, TokenTable
from emova.speech.tokenizer.phones import BLANK
from emova.speech.tokenizer.protocol import HearsPhones

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

    most: int = 8
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
        sounds: in misaki's alphabet; empty where they are not known.
        grammar: of the whole of it.
        piece: of the next units, given how many were said and how many more there may be.
    """

    sounds: str
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
    @property
    def phone_reader(self) -> HearsPhones | None: ...


class PhonePrefix:
    """How well frames of CTC spell a sentence, or a beginning of it, as more of them come in.

    Args:
        phones: the class numbers of its sounds.
    """

    def __init__(self, phones: Sequence[int]) -> None:
        self._labels_S = np.full(2 * len(phones) + 1, BLANK)
        self._labels_S[1::2] = phones
        # The blank between two phones may be left out, unless they are the same.
        self._skips_S = np.zeros(len(self._labels_S), dtype=bool)
        self._skips_S[3::2] = self._labels_S[3::2] != self._labels_S[1:-2:2]

    def begin(self) -> np.ndarray:
        """``[S]`` the log-probabilities of all places before the first frame."""
        start_S = np.full(len(self._labels_S), -np.inf)
        start_S[0] = 0.0
        return start_S

    def go_on(self, places_S: np.ndarray, log_probs_TP: np.ndarray) -> np.ndarray:
        """``[S]`` the log-probabilities of all places after some more frames."""
        for frame_P in log_probs_TP:
            one_S = np.concatenate([[-np.inf], places_S])[:-1]
            two_S = np.where(self._skips_S, np.concatenate([[-np.inf], one_S])[:-1], -np.inf)
            places_S = np.logaddexp(np.logaddexp(places_S, one_S), two_S) + frame_P[self._labels_S]
        return places_S

    def after(self, log_probs_TP: np.ndarray) -> np.ndarray:
        """``[S]`` the log-probabilities of all places after these frames from the beginning."""
        return self.go_on(self.begin(), log_probs_TP)


def begins(places_S: np.ndarray) -> float:
    """The log-probability that what was heard spells a beginning of the sentence."""
    return float(np.logaddexp.reduce(places_S))


def ends(places_S: np.ndarray) -> float:
    """The log-probability that it spells all of the sentence."""
    return float(np.logaddexp.reduce(places_S[-2:]))


class Ear:
    """Hears a sentence while it is written, as the speech tokenizer's decoder of phones understands its units.

    Args:
        tokenizer: that tells phones.
        sounds: of the sentence, in misaki's alphabet; what the tokenizer does not tell apart is not listened for.
    """

    def __init__(self, tokenizer: HearsPhones, sounds: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._prefix = PhonePrefix(tokenizer.inventory.ids(sounds).ids)

    def hear(self, units: Sequence[int]) -> np.ndarray:
        """``[S]`` the log-probabilities of all places in the sentence after all units so far."""
        return self._prefix.after(self._tokenizer.phone_log_probs(units)) if units else self._prefix.begin()


@dataclass(frozen=True)
class _Take:
    """Tokens that were written, and how much of the log-probability was lost by them."""

    tokens: list[int]
    ended: bool
    loss: float


def read_sentence(
    reader: Reader, sentence: Sentence, write: Write, lock: AbstractContextManager[object] = _UNLOCKED
) -> Iterator[int]:
    """The units of ``sentence``, piece by piece, each from its clearest take; as they are written where nothing can
    tell.

    Args:
        lock: is held while the prompt is read.
    """
    takes, unit_of = reader.config.takes, reader.table.unit_of
    context, sampling = reader.reading_decoder.new_context(), reader.config.sampling
    if sentence.sounds:
        sampling = replace(sampling, unit_temperature=takes.temperature)
    phones = reader.phone_reader
    if takes.most == 1 or phones is None or not phones.inventory.ids(sentence.sounds).ids:
        written = write(sentence.prompt, sentence.grammar(), sampling, context)
        yield from (unit for token in written if (unit := int(unit_of[token])) >= 0)
        return
    ear = Ear(phones, sentence.sounds)
    with lock:
        reader.reading_decoder.read(context, sentence.prompt)
    said: list[int] = []
    number = 0
    while True:
        point, before = context.mark(), begins(ear.hear(said))
        best: _Take | None = None
        for _ in range(takes.most):
            drawn = replace(sampling, seed=sampling.seed + number)
            number += 1
            tokens = list(write(Prompt(()), sentence.piece(len(said), takes.piece), drawn, context))
            units = unit_of[tokens]
            ended = bool(units[-1] < 0)
            places_S = ear.hear([*said, *units[units >= 0].tolist()])
            loss = before - (ends(places_S) if ended else begins(places_S))
            if best is None or loss < best.loss:
                best = _Take(tokens, ended, loss)
            context.rewind(point)
            if best.loss <= takes.clear:
                break
        assert best is not None
        spoken = [token for token in best.tokens if unit_of[token] >= 0]
        kept = spoken if best.ended else spoken[: takes.kept]
        yield from (new := [int(unit_of[token]) for token in kept])
        if best.ended:
            return
        opening = len(best.tokens) - len(spoken)  # what the first piece begins with
        context.waiting += best.tokens[: opening + len(kept)]
        said += new
