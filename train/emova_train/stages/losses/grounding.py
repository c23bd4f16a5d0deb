"""What is seen where, asked of the language model's middle: the words of a picture's marks at its visual tokens.

A question for the value beside a name is answered in two steps: find the name, then what belongs to it. A small model
that learns from answers alone takes neither, since one is worth nothing without the other; it counts off what it lists
in order, and guesses. So a middle layer is asked, at each visual token, for all the words of the marks that lie there
(``emova_data.nano.pictures.marks`` joins what belongs together: a row's name and its score), and at each such word in
the text for what else is in its mark, which some heads of the layer before are told where to find (as in Liu et al.
2016, Neural Machine Translation with Supervised Attention). The answer is then one look away. It is to pictures what
``emova_train.stages.losses.ctc`` is to speech, and like it has no weights of its own.

Shape letters: N positions of the row, E entries, P their positions, G cells a side, M marks, V text tokens, H heads,
C head width, S sequences, L positions of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova_train.data.recipe import Picture
from emova_train.vision.regions import boxes_in_square, cell_cover, mark_tokens

PLACE, WORD, LOOK = range(3)
"""Kinds of entries: what a visual token shows, what belongs to a word of the text, and where that word is drawn."""


@dataclass(frozen=True)
class SeenWordsConfig:
    """The losses' weight over that of the replies, 0 for none; the layers before each of the two questions; how many
    heads of the last of them look from a word at its places."""

    weight: float = 0.0
    layer: int = 3
    word_layer: int = 4
    heads: int = 2

    def __post_init__(self) -> None:
        if self.weight < 0 or not 1 <= self.layer <= self.word_layer or self.heads < 0:
            raise InputError(
                f"seen_words: weight={self.weight}, layer={self.layer}, word_layer={self.word_layer}, "
                f"heads={self.heads}; give 0 or more, 1 or more, at least as many, and 0 or more"
            )


@dataclass(frozen=True)
class SeenWords:
    """What is to be named where.

    Attributes:
        kinds: [E], PLACE, WORD or LOOK.
        positions: [E], in the sequence.
        targets: [E], the text token; of LOOK, the visual token's position in the sequence.
        shares: [E]; those of a kind and position sum to one.
    """

    kinds: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    shares: np.ndarray

    @classmethod
    def none(cls) -> SeenWords:
        """Nothing to be named."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty, np.zeros(0, np.float32))

    def before(self, length: int) -> SeenWords:
        """Those of the first ``length`` positions."""
        kept = self.positions < length
        return SeenWords(self.kinds[kept], self.positions[kept], self.targets[kept], self.shares[kept])


def seen_words(
    ids: np.ndarray, picture: Picture, size: tuple[int, int], side: int, image_token: int, tokenizer: Any
) -> SeenWords:
    """What a rendered conversation's positions see of its picture's marks.

    Args:
        ids: [N], with one picture of one tile; with another number of visual tokens nothing is seen.
        size: the picture's width and height.
        side: G, visual tokens a side of the tile.
        image_token: the placeholder's id.
        tokenizer: text to ids.
    """
    places = np.flatnonzero(ids == image_token)
    if not picture.marks or len(places) != side * side:
        return SeenWords.none()
    marked = [mark_tokens(mark.text, tokenizer) for mark in picture.marks]
    straight = np.arange(16 * side)
    cover_MP = cell_cover(boxes_in_square(picture, size, len(straight)), straight, straight, side)
    found: dict[tuple[int, int, int], float] = {}
    for tokens, cover_P in zip(marked, cover_MP, strict=True):
        for place in np.flatnonzero(cover_P):
            for token in tokens:
                entry = (PLACE, int(places[place]), token)
                found[entry] = found.get(entry, 0.0) + float(cover_P[place])
    cover_of = {mark.box: cover_P for mark, cover_P in zip(picture.marks, cover_MP, strict=True)}
    for word, (others, box) in _beside(marked, picture).items():
        for position in _ends(word, ids, int(places[-1]) + 1):
            for token in others:
                found[WORD, position, token] = 1.0
            for place in np.flatnonzero(cover_of[box]):
                found[LOOK, position, int(places[place])] = float(cover_of[box][place])
    if not found:
        return SeenWords.none()
    kinds, positions, targets = (np.asarray(column, np.int64) for column in zip(*found, strict=True))
    shares = np.asarray(list(found.values()), np.float32)
    total = np.zeros((3, len(ids)), np.float32)
    np.add.at(total, (kinds, positions), shares)
    return SeenWords(kinds, positions, targets, shares / total[kinds, positions])


Box = tuple[float, float, float, float]
Word = tuple[int, ...]


def _beside(marked: Sequence[Sequence[int]], picture: Picture) -> dict[Word, tuple[set[int], Box]]:
    """For each word, as its tokens, that one box alone has: the tokens of the others in the box, and the box."""
    boxes: dict[Box, list[Word]] = {}
    for tokens, mark in zip(marked, picture.marks, strict=True):
        boxes.setdefault(mark.box, []).append(tuple(tokens))
    where: dict[Word, list[tuple[set[int], Box]]] = {}
    for box, words in boxes.items():
        for word in words:
            where.setdefault(word, []).append(({token for other in words if other != word for token in other}, box))
    return {word: found[0] for word, found in where.items() if len(found) == 1 and found[0][0]}


def _ends(word: Word, ids: np.ndarray, start: int) -> list[int]:
    """The positions from ``start`` on of the last tokens of each ``word`` in ``ids``."""
    firsts = np.flatnonzero(ids[start : len(ids) - len(word) + 1] == word[0]) + start
    return [int(first) + len(word) - 1 for first in firsts if tuple(ids[first : first + len(word)]) == word]


@contextmanager
def projections(attention: Any) -> Iterator[dict[str, Tensor]]:
    """What an attention's ``q_proj`` and ``k_proj`` give in the forward pass inside, [1, N, heads * C] each; of no
    attention (None) nothing."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return attention.get_submodule(name).register_forward_hook(lambda _, __, out: found.__setitem__(name, out))

    handles = [keep(name) for name in ("q_proj", "k_proj") if attention is not None]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def looking_loss(query_HNC: Tensor, key_HNC: Tensor, bounds: Sequence[int], seen_E3: Tensor) -> Tensor:
    """The negative logarithm of the share of attention that lies on a word's places, a mean over words and heads.

    Args:
        query_HNC, key_HNC: rotated.
        bounds: [S + 1], where the sequences begin and end; a position attends to those of its sequence up to itself.
        seen_E3: entries of LOOK: kind, position, visual token's position.
    """
    positions_P, row_E = torch.unique(seen_E3[:, 1], return_inverse=True)
    losses = []
    for first, last in zip(bounds, bounds[1:], strict=False):
        own = (positions_P >= first) & (positions_P < last)
        if not bool(own.any()):
            continue
        at_P = positions_P[own]
        inside = own[row_E]
        there = torch.zeros(len(at_P), last - first, dtype=torch.bool, device=at_P.device)
        there[torch.searchsorted(at_P, seen_E3[inside, 1]), seen_E3[inside, 2] - first] = True
        scores_HPL = query_HNC[:, at_P] @ key_HNC[:, first:last].transpose(1, 2) * query_HNC.shape[-1] ** -0.5
        later = torch.arange(first, last, device=at_P.device)[None] > at_P[:, None]
        shares_HPL = scores_HPL.float().masked_fill(later, -torch.inf).log_softmax(-1)
        losses.append(-shares_HPL.masked_fill(~there, -torch.inf).logsumexp(-1))
    return torch.cat(losses, dim=1).mean()


def seen_words_loss(logits_PV: Tensor, place_E: Tensor, tokens_E: Tensor, shares_E: Tensor) -> Tensor:
    """Cross entropy with the words of each position, a mean over the positions.

    Args:
        place_E: which of the positions an entry is about.
    """
    losses_E = -logits_PV.float().log_softmax(-1)[place_E, tokens_E]
    return (losses_E * shares_E).sum() / shares_E.sum().clamp_min(1e-6)
