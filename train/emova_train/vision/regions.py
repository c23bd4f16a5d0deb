"""What each cell of a picture shows: dense targets from annotated regions, and the heads that learn them.

A region is a text and a box around it. Every cell of a grid over the picture (the projector's visual tokens, the
tower's patches) shall name the tokenizer's tokens of the regions that lie on it, or say that nothing does. The classes
are only the tokens that occur in regions of the training pictures, so the heads stay small.

Shape letters: B pictures, M regions of a picture, S pixels a side, G cells a side, V cells of a grid, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from emova_train.data.recipe import Picture, Region

NOTHING = 0
LEAST_COVER = 1 / 16
"""Share of a cell that a region must cover to count there: a small digit on the corner of four cells just does."""


def region_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a region's text, with a space before it, as it stands inside a caption."""
    return list(tokenizer.encode(f" {text}", add_special_tokens=False, split_special_tokens=True))


class RegionClasses:
    """The tokens that regions are written in, as classes 1, 2, ...; class 0 is nothing.

    Args:
        pictures: the training pictures.
        tokenizer: text to ids.
    """

    def __init__(self, pictures: Sequence[Picture], tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, frozenset[int]] = {}
        self._bags: dict[str, np.ndarray] = {}
        counts: Counter[int] = Counter()
        for picture in pictures:
            counts.update(frozenset().union(*(self._tokens(region.text) for region in picture.regions)))
        self.tokens = tuple(sorted(counts))
        self._class = {token: number for number, token in enumerate(self.tokens, 1)}
        # As the bag loss weighs captions' tokens, but a token that all pictures share keeps a weight.
        self._rarity = np.log1p([len(pictures) / counts[token] for token in self.tokens]).astype(np.float32)

    def __len__(self) -> int:
        return 1 + len(self.tokens)

    def _tokens(self, text: str) -> frozenset[int]:
        if text not in self._known:
            self._known[text] = frozenset(region_tokens(text, self._tokenizer))
        return self._known[text]

    def bag(self, text: str) -> np.ndarray:
        """Weights of the classes in a region's text, [C]; tokens that training regions never had are left out."""
        if text not in self._bags:
            bag = np.zeros(len(self), np.float32)
            for token in self._tokens(text):
                number = self._class.get(token)
                if number is not None:
                    bag[number] = self._rarity[number - 1]
            self._bags[text] = bag
        return self._bags[text]


def boxes_in_square(regions: Sequence[Region], size: tuple[int, int], side: int) -> np.ndarray:
    """The boxes of regions in pixels after ``letterbox`` to ``side`` x ``side``, [M, 4].

    Args:
        size: width and height of the picture before.
    """
    boxes_M4 = np.array([region.box for region in regions], np.float32).reshape(-1, 4)
    scale = min(side / size[0], side / size[1])
    fitted = np.array([max(1, round(value * scale)) for value in size])
    return boxes_M4 * np.tile(fitted, 2) + np.tile((side - fitted) // 2, 2)


def _cover(low_M: np.ndarray, high_M: np.ndarray, source_S: np.ndarray, cells: int) -> np.ndarray:
    """The share of each cell's pixels, along one axis, that show a place between low and high: [M, G]."""
    inside_MS = (source_S + 0.5 >= low_M[:, None]) & (source_S + 0.5 < high_M[:, None])
    step = len(source_S) // cells
    return inside_MS[:, : step * cells].reshape(-1, cells, step).mean(-1, dtype=np.float32)


def cell_cover(boxes_M4: np.ndarray, rows_S: np.ndarray, columns_S: np.ndarray, cells: int) -> np.ndarray:
    """The share of each cell that each region covers, [M, G * G]; less than ``LEAST_COVER`` counts as nothing.

    Args:
        boxes_M4: left, top, right, bottom in pixels of the unvaried picture.
        rows_S, columns_S: which row and column of the unvaried picture each row and column now shows.
        cells: G.
    """
    down_MG = _cover(boxes_M4[:, 1], boxes_M4[:, 3], rows_S, cells)
    across_MG = _cover(boxes_M4[:, 0], boxes_M4[:, 2], columns_S, cells)
    cover_MV = (down_MG[:, :, None] * across_MG[:, None, :]).reshape(len(boxes_M4), cells * cells)
    return np.where(cover_MV >= LEAST_COVER, cover_MV, 0)


def cell_targets(
    boxes_M4: np.ndarray, bags_MC: np.ndarray, rows_S: np.ndarray, columns_S: np.ndarray, cells: int
) -> np.ndarray:
    """What the cells of one grid shall say.

    Args:
        boxes_M4, rows_S, columns_S, cells: as of ``cell_cover``.
        bags_MC: each region's class weights.

    Returns:
        [G * G, C], each row a distribution: the regions' classes by rarity and covered share, or all on ``NOTHING``.
    """
    wanted_VC = cell_cover(boxes_M4, rows_S, columns_S, cells).T @ bags_MC
    total_V1 = wanted_VC.sum(-1, keepdims=True)
    wanted_VC /= np.maximum(total_V1, 1e-6)
    wanted_VC[:, NOTHING] = total_V1[:, 0] == 0
    return wanted_VC


@dataclass(frozen=True)
class RegionTerms:
    """Scalars: the loss, and the share of covered cells whose likeliest class is one of theirs."""

    loss: Tensor
    right: Tensor


class ClassNames(nn.Module):
    """Features to classes by a direction that is learnt for each.

    Args:
        width: of the features.
        classes: C.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """[B, V, width] to logits [B, V, C]."""
        return self.out(self.norm(features))


class ClassWords(nn.Module):
    """Features to classes by a language model's own words: what is to name a class points where its token does.

    The language model then finds in a visual token the words that it knows, and needs not learn a second language
    from pictures alone.

    Args:
        words: the embeddings of ``RegionClasses.tokens``, [C - 1, width].
    """

    words: Tensor

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        count, width = words.shape
        self.register_buffer("words", functional.normalize(words.float(), dim=-1), persistent=False)
        self.nothing = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(1 + count))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """[B, V, width] to logits [B, V, C]."""
        shape_BVD = functional.rms_norm(features, features.shape[-1:])
        directions_CD = torch.cat([functional.normalize(self.nothing.weight, dim=-1), self.words])
        return self.scale * functional.linear(shape_BVD, directions_CD) + self.bias


class RegionHead(nn.Module):
    """Names what a cell shows, from its features alone.

    Args:
        names: features to logits; ``ClassNames`` or ``ClassWords``.
    """

    def __init__(self, names: nn.Module) -> None:
        super().__init__()
        self.names = names

    def forward(self, features: Tensor, wanted: Tensor) -> RegionTerms:
        """Features [B, V, width] against ``cell_targets`` [B, V, C].

        Cells with nothing weigh together at most as much as the covered ones; without any region the loss is 0.
        """
        logits_BVC = self.names(features).float()
        losses_BV = -(wanted * logits_BVC.log_softmax(-1)).sum(-1)
        empty_BV = wanted[..., NOTHING] > 0
        covered = (~empty_BV).sum()
        share = (covered / empty_BV.sum().clamp(min=1)).clamp(max=1)
        weights_BV = torch.where(empty_BV, share, torch.ones_like(share))
        loss = (weights_BV * losses_BV).sum() / weights_BV.sum().clamp(min=1e-6)
        hits_BV = wanted.gather(-1, logits_BVC.argmax(-1, keepdim=True))[..., 0] > 0
        return RegionTerms(loss, (hits_BV & ~empty_BV).sum() / covered.clamp(min=1))
