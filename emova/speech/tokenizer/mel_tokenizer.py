"""Speech tokenizers on log-mel frames: their rate and device are those of the frames."""

from __future__ import annotations

import torch

from emova.speech.features import LogMel, MelConfig
from emova.speech.tokenizer.base import ConfigT, TokenizerModule


class MelTokenizer(TokenizerModule[ConfigT]):
    """A ``SpeechTokenizer`` but for ``indices``, ``codebook_size`` and ``streaming``."""

    def __init__(self, config: ConfigT, mel: MelConfig) -> None:
        super().__init__(config)
        self.mel = LogMel(mel)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel.config.sample_rate

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.mel.buffers()).device
