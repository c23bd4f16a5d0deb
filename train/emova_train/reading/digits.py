"""What units learn together: an FSQ unit's index has digits, and units that share one are drawn the same way.

Of 4,096 units most are rarely said. A vector for each value of each digit, added to the vectors of all units that have
it, carries what is learnt at one unit to its neighbours. It is folded into them after every step, so that the model
keeps its shape and an export knows nothing of it.

Shape letters: U units, S values of all digits, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from emova.core.errors import InputError


def digits_of_units(levels: Sequence[int]) -> Tensor:
    """``[U, S]`` float32, 1 where a unit's digit has a value: an index is the sum of digit * the levels before it."""
    units = torch.arange(prod(levels))
    places, columns = 1, []
    for level in levels:
        columns.append(torch.nn.functional.one_hot(units // places % level, level))
        places *= level
    return torch.cat(columns, dim=1).float()


class SharedDigits:
    """The vectors of the digits' values.

    Args:
        embedding: ``[V, D]``, the language model's.
        first_unit: the row of unit 0.
        codebook_size: U.
        levels: of the quantizer, whose product is U.

    Attributes:
        vectors: ``[S, D]``, what an optimizer moves.

    Raises:
        InputError: the levels are another codebook's.
    """

    def __init__(
        self, embedding: torch.nn.Parameter, first_unit: int, codebook_size: int, levels: Sequence[int]
    ) -> None:
        if prod(levels) != codebook_size:
            raise InputError(
                f"digits={list(levels)}: they make {prod(levels)} units, and the model has {codebook_size}"
            )
        self._embedding, self._rows = embedding, slice(first_unit, first_unit + codebook_size)
        self._digits_US = digits_of_units(levels).to(embedding.device)
        self.vectors = torch.nn.Parameter(embedding.new_zeros(self._digits_US.shape[1], embedding.shape[1]))

    def collect(self) -> None:
        """The gradient of the vectors, from that of the embedding."""
        assert self._embedding.grad is not None, "after the backward pass"
        self.vectors.grad = self._digits_US.T @ self._embedding.grad[self._rows]

    @torch.no_grad()
    def fold(self) -> None:
        """Add what a step moved to the units; the vectors are zero again."""
        self._embedding[self._rows] += self._digits_US @ self.vectors
        self.vectors.zero_()
