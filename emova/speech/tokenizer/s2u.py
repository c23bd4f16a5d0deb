"""The speech-to-unit tokenizer (S2U): log-mel, SPIRAL-style encoder, FSQ (EMOVA section 3.2 and A.1).

Only what is said is quantised; how it is said leaves by another way (the style label). One unit is 40 ms.

Shapes: B batch, T samples, M mel bins, F frames, U units, D encoder width, C dimensions of a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.core.weights import Storage, save_folder
from emova.speech.features import MelConfig
from emova.speech.tokenizer.base import RecordingStream
from emova.speech.tokenizer.mel_tokenizer import MelTokenizer
from emova.speech.tokenizer.phone_decoder import PhoneDecoder, PhoneDecoderConfig
from emova.speech.tokenizer.phones import PHONES, PhoneInventory
from emova.speech.tokenizer.quantizers import EvenProjection, FiniteScalarQuantizer
from emova.speech.tokenizer.spiral import EncoderState, SpiralConvConfig, SpiralEncoder, SpiralStage, SpiralStageConfig


def _nano_stages() -> list[SpiralStageConfig]:
    return [
        SpiralStageConfig(
            [SpiralConvConfig(384, 3, 1), SpiralConvConfig(384, 3, 2)], layers=4, heads=6, ffn=1536, positions=True
        ),
        SpiralStageConfig([SpiralConvConfig(384, 2, 2)], layers=2, heads=6, ffn=1024),
    ]


@dataclass(frozen=True)
class S2UConfig:
    """The defaults are emova-nano's: the first stage has the shape of Whisper tiny's encoder."""

    mel: MelConfig = field(default_factory=MelConfig)
    stages: list[SpiralStageConfig] = field(default_factory=_nano_stages)
    block_units: int = 24  # 0.96 s that attend to each other
    left_blocks: int = 5  # blocks before it that a block sees
    levels: list[int] = field(default_factory=lambda: [8, 8, 8, 8])
    bottleneck: int = 0  # width of a layer before the code's dimensions; 0 = none
    decoder: PhoneDecoderConfig = field(default_factory=PhoneDecoderConfig)
    kind: str = "s2u"
    phones: list[str] = field(default_factory=lambda: list(PHONES))
    """What the phone decoder tells apart; adding a language is adding its phones here."""

    def __post_init__(self) -> None:
        PhoneInventory(tuple(self.phones))
        if self.kind != "s2u":
            raise InputError(f"kind={self.kind}: these are the fields of s2u; give kind=s2u")


class S2UTokenizer(MelTokenizer[S2UConfig]):
    """Speech to units, whole or as a stream; a ``SpeechTokenizer``."""

    config_class: ClassVar = S2UConfig
    optional: ClassVar = ("phone_decoder.",)

    def __init__(self, config: S2UConfig) -> None:
        super().__init__(config, config.mel)
        self.encoder = SpiralEncoder(config.mel.n_mels, config.stages, config.block_units, config.left_blocks)
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.project = EvenProjection(self.encoder.width, self.quantizer.dim, config.bottleneck)
        self.inventory = PhoneInventory(tuple(config.phones))
        self.phone_decoder = PhoneDecoder(
            self.quantizer.dim, config.decoder, config.block_units, config.left_blocks, self.inventory.classes
        )
        self.unit_samples = config.mel.hop_length * self.encoder.stride

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    @property
    def look_ahead(self) -> int:
        """Samples beyond a block's end that its units depend on; the last unit of a block waits that long."""
        needed = self.config.block_units
        for stage in reversed(self.encoder.stages):
            assert isinstance(stage, SpiralStage)
            if stage.blocks:
                needed = -(-needed // stage.block) * stage.block
            for convolution in reversed(stage.config.convolutions):
                needed = (needed - 1) * convolution.stride - convolution.left + convolution.kernel
        last = (needed - 1) * self.config.mel.hop_length + self.config.mel.n_fft // 2
        return last - self.config.block_units * self.unit_samples

    def vectors(self, mel_BMF: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """Mel frames (a multiple of the stride) to the vectors before quantisation, ``[B, U, C]`` float32."""
        return self.project(self.encoder(mel_BMF, frames_B))

    def indices(self, samples_BT: Tensor, units_B: Tensor) -> Tensor:
        vectors_BUC = self.vectors(self.mel(samples_BT), units_B * self.encoder.stride)
        return self.quantizer(vectors_BUC)[1]

    @torch.inference_mode()
    def phones(self, units: list[Tensor]) -> list[list[str]]:
        """What the phone decoder reads in each row of units. Raises: InputError: there is none."""
        self._need_phones()
        lengths_B = torch.tensor([len(row) for row in units], device=self.device)
        padded_BU = nn.utils.rnn.pad_sequence(units, batch_first=True)
        return [
            self.inventory.names(row) for row in self.phone_decoder.read(self.quantizer.codes(padded_BU), lengths_B)
        ]

    @property
    def reads_phones(self) -> bool:
        return not self._lacks("phone_decoder.")

    def _need_phones(self) -> None:
        if not self.reads_phones:
            raise InputError("this speech tokenizer has no phone decoder; take the export of its training")

    @torch.inference_mode()
    def phone_log_probs(self, units: Sequence[int]) -> np.ndarray:
        """``[U * N, P]``, how likely each phone is at each place. Raises: InputError: it has no phone decoder."""
        self._need_phones()
        units_1U = torch.tensor(units, dtype=torch.long, device=self.device)[None]
        return self.phone_decoder.log_probs(self.quantizer.codes(units_1U))[0].cpu().numpy()

    @contextmanager
    def streaming(self, batch_size: int = 1) -> Iterator[S2UStream]:
        """Units while the recording goes on: ``with s2u.streaming() as stream: stream.step(samples)``.

        Several streams may be open at once; each has its own state.
        """
        stream = S2UStream(self, batch_size)
        try:
            yield stream
        finally:
            stream.close()

    def save_pretrained(self, folder: str | Path, storage: Storage = "int8") -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_folder(folder, self.config, self.own_state(), storage)


class S2UStream(RecordingStream):
    """The state of ``batch_size`` recordings that advance together. All units together equal ``encode``'s.

    A block of units comes out once the block and ``look_ahead`` samples after it are there; memory and work a step
    are bounded however long the recording lasts.
    """

    def __init__(self, model: S2UTokenizer, batch_size: int) -> None:
        super().__init__(batch_size, model.device, lead=model.config.mel.n_fft // 2)
        self.model = model
        self.state: EncoderState | None = EncoderState(model.encoder)
        self.frames = 0  # mel frames given to the encoder

    def close(self) -> None:
        """Drop the state; nothing can follow."""
        self.ended, self.state = True, None
        self.pending_BT = self.pending_BT[:, :0]

    def advance(self) -> Tensor:
        """The certain units, ``[B, U]``; at the end the last one is filled up with silence."""
        if not self.ended:
            return self._units(last=False)
        silence = -self.taken % self.model.unit_samples
        self.pending_BT = functional.pad(self.pending_BT, (0, silence + self.model.config.mel.n_fft // 2))
        self.taken += silence
        units_BU = self._units(last=True)
        self.close()
        return units_BU

    def _units(self, last: bool) -> Tensor:
        assert self.state is not None
        mel = self.model.config.mel
        count = max(0, (self.pending_BT.shape[1] - mel.n_fft) // mel.hop_length + 1)
        if last:
            count = min(count, self.taken // mel.hop_length - self.frames)
        if count:
            used = (count - 1) * mel.hop_length + mel.n_fft
            mel_BMF = self.model.mel.windows(self.pending_BT[:, :used])
            self.pending_BT = self.pending_BT[:, count * mel.hop_length :]
        else:
            mel_BMF = self.pending_BT.new_zeros(len(self.pending_BT), mel.n_mels, 0)
        self.frames += count
        if last and self.taken == 0:
            return torch.zeros(len(self.pending_BT), 0, dtype=torch.long)
        hidden_BUD = self.state.step(mel_BMF, last)
        return self.model.quantizer(self.model.project(hidden_BUD))[1]
