"""What is seen where, asked of the language model's middle: the words of a picture's marks at its visual tokens.

A question for the value beside a name is answered in two steps: find the name, then what belongs to it. A small model
that learns from answers alone takes neither, since one is worth nothing without the other; it counts off what it lists
in order, and guesses. So a middle layer is asked, at each visual token, for all the words of the marks that lie there
(``data_recipes.nano.pictures.marks`` joins what belongs together: a row's name and its score), and at each such word in
the text for what else is in its mark. Both have one right answer at many positions, and the answer is then one look
away. It is to pictures what ``train.heard_text`` is to speech, and like it has no weights of its own.

Shape letters: N positions of the row, E entries, P their positions, G cells a side, M marks, V text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from emova.errors import InputError
from train.recipe_data import Picture
from train.vision_marks import boxes_in_square, cell_cover, mark_tokens

PLACE, WORD = range(2)
"""Kinds of entries: at a visual token, and at a word of the text."""


@dataclass(frozen=True)
class SeenWordsConfig:
    """The loss's weight over that of the replies, 0 for none; the layers before each of its two questions."""

    weight: float = 0.0
    layer: int = 3
    word_layer: int = 4

    def __post_init__(self) -> None:
        if self.weight < 0 or not 1 <= self.layer <= self.word_layer:
            raise InputError(
                f"seen_words: weight={self.weight}, layer={self.layer}, word_layer={self.word_layer}; give 0 or more, "
                "1 or more, and at least as many"
            )


@dataclass(frozen=True)
class SeenWords:
    """What is to be named where.

    Attributes:
        kinds: [E], PLACE or WORD.
        positions: [E], in the sequence.
        tokens: [E], the text token.
        shares: [E]; those of a position sum to one.
    """

    kinds: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray
    shares: np.ndarray

    @classmethod
    def none(cls) -> SeenWords:
        """Nothing to be named."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty, np.zeros(0, np.float32))

    def before(self, length: int) -> SeenWords:
        """Those of the first ``length`` positions."""
        kept = self.positions < length
        return SeenWords(self.kinds[kept], self.positions[kept], self.tokens[kept], self.shares[kept])


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
    beside = _beside(marked, picture)
    for position in np.flatnonzero(np.isin(ids, list(beside))):
        if position > places[-1]:
            for token in beside[int(ids[position])]:
                found[WORD, int(position), token] = 1.0
    if not found:
        return SeenWords.none()
    kinds, positions, tokens_E = (np.asarray(column, np.int64) for column in zip(*found, strict=True))
    shares = np.asarray(list(found.values()), np.float32)
    total = np.zeros(len(ids), np.float32)
    np.add.at(total, positions, shares)
    return SeenWords(kinds, positions, tokens_E, shares / total[positions])


def _beside(marked: Sequence[Sequence[int]], picture: Picture) -> dict[int, set[int]]:
    """For each word of one token that one box alone has: the others of its box."""
    boxes: dict[tuple[float, ...], set[int]] = {}
    for tokens, mark in zip(marked, picture.marks, strict=True):
        if len(tokens) == 1:
            boxes.setdefault(mark.box, set()).add(tokens[0])
    where: dict[int, list[set[int]]] = {}
    for words in boxes.values():
        for word in words:
            where.setdefault(word, []).append(words - {word})
    return {word: others[0] for word, others in where.items() if len(others) == 1 and others[0]}


def seen_words_loss(logits_PV: Tensor, place_E: Tensor, tokens_E: Tensor, shares_E: Tensor) -> Tensor:
    """Cross entropy with the words of each position, a mean over the positions.

    Args:
        place_E: which of the positions an entry is about.
    """
    losses_E = -logits_PV.float().log_softmax(-1)[place_E, tokens_E]
    return (losses_E * shares_E).sum() / shares_E.sum().clamp_min(1e-6)
