"""Ordinary speech as words: the likeliest ones behind a speech tokenizer's phones, by a lexicon and pairs of words.

A small language model has met too few sentences by too few voices to write down what anybody says; which phones were
said the tokenizer's decoder tells better. So hypotheses walk through the lexicon's prefix tree, frame by frame (Ney and
Ortmanns, IEEE Signal Processing Magazine 16/5, 1999), CTC's phones tell how well they fit, and each word is as likely
as after the one before it.

Shapes: T frames, P phones and the blank (class 0); N nodes of the tree, the root first and all children of a node in a
row; W words and the sentence's beginning (the last); E words that end in nodes; B pairs of words; H hypotheses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emova.checkpoint.files import WORDS
from emova.core.errors import InputError
from emova.core.writing import staged_output
from emova.speech.tokenizer.phones import BLANK, PhoneInventory

_NEVER = -1e30


@dataclass(frozen=True)
class SearchConfig:
    """How words are looked for.

    Attributes:
        hypotheses: that go on from frame to frame, at most.
        width: nats behind the best one beyond which a hypothesis is given up.
        language: how much the words' own likelihood counts beside the phones'.
        floor: likelihood that every phone has at least: the decoder may be wrong.
        silence: likelihood of the blank from which on nothing else is tried in a frame.
        margin: nats a unit by which the words must be likelier than what the language model writes, to be told in its
            place (``emova.session.transcripts``).
    """

    hypotheses: int = 400
    width: float = 18.0
    language: float = 0.8
    floor: float = 1e-4
    silence: float = 0.99
    margin: float = 0.12

    def __post_init__(self) -> None:
        if self.hypotheses < 1 or not self.width > 0 or not self.floor >= 0:
            raise InputError("words: hypotheses must be at least 1, width above 0, floor 0 or more")


@dataclass(frozen=True)
class WordModel:
    """A lexicon as a tree of phones, and how likely words are one after the other; natural logarithms.

    Attributes:
        words: W - 1, as they are written within a sentence.
        phones: the names of the tree's phones; node_phones counts from 1.
        node_phones, node_children, node_endings: ``[N]`` the phone that leads to a node, how many children it has, how
            many words end in it.
        ending_words, ending_scores: ``[E]`` which words, and how likely each is said like that.
        unigrams: ``[W]`` of a word anywhere; of the beginning nothing.
        backoffs, ends: ``[W]`` after a word: of one that it was never seen with, beside ``unigrams``; of the end.
        pair_counts: ``[W]`` how many words were seen after one.
        pair_words, pair_scores: ``[B]`` those words, in the order of the words before them, sorted.
    """

    words: tuple[str, ...]
    phones: tuple[str, ...]
    node_phones: np.ndarray
    node_children: np.ndarray
    node_endings: np.ndarray
    ending_words: np.ndarray
    ending_scores: np.ndarray
    unigrams: np.ndarray
    backoffs: np.ndarray
    ends: np.ndarray
    pair_counts: np.ndarray
    pair_words: np.ndarray
    pair_scores: np.ndarray

    def save(self, path: Path) -> None:
        """Write it as one safetensors file, whole or not at all. Raises: InputError: it cannot be written."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        tensors["text"] = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        with staged_output(path) as file:
            file.write(save(tensors, metadata={"phones": json.dumps(self.phones, ensure_ascii=False)}))

    @classmethod
    def load(cls, path: Path) -> WordModel:
        """What ``save`` wrote. Raises: InputError: it is missing, damaged, or its numbers do not fit each other."""
        try:
            with safe_open(path, "np") as file:
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                words = tuple(file.get_tensor("text").tobytes().decode().split("\n"))
                phones = tuple(json.loads((file.metadata() or {})["phones"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            raise InputError(f"{path}: damaged or no model of words; make it again by `emova train words`") from None
        model = cls(words, phones, **arrays)
        if not model._fits():
            raise InputError(f"{path}: its numbers do not fit each other; make it again by `emova train words`")
        return model

    def _fits(self) -> bool:
        words, nodes = len(self.words) + 1, len(self.node_phones)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        places = (self.ending_words, self.pair_words)
        return (
            all(each.ndim == 1 and bool(np.isfinite(each).all()) for each in arrays.values())
            and all((each.dtype.kind == "f") == name.endswith(_SCORES) for name, each in arrays.items())
            and all(self.words)
            and all(isinstance(phone, str) for phone in self.phones)
            and all(len(each) == words for each in (self.unigrams, self.backoffs, self.ends, self.pair_counts))
            and all(len(each) == nodes for each in (self.node_children, self.node_endings))
            and int(self.node_children.sum(dtype=np.int64)) == nodes - 1
            and int(self.node_endings.sum(dtype=np.int64)) == len(self.ending_words) == len(self.ending_scores)
            and int(self.pair_counts.sum(dtype=np.int64)) == len(self.pair_words) == len(self.pair_scores)
            and all(each.min(initial=0) >= 0 and each.max(initial=0) < words - 1 for each in places)
            and self.node_phones.max(initial=0) <= len(self.phones)
            and bool((np.diff(self.keys) > 0).all())
        )

    def node_classes(self, inventory: PhoneInventory) -> np.ndarray:
        """``[N]`` the class of each node's phone in ``inventory``. Raises: InputError: it lacks one."""
        known = inventory.ids(self.phones)
        if len(known.ids) != len(self.phones):
            lacking = ", ".join(known.unknown) or "some"
            raise InputError(
                f"{WORDS}: it has phones that the speech tokenizer does not tell ({lacking}); make it by "
                "`emova train words` with this tokenizer"
            )
        return np.concatenate([[BLANK], known.ids])[self.node_phones]

    @cached_property
    def first_children(self) -> np.ndarray:
        """``[N + 1]`` where the children of each node begin."""
        return 1 + np.concatenate([[0], np.cumsum(self.node_children, dtype=np.int64)])

    @cached_property
    def first_endings(self) -> np.ndarray:
        """``[N + 1]`` where the words of each node begin."""
        return np.concatenate([[0], np.cumsum(self.node_endings, dtype=np.int64)])

    @cached_property
    def keys(self) -> np.ndarray:
        """``[B]`` each pair as one number, sorted."""
        before = np.repeat(np.arange(len(self.unigrams), dtype=np.int64), self.pair_counts)
        return before * len(self.unigrams) + self.pair_words

    @cached_property
    def best_words(self) -> np.ndarray:
        """``[N]`` the unigram of the likeliest word at or below a node; nothing at the root."""
        best = np.full(len(self.node_phones), _NEVER)
        owners = np.repeat(np.arange(len(best)), self.node_endings)
        np.maximum.at(best, owners, self.unigrams[self.ending_words].astype(float))
        parents = np.repeat(np.arange(len(best)), self.node_children)
        levels = [(0, 1)]  # the nodes of a depth lie in a row
        while levels[-1][0] < levels[-1][1]:
            first, last = levels[-1]
            levels.append((int(self.first_children[first]), int(self.first_children[last])))
        for first, last in reversed(levels[1:]):
            np.maximum.at(best, parents[first - 1 : last - 1], best[first:last])
        best[0] = 0.0
        return best

    def after(self, before: np.ndarray, words: np.ndarray) -> np.ndarray:
        """How likely each word is after the one before it."""
        wanted = before * len(self.unigrams) + words
        places = np.minimum(np.searchsorted(self.keys, wanted), max(len(self.keys) - 1, 0))
        rare = self.backoffs[before].astype(float) + self.unigrams[words]
        if not len(self.keys):
            return rare
        return np.where(self.keys[places] == wanted, self.pair_scores[places], rare)


_SCORES = ("scores", "unigrams", "backoffs", "ends")
_ARRAYS = tuple(each.name for each in fields(WordModel) if each.name not in ("words", "phones"))


@dataclass
class _Hypotheses:
    """``[H]`` each: the node, the word before, the phone of the last frame (or the blank), the score, and the words so
    far as a place in the trace."""

    nodes: np.ndarray
    before: np.ndarray
    last: np.ndarray
    scores: np.ndarray
    traces: np.ndarray

    def at(self, places: np.ndarray) -> _Hypotheses:
        """Some of them."""
        return _Hypotheses(*(getattr(self, each.name)[places] for each in fields(self)))

    @staticmethod
    def joined(parts: list[_Hypotheses]) -> _Hypotheses:
        """All of several."""
        names = [each.name for each in fields(_Hypotheses)]
        return _Hypotheses(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class WordSearch:
    """Looks for the words of speech.

    Args:
        inventory: of the tokenizer whose phones are searched.

    Raises:
        InputError: the tokenizer lacks a phone of the model.
    """

    def __init__(self, model: WordModel, inventory: PhoneInventory, config: SearchConfig = SearchConfig()) -> None:
        self.model, self.config = model, config
        self._classes = model.node_classes(inventory)
        self._hopes = config.language * model.best_words

    def words(self, log_probs_TP: np.ndarray) -> list[str]:
        """The likeliest words; none where no sequence of words fits."""
        model, start = self.model, np.zeros(1, np.int64)
        floored_TP = np.log(np.exp(log_probs_TP.astype(float)) + self.config.floor)
        trace: list[tuple[int, int]] = []
        now = _Hypotheses(start, start + len(model.words), start + BLANK, start.astype(float), start - 1)
        for frame_P in floored_TP:
            parts, ended = self._next(now, frame_P, len(trace))
            now = self._kept(_Hypotheses.joined(parts))
            fresh = now.traces >= len(trace)  # words that ended now; of the others nothing is kept
            used, places = np.unique(now.traces[fresh] - len(trace), return_inverse=True)
            now.traces[fresh] = len(trace) + places
            trace += [ended[each] for each in used]
        whole = now.at(np.flatnonzero(now.nodes == 0))
        if not len(whole.nodes):
            return []
        best = int(np.argmax(whole.scores + self.config.language * model.ends[whole.before]))
        found, place = [], int(whole.traces[best])
        while place >= 0:
            place, word = trace[place]
            found.append(model.words[word])
        return found[::-1]

    def _next(
        self, now: _Hypotheses, frame_P: np.ndarray, traced: int
    ) -> tuple[list[_Hypotheses], list[tuple[int, int]]]:
        """Where each may be after a frame, and the words that end in it, each with its place in the trace before; they
        are traced from ``traced`` on."""
        model, config = self.model, self.config
        silent = replace(now, last=np.full_like(now.last, BLANK), scores=now.scores + frame_P[BLANK])
        if frame_P[BLANK] > np.log(config.silence):
            return [silent], []
        held = now.at(np.flatnonzero(now.last != BLANK))
        held.scores = held.scores + frame_P[held.last]
        parents, nodes = _spread(model.first_children, now.nodes)
        fresh = self._classes[nodes] != now.last[parents]  # the same phone twice needs a blank between
        parents, nodes = parents[fresh], nodes[fresh]
        on = now.at(parents)
        on.nodes, on.last = nodes, self._classes[nodes]
        on.scores = on.scores + frame_P[on.last]
        hoped = on.scores + self._hopes[on.nodes]
        best = max((silent.scores + self._hopes[silent.nodes]).max(), hoped.max(initial=_NEVER))
        on = on.at(np.flatnonzero(hoped > best - 2 * config.width))
        owners, endings = _spread(model.first_endings, on.nodes)
        over = on.at(owners)
        over.nodes = np.zeros_like(over.nodes)
        words = model.ending_words[endings].astype(np.int64)
        over.scores = over.scores + config.language * (model.after(over.before, words) + model.ending_scores[endings])
        likely = np.argsort(-over.scores, kind="stable")[: config.hypotheses]
        over, words = over.at(likely), words[likely]
        ended = list(zip(over.traces.tolist(), words.tolist(), strict=True))
        over.before, over.traces = words, np.arange(traced, traced + len(words))
        return [silent, held, on, over], ended

    def _kept(self, all_of_them: _Hypotheses) -> _Hypotheses:
        """The best of those that can only go on alike, and of these the best."""
        config, each = self.config, all_of_them
        keys = (each.before * len(self.model.node_phones) + each.nodes) * (self._classes.max() + 1) + each.last
        order = np.lexsort((-each.scores, keys))
        order = order[np.concatenate([[True], np.diff(keys[order]) != 0])]
        hoped = each.scores[order] + self._hopes[each.nodes[order]]
        good = np.flatnonzero(hoped > hoped.max() - config.width)
        good = good[np.argsort(-hoped[good], kind="stable")[: config.hypotheses]]
        return each.at(order[good])


def _spread(first: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each thing that an owner has: the owner's place, and the thing. ``first``: where each one's things begin."""
    counts = first[owners + 1] - first[owners]
    places = np.repeat(np.arange(len(owners)), counts)
    offsets = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, first[owners[places]] + offsets
