"""GLM-4-Voice's tokenizer as a ``SpeechTokenizer``, the release's and what ``emova train vq`` makes.

Whisper's features are floored at 80 dB below the loudest point of the clip, so that a clip's units are certain when it
has ended. With ``running_floor`` it is the loudest point so far, and units come block by block.

Shapes: B batch, T samples, M mel bins, F frames, U units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.features import MelConfig, mel_filters
from emova.speech.tokenizer.base import RecordingStream, TokenizerModule, WaitingStream
from emova.speech.tokenizer.phone_decoder import PhoneDecoder, PhoneDecoderConfig
from emova.speech.tokenizer.phones import PHONES, PhoneInventory
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig, EncoderPast, WhisperVQEncoder

KIND = "whisper_vq"
RATE, N_FFT, HOP = 16_000, 400, 160  # Hz, samples, samples
QUIET = 1e-10
_PHONE_CODE = 16  # numbers by which the phone decoder knows a code


@dataclass(frozen=True)
class WhisperVQConfig:
    """The defaults are the release's.

    Attributes:
        running_floor: features know the loudest point so far instead of the clip's, so that units can stream.
        reads_phones: whether it has a decoder of the phones that units stand for, by which they are judged; the
            release has none.
        decoder, phones: its sizes, and what it tells apart.
    """

    kind: str = KIND
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    running_floor: bool = False
    reads_phones: bool = False
    decoder: PhoneDecoderConfig = field(default_factory=PhoneDecoderConfig)
    phones: list[str] = field(default_factory=lambda: list(PHONES))

    def __post_init__(self) -> None:
        PhoneInventory(tuple(self.phones))
        if self.kind != KIND:
            raise InputError(f"kind={self.kind}: these are the fields of {KIND}; give kind={KIND}")


class WhisperMel(nn.Module):
    """Whisper's log-mel frames before their floor (Radford et al. 2023, §2.2)."""

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # its constants are values, which the meta device has not
            self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
            self.register_buffer("filters", mel_filters(MelConfig(n_mels=mels)), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Logarithms of the power in the frames of all whole windows, unpadded: ``[B, M, (T - 400) // 160 + 1]``."""
        spectrum_BKF = torch.stft(samples_BT, N_FFT, HOP, window=self.window, center=False, return_complex=True)
        return (self.filters @ spectrum_BKF.abs().square()).clamp(min=QUIET).log10()


def floored(log_BMF: Tensor, loudest_BF: Tensor) -> Tensor:
    """Features from logarithms of power and the logarithm of the loudest point, of each frame or ``[B, 1]`` of all."""
    return (torch.maximum(log_BMF, loudest_BF[:, None] - 8.0) + 4.0) / 4.0


@dataclass
class ClipState:
    """Where a clip's encoding stands: blocks done, the loudest point so far, what the encoder keeps."""

    past: EncoderPast
    loudest_B: Tensor | None = None
    frames: int = 0


class WhisperVQTokenizer(TokenizerModule[WhisperVQConfig]):
    """Speech to units as GLM-4-Voice hears it; a ``SpeechTokenizer``."""

    config_class: ClassVar = WhisperVQConfig
    optional: ClassVar = ("phone_decoder.", "phone_codes.")
    unit_set = "glm-4-voice"

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__(config)
        self.mel = WhisperMel(config.encoder.mels)
        self.encoder = WhisperVQEncoder(config.encoder)
        self.inventory = PhoneInventory(tuple(config.phones))
        self.phone_codes: nn.Module | None = None
        self.phone_decoder: PhoneDecoder | None = None
        if config.reads_phones:
            width, block = config.encoder.width, max(1, config.encoder.block // config.encoder.pooling)
            self.phone_codes = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, _PHONE_CODE), nn.Tanh())
            self.phone_decoder = PhoneDecoder(_PHONE_CODE, config.decoder, block, 5, self.inventory.classes)
        self.unit_samples = 2 * HOP * config.encoder.pooling
        self.clip_samples = 2 * HOP * config.encoder.clip

    @property
    def codebook_size(self) -> int:
        return self.config.encoder.codes

    def features(self, samples_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Clips filled up with silence to features ``[B, M, F]`` and how many frames count in each row.

        The floor of a row is that of the row, by blocks with ``running_floor``; T is filled up to a whole unit.
        """
        filled_BT = functional.pad(samples_BT, (0, -samples_BT.shape[1] % self.unit_samples))
        log_BMF = self.mel(functional.pad(filled_BT[:, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[:, 0])[..., :-1]
        loudest_BF = log_BMF.amax(dim=(1, 2))[:, None]
        if self.config.running_floor:
            size, count = 2 * self.config.encoder.block, log_BMF.shape[2]
            blocks_BFN = functional.pad(log_BMF.amax(1), (0, -count % size), value=-torch.inf).unflatten(1, (-1, size))
            loudest_BF = blocks_BFN.amax(2).cummax(1).values.repeat_interleave(size, dim=1)[:, :count]
        return floored(log_BMF, loudest_BF), -(-lengths_B // HOP)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The vectors before quantisation, ``[B, U, D]``, of clips that are no longer than ``clip_samples``."""
        with torch.autocast(samples_BT.device.type, enabled=False):
            features_BMF, frames_B = self.features(samples_BT.float(), lengths_B)
        return self.encoder(features_BMF, frames_B)

    def phone_features(self, codes_BUD: Tensor) -> Tensor:
        """Codes ``[B, U, D]`` as the phone decoder takes them. Raises: InputError: there is no phone decoder."""
        if self.phone_codes is None or self._lacks("phone_decoder."):
            raise InputError("this speech tokenizer has no phone decoder; train one with model.reads_phones=true")
        return self.phone_codes(codes_BUD.float())

    @torch.inference_mode()
    def phones(self, units: list[Tensor]) -> list[list[str]]:
        """What the phone decoder reads in each row of units. Raises: InputError: there is none."""
        padded_BU = nn.utils.rnn.pad_sequence(units, batch_first=True)
        features_BUC = self.phone_features(self.encoder.codebook(padded_BU))
        assert self.phone_decoder is not None
        lengths_B = torch.tensor([len(row) for row in units], device=self.device)
        return [self.inventory.names(row) for row in self.phone_decoder.read(features_BUC, lengths_B)]

    @property
    def reads_phones(self) -> bool:
        return self.phone_decoder is not None and not self._lacks("phone_decoder.")

    @torch.inference_mode()
    def phone_log_probs(self, units: Sequence[int]) -> np.ndarray:
        """``[U * N, P]``, how likely each phone is at each place. Raises: InputError: it has no phone decoder."""
        units_1U = torch.tensor(units, dtype=torch.long, device=self.device)[None]
        features_1UC = self.phone_features(self.encoder.codebook(units_1U))
        assert self.phone_decoder is not None
        return self.phone_decoder.log_probs(features_1UC)[0].cpu().numpy()

    @torch.inference_mode()
    def encode(self, samples: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """``[B, T]`` samples, of which the first ``lengths[b]`` count, to ceil(length / unit_samples) units a row.

        What is longer than a clip is heard clip by clip; a row is heard alone.

        Raises:
            InputError: ``samples`` is not two-dimensional.
        """
        if samples.dim() != 2:
            raise InputError(f"samples have shape {list(samples.shape)}; the tokenizer takes [batch, samples]")
        counts = [samples.shape[1]] * len(samples) if lengths is None else lengths.tolist()
        found = []
        for row_T, count in zip(samples, counts, strict=True):
            clips = [clip for clip in row_T[:count].float().split(self.clip_samples) if len(clip)]
            units = [self.clip(clip[None])[0] for clip in clips]
            found.append(torch.cat(units) if units else torch.zeros(0, dtype=torch.long, device=samples.device))
        return found

    def clip(self, samples_BT: Tensor) -> Tensor:
        """The units ``[B, U]`` of whole clips of one length."""
        if self.config.running_floor:
            state = ClipState(EncoderPast())
            return torch.cat(list(self.blocks(samples_BT, state, ended=True)), dim=1)
        lengths_B = torch.full((len(samples_BT),), samples_BT.shape[1], device=samples_BT.device)
        return self.encoder.nearest(self(samples_BT, lengths_B))

    def blocks(self, samples_BT: Tensor, state: ClipState, ended: bool) -> Iterator[Tensor]:
        """The units ``[B, U]`` of each block of a clip that is certain, of all if it ended; changes ``state``.

        ``samples_BT`` is the clip so far.
        """
        around, heard = N_FFT // 2, samples_BT.shape[1]
        total = -(-heard // self.unit_samples) * (self.unit_samples // HOP)
        if ended:
            samples_BT = functional.pad(samples_BT, (0, total * HOP - heard))
        mirrored_BT = torch.cat([samples_BT[:, 1 : around + 1].flip(1), samples_BT], dim=1)
        if ended:
            mirrored_BT = torch.cat([mirrored_BT, samples_BT[:, -around - 1 : -1].flip(1)], dim=1)
        size = 2 * self.config.encoder.block
        while state.frames < total:
            end = min(state.frames + size, total) if ended else state.frames + size
            if not ended and (end - 1) * HOP + N_FFT > mirrored_BT.shape[1]:
                return
            log_BMF = self.mel(mirrored_BT[:, state.frames * HOP : (end - 1) * HOP + N_FFT])
            loudest_B = log_BMF.amax(dim=(1, 2))
            state.loudest_B = loudest_B if state.loudest_B is None else torch.maximum(state.loudest_B, loudest_B)
            inside = min(end, -(-heard // HOP)) - state.frames
            vectors_BUD = self.encoder.step(floored(log_BMF, state.loudest_B[:, None]), state.past, inside)
            state.frames = end
            yield self.encoder.nearest(vectors_BUD)

    @contextmanager
    def streaming(self, batch_size: int = 1) -> Iterator[WaitingStream | WhisperVQStream]:
        """Units while the recording goes on, block by block; without ``running_floor`` they all come at its end."""
        yield WhisperVQStream(self, batch_size) if self.config.running_floor else WaitingStream(self, batch_size)


class WhisperVQStream(RecordingStream):
    """Recordings that advance together; a block's units come as soon as it has been heard. Keeps one clip at most."""

    def __init__(self, model: WhisperVQTokenizer, batch_size: int) -> None:
        super().__init__(batch_size, model.device)
        self._model = model
        self._state = ClipState(EncoderPast())  # of the clip that is pending

    def advance(self) -> Tensor:
        model, found = self._model, []
        # A clip is not known to be the last one before there is a sample behind it.
        while self.pending_BT.shape[1] > model.clip_samples:
            clip_BT, self.pending_BT = self.pending_BT.split(
                [model.clip_samples, self.pending_BT.shape[1] - model.clip_samples], dim=1
            )
            found += list(model.blocks(clip_BT, self._state, ended=True))
            self._state = ClipState(EncoderPast())
        if self.pending_BT.shape[1]:
            found += list(model.blocks(self.pending_BT, self._state, self.ended))
        empty = torch.zeros(len(self.pending_BT), 0, dtype=torch.long, device=self.pending_BT.device)
        return torch.cat([empty, *found], dim=1)
