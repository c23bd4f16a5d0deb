"""The loss of the next token: cross entropy at the positions that teach something, weighted by what they teach.

Shape letters: N positions of the row, K positions with a loss, V tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emova_train.data.examples import KINDS, MODALITIES, NOTHING, PROMPT_UNITS


@dataclass(frozen=True)
class LossWeights:
    """How much a position of each kind counts; the loss is divided by the sum of the weights."""

    text: float = 1.0
    """A plain answer."""
    transcript: float = 1.0
    answer: float = 1.0
    """The answer's text inside a spoken reply."""
    style: float = 1.0
    units: float = 0.5
    """Speech that the assistant says: many tokens, each with little news."""
    skeleton: float = 0.1
    """A reply's keys and punctuation, which the grammar writes at inference anyway."""
    prompt_units: float = 0.0
    """Speech that the assistant hears."""
    prompt_text: float = 0.0
    prompt_share: float = 1.0
    """The share of prompt positions, drawn anew each time, that the loss is taken at: the vocabulary head costs a
    quarter of a step, and a prompt's tokens are many."""

    def table(self) -> np.ndarray:
        """[len(KINDS)] float32"""
        return np.asarray([getattr(self, kind) for kind in KINDS], np.float32)

    def __call__(self, kinds_N: np.ndarray) -> np.ndarray:
        """The weight of each position [N]; the prompts' are drawn with numpy's generator, which the loop seeds."""
        weight = np.where(kinds_N == NOTHING, 0.0, self.table()[kinds_N])
        if self.prompt_share < 1:
            left_out = np.random.random(len(weight)) >= self.prompt_share
            weight[left_out & (kinds_N >= PROMPT_UNITS)] = 0.0
        return weight


def token_loss(logits_KV: Tensor, batch: Mapping[str, Tensor], *, accuracy: bool) -> dict[str, Tensor]:
    """``loss``, the weighted mean; the plain mean of each kind by its name; ``loss_*``, a modality's weighted mean.

    Args:
        batch: of ``emova_train.data.packing.collate``.
        accuracy: also ``*_accuracy``, the share of each kind's tokens that are the likeliest.
    """
    losses_K = functional.cross_entropy(logits_KV.float(), batch["targets"], reduction="none")
    weights_K = batch["weights"]
    terms = {"loss": (losses_K * weights_K).sum() / weights_K.sum().clamp_min(1e-6)}
    plain_K = losses_K.detach()
    for kind in torch.unique(batch["kinds"]).tolist():
        chosen = batch["kinds"] == kind
        terms[KINDS[kind]] = plain_K[chosen].mean()
        if accuracy:
            right = logits_KV[chosen].argmax(-1) == batch["targets"][chosen]
            terms[f"{KINDS[kind]}_accuracy"] = right.float().mean()
    for modality in torch.unique(batch["modalities"]).tolist():
        own_K = weights_K * (batch["modalities"] == modality)
        terms[f"loss_{MODALITIES[modality]}"] = (plain_K * own_K).sum() / own_K.sum()
    return terms
