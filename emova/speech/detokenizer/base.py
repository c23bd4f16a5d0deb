"""What decoders from units to sound have in common: the check of their units, their folder, and a stream that is fed
and then speaks.

Shapes: B batch, N new units, T samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.core.weights import Storage, build_part, load_state, read_folder, save_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT", bound="DataclassInstance")


def check_units(units_BN: Tensor, codebook_size: int) -> None:
    """See that units lie in [0, codebook_size). Raises: InputError: one does not."""
    if units_BN.numel() and not (int(units_BN.min()) >= 0 and int(units_BN.max()) < codebook_size):
        raise InputError(f"a unit lies outside 0..{codebook_size - 1}; the units belong to another tokenizer")


class DetokenizerModule(nn.Module, Generic[ConfigT]):
    """A ``SpeechDetokenizer`` but for its sizes, ``embed_style``, ``decode`` and ``streaming``; built as
    ``Detokenizer(config)``.

    Attributes:
        config_class: a frozen dataclass whose fields ``config.json`` holds; its ``kind`` is what it is registered by.
        storage: of the weights, where nothing else is asked for.
    """

    config_class: ClassVar[type]
    storage: ClassVar[Storage] = "float32"

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path, storage: Storage | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_folder(folder, self.config, self.state_dict(), storage or self.storage)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what ``save_pretrained`` wrote, ready for inference.

        Raises:
            InputError: a file is missing or damaged, or config and weights differ.
        """
        values, state = read_folder(folder)
        config: ConfigT = config_from_dict(cls.config_class, values, Path(folder) / "config.json")
        detokenizer = build_part(cls, config, folder)
        load_state(detokenizer, state, folder)
        return detokenizer.eval()


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
