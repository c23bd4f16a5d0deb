"""Joint decoding of transcripts: the language model's scores and CTC's over the question's speech units, weighted
(Watanabe et al. 2017, Hybrid CTC/Attention Architecture for End-to-End Speech Recognition).

CTC reads the hidden states of a middle layer at the speech units through the vocabulary's head;
``emova_train.stages.losses.ctc`` trains it. It is read along with the prompt and scores the tokens of a transcript; the
answer's tokens are the language model's alone.

Shape letters: T positions of a stretch of speech units, C text tokens and the blank (the last), K candidates, A allowed
ids, N positions of a piece of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from emova.decoding.sampling import Sampler
from emova.reply.grammar import Grammar

if TYPE_CHECKING:
    from emova.model import EmovaConfig

CANDIDATES = 12
"""So many of the language model's best tokens are scored jointly, and the one that CTC would write next."""
_NEVER = -1e30
_AS_GOOD = 0.7
"""Alignments whose log-probabilities differ by less are taken to be equally good."""
_LEAST = -30.0
"""CTC's log-probability of a token is at least this, so that the language model can outvote it."""


class CtcFrames:
    """CTC's log-probabilities at the last stretch of speech units in a context, and at the position after it.

    Args:
        units: the first unit's token id, and the id after the last one's.
    """

    def __init__(self, units: tuple[int, int]) -> None:
        self._units = units
        self._rows: list[np.ndarray] = []
        self._best: list[np.ndarray] = []
        self._end = 0  # position in the context
        self._open = False  # whether the last position was a unit, so that the stretch may go on

    @classmethod
    def of_model(cls, config: EmovaConfig) -> CtcFrames | None:
        """For a new context of a model; None if it was not trained with CTC."""
        first = config.speech_first_token_id
        return cls((first, first + config.speech_codebook_size)) if config.ctc_layer else None

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def awaits(self, ids: Sequence[int]) -> bool:
        """Whether ``ids``, read now, may be part of a stretch."""
        first, end = self._units
        return self._open or any(first <= token < end for token in ids)

    def take(self, ids: Sequence[int], position: int, read: Callable[[slice], np.ndarray]) -> None:
        """Take what was read.

        Args:
            ids: ``[N]`` the tokens of a prompt's piece; -1 for what the model wrote itself.
            position: of the first of them in the context.
            read: gives the log-probabilities ``[T, C]`` of a slice of them.
        """
        first, end = self._units
        stop = next((at for at in range(len(ids), 0, -1) if first <= ids[at - 1] < end), 0)
        start = next((at for at in range(stop, 0, -1) if not first <= ids[at - 1] < end), 0)
        follows = self._open and start == 0 and position == self._end
        if stop == 0 and not follows:
            self._open = False
            return
        if not follows:
            self._rows, self._best = [], []
        behind = min(stop + 1, len(ids))  # the position after the last unit belongs to it, as in training
        self._rows.append(read(slice(start, behind)))
        self._best.append(self._rows[-1].argmax(axis=1))
        self._end, self._open = position + behind, behind == stop

    def rewind(self, length: int) -> None:
        """Forget the context's positions from ``length`` on."""
        if length < self._end:
            kept = max(0, len(self) - (self._end - length))
            self._rows, self._best = ([self.log_probs[:kept]], [self.best[:kept]]) if kept else ([], [])
            self._end, self._open = length, kept > 0

    @property
    def log_probs(self) -> np.ndarray:
        """``[T, C]``"""
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0] if self._rows else np.zeros((0, 0), dtype=np.float32)

    def likeliest(self) -> list[int]:
        """The tokens of the likeliest alignment."""
        return _collapsed(self.best, self.log_probs.shape[1] - 1)

    @property
    def best(self) -> np.ndarray:
        """``[T]`` the likeliest class at each position."""
        return np.concatenate(self._best) if self._best else np.zeros(0, dtype=np.int64)


def _collapsed(path_T: np.ndarray, blank: int) -> list[int]:
    """The tokens of an alignment: repeats once, blanks not at all."""
    new = np.flatnonzero((path_T != blank) & (path_T != np.concatenate([[-1], path_T[:-1]])))
    tokens: list[int] = path_T[new].tolist()
    return tokens


def ctc_log_probs(scores_TV: Tensor, blank: int) -> np.ndarray:
    """``[T, C]`` float32 of the head's scores ``[T, V]``; the text's tokens lie below the blank."""
    return scores_TV[:, : blank + 1].float().log_softmax(-1).cpu().numpy()


class CtcPrefix:
    """CTC's prefix scores of a growing text: the probability that the transcript begins so, or ends here.

    Args:
        log_probs_TC: the last class is the blank.
        best_T: the likeliest class at each position, if it is known already.
    """

    def __init__(self, log_probs_TC: np.ndarray, best_T: np.ndarray | None = None) -> None:
        self._log_probs = log_probs_TC
        self._best = log_probs_TC.argmax(axis=1) if best_T is None else best_T
        likeliest_T = log_probs_TC[np.arange(len(self._best)), self._best].astype(np.float64)
        # The log-probability of the likeliest alignment from t on.
        self._rest = np.concatenate([np.cumsum(likeliest_T[::-1])[::-1], [0.0]])
        blank_T = log_probs_TC[:, -1].astype(np.float64)
        self._blank_sums = np.concatenate([[0.0], np.cumsum(blank_T)])
        # Of all alignments of the text with the frames up to t, those that end in a blank, and in its last token.
        self._in_blank = self._blank_sums.copy()
        self._in_token = np.full(len(blank_T) + 1, -np.inf)
        self._last = -1
        self._total = 0.0  # log-probability that the text begins so
        self._begun: dict[int, float] = {}  # and goes on with a token that was asked for
        self._reading: list[int] | None = None  # CTC's likeliest reading from here on

    def _before(self, token: int) -> np.ndarray:
        """``[T]`` alignments of the text up to t, after which ``token`` may come: a repeat needs a blank before it."""
        ends = self._in_blank if token == self._last else np.logaddexp(self._in_blank, self._in_token)
        return ends[:-1]

    def _begins(self, tokens: Sequence[int]) -> np.ndarray:
        """``[K]`` log-probabilities that the text begins so and goes on with each of ``tokens``."""
        before_KT = np.broadcast_to(self._before(-1), (len(tokens), len(self._log_probs)))
        if self._last in tokens:
            before_KT = np.stack([self._before(token) for token in tokens])
        paths_KT = before_KT + self._log_probs[:, list(tokens)].T
        highest_K1 = np.maximum(paths_KT.max(axis=1, keepdims=True), _NEVER)
        with np.errstate(divide="ignore"):
            return np.log(np.exp(paths_KT - highest_K1).sum(axis=1)) + highest_K1[:, 0]

    def next(self, tokens: Sequence[int]) -> np.ndarray:
        """``[K]`` log-probabilities of each of ``tokens`` after the text so far."""
        if self._total == -np.inf:  # more tokens than frames: CTC has no opinion
            return np.zeros(len(tokens))
        begins_K = self._begins(tokens)
        self._begun = dict(zip(tokens, begins_K.tolist(), strict=True))
        return begins_K - self._total

    def end(self) -> float:
        """The log-probability that nothing follows."""
        if self._total == -np.inf:
            return 0.0
        return self.whole() - self._total

    def whole(self) -> float:
        """The log-probability that the transcript is the text so far, and nothing follows."""
        return float(np.logaddexp(self._in_blank[-1], self._in_token[-1]))

    def draft(self, most: int) -> list[int]:
        """The next tokens, at most so many, if CTC's likeliest reading went on from where the text ends."""
        if self._reading is None:
            self._reading = self._read_on()
        return self._reading[:most]

    def _read_on(self) -> list[int]:
        fit_T = np.logaddexp(self._in_blank, self._in_token) + self._rest
        if not np.isfinite(highest := fit_T.max()):
            return []
        # The text ends somewhere between its last token and the next one: from the latest such place on, the last
        # token is not read a second time.
        start = int(np.flatnonzero(fit_T >= highest - _AS_GOOD)[-1])
        return _collapsed(self._best[start:], self._log_probs.shape[1] - 1)

    def advance(self, token: int) -> None:
        """The text goes on with ``token``."""
        self._total = self._begun[token] if token in self._begun else float(self._begins([token])[0])
        self._begun, self._reading = {}, None
        before_T = self._before(token)
        # Both recurrences, x[t] = logaddexp(x[t - 1], y[t]) + z[t], are a running sum once z is taken out.
        sums = np.concatenate([[0.0], np.cumsum(self._log_probs[:, token], dtype=np.float64)])
        in_token = np.logaddexp.accumulate(before_T - sums[:-1]) + sums[1:]
        self._in_token = np.concatenate([[-np.inf], in_token])
        in_blank = np.logaddexp.accumulate(self._in_token[:-1] - self._blank_sums[:-1]) + self._blank_sums[1:]
        self._in_blank = np.concatenate([[-np.inf], in_blank])
        self._last = token


class JointSampler:
    """Chooses tokens for one reply; those of a transcript jointly with CTC.

    Args:
        sampler: of the reply.
        frames: of the context that the reply is written in; None where the model was not trained with CTC.
    """

    def __init__(self, sampler: Sampler, frames: CtcFrames | None) -> None:
        self._sampler, self._frames = sampler, frames
        self._weight = sampler.sampling.ctc_weight
        self._prefix: CtcPrefix | None = None

    def choose(self, scores: np.ndarray, allowed: np.ndarray, grammar: Grammar) -> int:
        """One of ``allowed`` ``[A]``, whose scores are ``scores`` ``[A]`` float32.

        Raises:
            InputError: the scores are not numbers (damaged weights).
        """
        if grammar.answering and len(allowed) > 1:
            grammar.uncertainty.take(scores)
        closer = grammar.transcript_closer
        if closer is None or not self._frames or self._weight <= 0:
            return self._sampler.choose(scores, allowed, grammar.kind)
        if self._prefix is None:
            self._prefix = CtcPrefix(self._frames.log_probs, self._frames.best)
        if len(allowed) > 1:
            scores = self._joint(scores, allowed, closer, self._prefix)
        token = self._sampler.choose(scores, allowed, grammar.kind)
        if token != closer:
            self._prefix.advance(token)
        return token

    def draft(self, grammar: Grammar, most: int) -> list[int]:
        """A guess at the tokens that will be chosen next, at most so many; none outside a transcript.

        The language model can then read them all at once, and go back to where it would have chosen another one
        (speculative decoding, Leviathan et al. 2022, arXiv 2211.17192); CTC has drafted them already.
        """
        if self._prefix is None or grammar.done or grammar.transcript_closer is None:
            return []
        return self._prefix.draft(most)

    def _joint(self, scores: np.ndarray, allowed: np.ndarray, closer: int, prefix: CtcPrefix) -> np.ndarray:
        """``[A]`` log-probabilities, of all but either reader's best tokens minus infinity."""
        highest = scores.max()
        if not np.isfinite(highest):
            return scores
        count = min(CANDIDATES, len(scores))
        # CTC's own next token is a candidate too: all that the language model finds likely may be what nobody said.
        best = np.argpartition(scores, -count)[-count:]
        for token in prefix.draft(1):
            best = np.concatenate([best, np.flatnonzero(allowed == token)])
        likely = scores[best] - highest - np.log(np.exp(scores - highest).sum())
        tokens = allowed[best].tolist()
        # The token that ends the text may be a control token, which CTC has no class for: its place is filled after.
        fitting = np.maximum(prefix.next([0 if token == closer else token for token in tokens]), _LEAST)
        fitting[allowed[best] == closer] = max(prefix.end(), _LEAST)
        joint = np.full(len(scores), -np.inf, dtype=np.float32)
        joint[best] = (1 - self._weight) * likely + self._weight * fitting
        return joint
