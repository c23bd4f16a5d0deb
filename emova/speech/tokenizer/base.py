"""What speech tokenizers that are torch modules have in common: whole units from recordings of any length, their
folder, and a stream for those that cannot hear bit by bit.

Shapes: B batch, T samples, U units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.config import config_from_dict
from emova.core.errors import InputError
from emova.core.weights import build_part, load_state, read_folder, save_folder
from emova.speech.tokenizer.protocol import TokenizerStream

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT", bound="DataclassInstance")


class TokenizerModule(nn.Module, Generic[ConfigT]):
    """A ``SpeechTokenizer`` but for ``indices`` and ``codebook_size``; built as ``Tokenizer(config)``.

    Attributes:
        config_class: a frozen dataclass whose fields ``config.json`` holds; its ``kind`` is what it is registered by.
        unit_samples: samples a unit.
        optional: beginnings of the names of tensors that a folder may lack; units are made without them.
        absent: the names of those that the folder did lack.
    """

    config_class: ClassVar[type]
    unit_samples: int
    optional: ClassVar[tuple[str, ...]] = ()
    absent: frozenset[str] = frozenset()

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
        model = build_part(cls, config_from_dict(cls.config_class, values, Path(folder) / "config.json"), folder)
        model.absent = load_state(model, state, folder, optional=cls.optional)
        return model.eval()

    def own_state(self) -> dict[str, Tensor]:
        """Its weights, without those that its folder lacked: they are random."""
        return {name: tensor for name, tensor in self.state_dict().items() if name not in self.absent}

    def _lacks(self, part: str) -> bool:
        """Whether its folder had nothing of a part, by the beginning of its names."""
        names = {name for name in self.state_dict() if name.startswith(part)}
        return bool(names) and names <= self.absent

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_folder(folder, self.config, self.own_state())


class RecordingStream:
    """A ``TokenizerStream`` but for ``advance``: recordings that advance together, and what later units need of them.

    Args:
        batch_size: B.
        device: where the samples are kept.
        lead: samples of silence in front of the first.

    Attributes:
        pending_BT: the samples that are kept; ``advance`` drops what no later unit needs.
        taken: samples of each recording so far.
        ended: whether they are over.
    """

    def __init__(self, batch_size: int, device: torch.device, lead: int = 0) -> None:
        self.pending_BT = torch.zeros(batch_size, lead, device=device)
        self.taken = 0
        self.ended = False

    @torch.inference_mode()
    def step(self, samples: Tensor) -> Tensor:
        """Take ``[B, T]`` samples (any T >= 0), give the units that are now certain, ``[B, U]`` int64.

        Raises:
            InputError: the batch size differs, or the stream has ended.
        """
        self._check_open()
        if samples.dim() != 2 or samples.shape[0] != len(self.pending_BT):
            raise InputError(f"samples have shape {list(samples.shape)}; this stream takes [{len(self.pending_BT)}, T]")
        self.taken += samples.shape[1]
        self.pending_BT = torch.cat([self.pending_BT, samples.float()], dim=1)
        return self.advance()

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """End the recordings: the remaining units, ``[B, U]``.

        Raises:
            InputError: the stream has ended.
        """
        self._check_open()
        self.ended = True
        return self.advance()

    def advance(self) -> Tensor:
        """The units ``[B, U]`` that are certain and were not given yet; all of them if ``ended``."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self.ended:
            raise InputError("the stream of units has ended; open a new one with streaming()")


class WaitingStream(RecordingStream):
    """Keeps the recordings, and gives all units when they have ended.

    Args:
        model: what encodes them.
        batch_size: B.
    """

    def __init__(self, model: TokenizerModule[ConfigT], batch_size: int) -> None:
        super().__init__(batch_size, model.device)
        self._model = model

    def advance(self) -> Tensor:
        if not self.ended:
            return torch.zeros(len(self.pending_BT), 0, dtype=torch.long, device=self.pending_BT.device)
        heard_BT, self.pending_BT = self.pending_BT, self.pending_BT[:, :0]
        return torch.stack(self._model.encode(heard_BT))


@contextmanager
def _waiting(model: TokenizerModule[ConfigT], batch_size: int) -> Iterator[WaitingStream]:
    yield WaitingStream(model, batch_size)
