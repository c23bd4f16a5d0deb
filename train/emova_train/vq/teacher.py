"""Whisper's own encoder as a teacher of the one with a codebook inside: what its decoder is used to hear.

The words alone say little about each of some hundred vectors, and a small batch has few words; the encoder that sees
the whole clip, unquantised, says of each vector what it should have been.

Shapes: B clips, T samples, M mel bins, F frames, U units, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from emova.speech.tokenizer.whisper_vq.tokenizer import HOP, WhisperMel
from emova_train.vq.whisper import Whisper, WholeEncoder, clip_features


class Teacher:
    """A frozen encoder.

    Args:
        pooling: of its 50 vectors a second that stand for a unit; their mean is what the unit's vector should be.
    """

    def __init__(self, whisper: Whisper, pooling: int) -> None:
        self.mel = WhisperMel(whisper.config.num_mel_bins)
        self.encoder = WholeEncoder(whisper).eval().requires_grad_(False)
        self.pooling = pooling

    @torch.no_grad()
    def heard(self, samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """What the decoder heard before, ``[B, U, D]``, of clips of which ``lengths_B`` samples count."""
        self.mel.to(samples_BT.device)
        self.encoder.to(samples_BT.device)
        per = 2 * HOP * self.pooling
        units = -(-samples_BT.shape[1] // per)
        samples_BT = functional.pad(samples_BT, (0, units * per - samples_BT.shape[1]))
        with torch.autocast(samples_BT.device.type, enabled=False):
            features_BMF = clip_features(self.mel, samples_BT.float())
        heard_BTD, inside_BT = self.encoder(features_BMF, -(-lengths_B // HOP))
        counts_BU = inside_BT.unflatten(1, (units, self.pooling)).sum(2)
        sums_BUD = (heard_BTD.float() * inside_BT[..., None]).unflatten(1, (units, self.pooling)).sum(2)
        return sums_BUD / counts_BU[..., None].clamp(min=1)

    def distance(self, samples_BT: Tensor, lengths_B: Tensor, heard_BUD: Tensor, inside_BU: Tensor) -> Tensor:
        """Mean squared distance of ``heard_BUD`` over the variance of what should be heard; 1 is no knowledge."""
        wanted_ND = self.heard(samples_BT, lengths_B)[:, : heard_BUD.shape[1]][inside_BU]
        return (heard_BUD.float()[inside_BU] - wanted_ND).square().mean() / wanted_ND.var(0).mean().clamp(min=1e-6)
