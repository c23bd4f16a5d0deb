"""What is seen where, asked of the language model's middle: the words of a picture's regions at its visual tokens.

A question for the value beside a name is answered in two steps: find the name, then what belongs to it. A small model
that learns from answers alone takes neither, since one is worth nothing without the other; it counts off what it lists
in order, and guesses. So a middle layer is asked, at each visual token, for all the words of the regions that lie there
(the recipe joins what belongs together: a row's name and its score), and at each such word in the text for what else is
in its region, which some heads of the layer before are told where to find (as in Liu et al. 2016, Neural Machine
Translation with Supervised Attention). The answer is then one look away. It is to pictures what
``emova_train.stages.losses.ctc`` is to speech, and like it has no weights of its own.

Shape letters: N positions of the row, E entries, P their positions, G cells a side, M regions, V text tokens, H heads,
C head width, S sequences, L positions of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import emova.core.compat  # noqa: F401

# isort: split
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.data.examples import Example, ShownPicture
from emova_train.stages.losses.auxiliary import Ask, AuxiliaryLoss, HiddenStates, check_layer
from emova_train.vision.regions import boxes_in_square, cell_cover, region_tokens

PLACE, WORD, LOOK = range(3)
"""Kinds of entries: what a visual token shows, what belongs to a word of the text, and where that word is drawn."""


@dataclass(frozen=True)
class GroundingConfig:
    """The losses' weight over that of the replies, 0 for none; the layers before each of the two questions; how many
    heads of the last of them look from a word at its places."""

    weight: float = 0.0
    layer: int = 3
    word_layer: int = 4
    heads: int = 2

    def __post_init__(self) -> None:
        if self.weight < 0 or not 1 <= self.layer <= self.word_layer or self.heads < 0:
            raise InputError(
                f"losses.grounding: weight={self.weight}, layer={self.layer}, word_layer={self.word_layer}, "
                f"heads={self.heads}; give 0 or more, 1 or more, at least as many, and 0 or more"
            )

    def build(self, model: EmovaForConditionalGeneration, processor: EmovaProcessor) -> Grounding:
        """The loss for a model and the processor that renders its conversations."""
        check_layer("losses.grounding.word_layer", self.word_layer, model)
        heads = model.config.text_config.num_attention_heads
        if self.heads > heads:
            raise InputError(
                f"losses.grounding.heads={self.heads}: the language model has {heads} in a layer; give at most these"
            )
        return Grounding(self, processor)


class Grounding(AuxiliaryLoss):
    """The three terms; a batch has ``grounding`` [E, 3] (kind, position, target) and ``grounding_shares`` [E]."""

    name = "grounding"

    def __init__(self, config: GroundingConfig, processor: EmovaProcessor) -> None:
        self.weight = config.weight
        self.config = config
        self.processor = processor
        self.tokens_of = functools.cache(functools.partial(region_tokens, tokenizer=processor.tokenizer))
        self._projected: dict[str, Tensor] = {}

    def of(self, example: Example) -> GroundingTargets:
        """What the positions of one conversation see."""
        if example.shown is None:
            return GroundingTargets.none()
        side, image = self.processor.image_processor.tile_side, self.processor.token_ids.image
        return grounding_targets(example.ids, example.shown, side, image, self.tokens_of)

    def targets(self, examples: Sequence[Example], bounds: np.ndarray) -> dict[str, Tensor]:
        entries, shares = [], []
        for each, first in zip(examples, bounds, strict=False):
            own = self.of(each)
            moved = own.targets + np.where(own.kinds == LOOK, first, 0)
            entries.append(np.stack([own.kinds, own.positions + first, moved], axis=1))
            shares.append(own.shares)
        return {
            "grounding": torch.from_numpy(np.concatenate(entries)),
            "grounding_shares": torch.from_numpy(np.concatenate(shares)),
        }

    @contextmanager
    def observe(self, model: EmovaForConditionalGeneration) -> Iterator[None]:
        """Keep the queries and keys of the layer whose heads learn to look."""
        if not self.config.heads:
            yield
            return
        attention = self._attention(model)
        with projections(attention) as self._projected:
            yield

    def asks(self, batch: Mapping[str, Tensor]) -> list[Ask]:
        entries_E3 = batch["grounding"]
        return [
            (layer, torch.unique(entries_E3[entries_E3[:, 0] == kind, 1]))
            for kind, layer in ((PLACE, self.config.layer), (WORD, self.config.word_layer))
        ]

    def __call__(self, states: HiddenStates, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        entries_E3, shares_E, config = batch["grounding"], batch["grounding_shares"], self.config
        terms: dict[str, Tensor] = {}
        for name, kind, logits in zip(("places", "words"), (PLACE, WORD), states.logits, strict=True):
            own = entries_E3[:, 0] == kind
            if bool(own.any()):
                _, row_E = torch.unique(entries_E3[own, 1], return_inverse=True)
                text_PV = logits[:, : states.model.config.pad_token_id]  # text tokens lie below it
                terms[f"grounding_{name}"] = naming_loss(text_PV, row_E, entries_E3[own, 2], shares_E[own])
        own = entries_E3[:, 0] == LOOK
        if config.heads and bool(own.any()):
            query_HNC, key_HNC = self._rotated(states.model)
            terms["grounding_attention"] = attention_loss(
                query_HNC, key_HNC, batch["cu_seq_lens"].tolist(), entries_E3[own]
            )
        self._projected = {}
        return terms

    def _attention(self, model: EmovaForConditionalGeneration) -> nn.Module:
        return model.model.language_model.layers[self.config.word_layer - 1].self_attn

    def _rotated(self, model: EmovaForConditionalGeneration) -> tuple[Tensor, Tensor]:
        """Queries and keys of the layer's first heads as it compares them, [H, N, C] each.

        The rotation counts from the row's beginning: within a sequence only distances matter.
        """
        width = self._attention(model).head_dim
        assert isinstance(width, int)
        query, key = (self._projected[name].unflatten(-1, (-1, width)).transpose(1, 2) for name in ("q_proj", "k_proj"))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        places = torch.arange(query.shape[2], device=query.device)[None]
        cosine, sine = model.model.language_model.rotary_emb(query, places)
        heads = self.config.heads
        query, key = apply_rotary_pos_emb(query[:, :heads], key[:, :heads], cosine, sine)
        return query[0], key[0]


@dataclass(frozen=True)
class GroundingTargets:
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
    def none(cls) -> GroundingTargets:
        """Nothing to be named."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty, np.zeros(0, np.float32))


def grounding_targets(
    ids: np.ndarray, shown: ShownPicture, side: int, image_token: int, tokens_of: Callable[[str], Sequence[int]]
) -> GroundingTargets:
    """What a rendered conversation's positions see of its picture's regions.

    Args:
        ids: [N], with one picture of one tile; with another number of visual tokens nothing is seen.
        side: G, visual tokens a side of the tile.
        image_token: the placeholder's id.
        tokens_of: the tokens of a region's text.
    """
    places = np.flatnonzero(ids == image_token)
    if not shown.regions or len(places) != side * side:
        return GroundingTargets.none()
    words = [tokens_of(region.text) for region in shown.regions]
    straight = np.arange(16 * side)
    cover_MP = cell_cover(boxes_in_square(shown.regions, shown.size, len(straight)), straight, straight, side)
    found: dict[tuple[int, int, int], float] = {}
    for tokens, cover_P in zip(words, cover_MP, strict=True):
        for place in np.flatnonzero(cover_P):
            for token in tokens:
                entry = (PLACE, int(places[place]), token)
                found[entry] = found.get(entry, 0.0) + float(cover_P[place])
    cover_of = {region.box: cover_P for region, cover_P in zip(shown.regions, cover_MP, strict=True)}
    for word, (others, box) in _beside(words, shown).items():
        for position in _ends(word, ids, int(places[-1]) + 1):
            for token in others:
                found[WORD, position, token] = 1.0
            for place in np.flatnonzero(cover_of[box]):
                found[LOOK, position, int(places[place])] = float(cover_of[box][place])
    if not found:
        return GroundingTargets.none()
    kinds, positions, targets = (np.asarray(column, np.int64) for column in zip(*found, strict=True))
    shares = np.asarray(list(found.values()), np.float32)
    total = np.zeros((3, len(ids)), np.float32)
    np.add.at(total, (kinds, positions), shares)
    return GroundingTargets(kinds, positions, targets, shares / total[kinds, positions])


Box = tuple[float, float, float, float]
Word = tuple[int, ...]


def _beside(words: Sequence[Sequence[int]], shown: ShownPicture) -> dict[Word, tuple[set[int], Box]]:
    """For each word, as its tokens, that one box alone has: the tokens of the others in the box, and the box."""
    boxes: dict[Box, list[Word]] = {}
    for tokens, region in zip(words, shown.regions, strict=True):
        boxes.setdefault(region.box, []).append(tuple(tokens))
    where: dict[Word, list[tuple[set[int], Box]]] = {}
    for box, own in boxes.items():
        for word in own:
            where.setdefault(word, []).append(({token for other in own if other != word for token in other}, box))
    return {word: found[0] for word, found in where.items() if len(found) == 1 and found[0][0]}


def _ends(word: Word, ids: np.ndarray, start: int) -> list[int]:
    """The positions from ``start`` on of the last tokens of each ``word`` in ``ids``."""
    firsts = np.flatnonzero(ids[start : len(ids) - len(word) + 1] == word[0]) + start
    return [int(first) + len(word) - 1 for first in firsts if tuple(ids[first : first + len(word)]) == word]


@contextmanager
def projections(attention: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What an attention's ``q_proj`` and ``k_proj`` give in the forward pass inside, [1, N, heads * C] each."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> RemovableHandle:
        return attention.get_submodule(name).register_forward_hook(lambda _, __, out: found.__setitem__(name, out))

    handles = [keep(name) for name in ("q_proj", "k_proj")]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention_loss(query_HNC: Tensor, key_HNC: Tensor, bounds: Sequence[int], entries_E3: Tensor) -> Tensor:
    """The negative logarithm of the share of attention that lies on a word's places, a mean over words and heads.

    Args:
        query_HNC, key_HNC: rotated.
        bounds: [S + 1], where the sequences begin and end; a position attends to those of its sequence up to itself.
        entries_E3: entries of LOOK: kind, position, visual token's position.
    """
    positions_P, row_E = torch.unique(entries_E3[:, 1], return_inverse=True)
    losses = []
    for first, last in zip(bounds, bounds[1:], strict=False):
        own = (positions_P >= first) & (positions_P < last)
        if not bool(own.any()):
            continue
        at_P = positions_P[own]
        inside = own[row_E]
        there = torch.zeros(len(at_P), last - first, dtype=torch.bool, device=at_P.device)
        there[torch.searchsorted(at_P, entries_E3[inside, 1]), entries_E3[inside, 2] - first] = True
        scores_HPL = query_HNC[:, at_P] @ key_HNC[:, first:last].transpose(1, 2) * query_HNC.shape[-1] ** -0.5
        later = torch.arange(first, last, device=at_P.device)[None] > at_P[:, None]
        shares_HPL = scores_HPL.float().masked_fill(later, -torch.inf).log_softmax(-1)
        losses.append(-shares_HPL.masked_fill(~there, -torch.inf).logsumexp(-1))
    return torch.cat(losses, dim=1).mean()


def naming_loss(logits_PV: Tensor, place_E: Tensor, tokens_E: Tensor, shares_E: Tensor) -> Tensor:
    """Cross entropy with the words of each position, a mean over the positions.

    Args:
        place_E: which of the positions an entry is about.
    """
    losses_E = -logits_PV.float().log_softmax(-1)[place_E, tokens_E]
    return (losses_E * shares_E).sum() / shares_E.sum().clamp_min(1e-6)
