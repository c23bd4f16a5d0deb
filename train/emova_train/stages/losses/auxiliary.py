"""What a loss beside that of the tokens is: a name, a weight, and a function of the hidden states and the batch.

``emova_train.stages.losses.packed`` adds them up and knows none of them. To add one, write it in a file of its own and
name its config in ``emova_train.stages.losses.registry.LossesConfig``.

Shape letters: N positions of the row, S sequences, K positions that are asked, D width, V tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.data.examples import Example

Ask = tuple[int, Tensor]
"""A layer of the language model, and the positions [K] of the row whose scores of the vocabulary a loss wants there."""


@dataclass(frozen=True)
class HiddenStates:
    """What a forward pass over a packed row left behind for one loss.

    Attributes:
        model: that made it.
        layers: [1, N, D] each: the embeddings, then what each layer of the language model gave.
        logits: [K, V] of the vocabulary head for each ``Ask`` of the loss.
    """

    model: EmovaForConditionalGeneration
    layers: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


class AuxiliaryLoss(Protocol):
    """A loss that joins that of the tokens in training, and is logged in validation too."""

    name: str
    weight: float

    def targets(self, examples: Sequence[Example], bounds: np.ndarray) -> dict[str, Tensor]:
        """What it adds to a batch: tensors by names of its own, positions counted from the row's beginning.

        Args:
            bounds: [S + 1], where the examples begin and end in the row.
        """
        ...

    def observe(self, model: EmovaForConditionalGeneration) -> AbstractContextManager[None]:
        """Around the forward pass, for what the hidden states alone do not show."""
        return nullcontext()

    def asks(self, batch: Mapping[str, Tensor]) -> list[Ask]:
        """Where it wants the scores of the vocabulary, as many in every batch, with no positions if need be."""
        return []

    def __call__(self, states: HiddenStates, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its scalar terms by the names that they are logged with; none where the batch holds nothing for it."""
        ...


class AuxiliaryConfig(Protocol):
    """The config of a loss: a frozen dataclass whose ``weight`` is 0 where the loss is not taken."""

    @property
    def weight(self) -> float: ...

    def build(self, model: EmovaForConditionalGeneration, processor: EmovaProcessor) -> AuxiliaryLoss:
        """The loss for a model. Raises: InputError: the model has no such layer."""
        ...


def check_layer(key: str, layer: int, model: EmovaForConditionalGeneration) -> None:
    """Raises: InputError: ``layer``, which the config calls ``key``, is not one before the model's last."""
    depth = model.config.text_config.num_hidden_layers
    if layer >= depth:
        raise InputError(
            f"{key}={layer}: the language model has {depth} layers and the loss is taken before the last; "
            f"give 1 to {depth - 1}, or {key.rpartition('.')[0]}.weight=0"
        )
