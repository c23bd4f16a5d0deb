"""What decoders from units to sound have in common: the check of their units, and a stream that is fed and then speaks.

Shapes: B batch, N new units, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emova.core.errors import InputError


def check_units(units_BN: Tensor, codebook_size: int) -> None:
    """See that units lie in [0, codebook_size). Raises: InputError: one does not."""
    if units_BN.numel() and not (int(units_BN.min()) >= 0 and int(units_BN.max()) < codebook_size):
        raise InputError(f"a unit lies outside 0..{codebook_size - 1}; the units belong to another tokenizer")


class UnitStream:
    """A ``SpeechStream`` but for ``add`` and ``speak``."""

    def __init__(self) -> None:
        self._finished = False

    @torch.no_grad()
    def step(self, units_BN: Tensor) -> Tensor:
        """Take ``[B, N]`` new units; give the samples ``[B, t]`` that are certain by now."""
        assert not self._finished, "the stream is finished"
        self.add(units_BN)
        return self.speak(ended=False)

    @torch.no_grad()
    def finish(self, units_BN: Tensor | None = None) -> Tensor:
        """Take the last units, if there are more; give the remaining samples ``[B, t]``."""
        assert not self._finished, "the stream is finished"
        self._finished = True
        if units_BN is not None:
            self.add(units_BN)
        return self.speak(ended=True)

    def add(self, units_BN: Tensor) -> None:
        """Keep new units. Raises: InputError: one is none of this voice."""
        raise NotImplementedError

    def speak(self, ended: bool) -> Tensor:
        """The samples ``[B, t]`` that are certain and were not given yet; all of them if the units ended."""
        raise NotImplementedError
