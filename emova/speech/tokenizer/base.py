"""What speech tokenizers that are torch modules have in common: whole units from recordings of any length, their
folder, and a stream for those that cannot hear bit by bit.

Shapes: B batch, T samples, U units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.core.weights import load_state, read_folder, save_folder
from emova.speech.tokenizer.protocol import TokenizerStream

ConfigT = TypeVar("ConfigT")


class TokenizerModule(nn.Module, Generic[ConfigT]):
    """A ``SpeechTokenizer`` but for ``indices`` and ``codebook_size``; built as ``Tokenizer(config)``.

    Attributes:
        config_class: a frozen dataclass whose fields ``config.json`` holds; its ``kind`` is what it is registered by.
        unit_samples: samples a unit.
        optional: beginnings of tensor names that a folder may lack: parts for training and measuring alone.
    """

    config_class: ClassVar[type]
    unit_samples: int
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return 16_000

    @property
    def unit_rate(self) -> float:
        """Units a second."""
        return self.sample_rate / self.unit_samples

    @property
    def codebook_size(self) -> int:
        """How many units there are."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def indices(self, samples_BT: Tensor, units_B: Tensor) -> Tensor:
        """The units of samples that ``padded`` filled up, ``[B, U]`` int64; behind ``units_B`` they mean nothing."""
        raise NotImplementedError

    def padded(self, samples_BT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Silence up to a whole number of units, and the number of units of each row."""
        if samples_BT.dim() != 2:
            raise InputError(f"samples have shape {list(samples_BT.shape)}; the tokenizer takes [batch, samples]")
        if lengths_B is None:
            lengths_B = torch.full((samples_BT.shape[0],), samples_BT.shape[1], device=samples_BT.device)
        units_B = -(-lengths_B // self.unit_samples)
        inside = torch.arange(samples_BT.shape[1], device=samples_BT.device)[None] < lengths_B[:, None]
        wanted = int(units_B.max()) * self.unit_samples if len(units_B) else 0
        samples_BT = (samples_BT.float() * inside)[:, :wanted]
        return functional.pad(samples_BT, (0, wanted - samples_BT.shape[1])), units_B

    @torch.inference_mode()
    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """``[B, T]`` samples, of which the first ``lengths[b]`` count, to ceil(length / unit_samples) units a row.

        A row's units do not depend on what else is in the batch.

        Raises:
            InputError: ``samples`` is not two-dimensional.
        """
        padded_BT, units_B = self.padded(samples, lengths)
        if padded_BT.shape[1] == 0:
            return [torch.zeros(0, dtype=torch.long, device=samples.device) for _ in units_B]
        indices_BU = self.indices(padded_BT, units_B)
        return [row[:count].clone() for row, count in zip(indices_BU, units_B.tolist(), strict=True)]

    def streaming(self, batch_size: int = 1) -> AbstractContextManager[TokenizerStream]:
        """Units while the recording goes on. Here they all come at its end; kinds that can do better override this."""
        return _waiting(self, batch_size)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder that ``save_pretrained`` wrote, ready for inference.

        Raises:
            InputError: a file is missing, damaged, or does not match the config.
        """
        values, state = read_folder(folder)
        model = cls(config_from_dict(cls.config_class, values, Path(folder) / "config.json"))
        load_state(model, state, folder, optional=cls.optional)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_folder(folder, self.config, self.state_dict())


class WaitingStream:
    """Keeps the samples of recordings that advance together, and gives all units when they have ended.

    Args:
        model: what encodes them.
    """

    def __init__(self, model: TokenizerModule[ConfigT], batch_size: int) -> None:
        self._model = model
        self._heard_BT: Tensor | None = torch.zeros(batch_size, 0, device=model.device)

    def step(self, samples: Tensor) -> Tensor:
        """Take ``[B, T]`` samples (any T >= 0); give no units yet, ``[B, 0]``.

        Raises:
            InputError: the batch size differs, or the stream has ended.
        """
        if self._heard_BT is None:
            raise InputError("the stream of units has ended; open a new one with streaming()")
        if samples.dim() != 2 or samples.shape[0] != len(self._heard_BT):
            raise InputError(f"samples have shape {list(samples.shape)}; this stream takes [{len(self._heard_BT)}, T]")
        self._heard_BT = torch.cat([self._heard_BT, samples.float()], dim=1)
        return torch.zeros(len(samples), 0, dtype=torch.long, device=samples.device)

    def finish(self) -> Tensor:
        """End the recordings: their units, ``[B, U]``."""
        if self._heard_BT is None:
            raise InputError("the stream of units has ended; open a new one with streaming()")
        heard_BT, self._heard_BT = self._heard_BT, None
        return torch.stack(self._model.encode(heard_BT))


@contextmanager
def _waiting(model: TokenizerModule[ConfigT], batch_size: int) -> Iterator[WaitingStream]:
    yield WaitingStream(model, batch_size)
