"""Judges that hear words and emotions. Every table names its judge, since another judge gives another scale.

Whisper base needs no hub (``emova data fetch nano``). Whisper-large-v3, Paraformer-zh and emotion2vec are the papers'
judges; they are fetched from a hub, or loaded from a folder, when they are asked for by name.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emova.core.errors import InputError
from emova.speech.style import DEFAULT_STYLES
from emova_eval.metrics.acoustics import Acoustics

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from funasr import AutoModel

JUDGE_RATE = 16000
_PROMPTS = {"zh": "以下是普通话的句子。"}
"""What stands before the words that Whisper hears: this one makes it write simplified characters, as references do."""


class WhisperJudge:
    """A Whisper model in CTranslate2's form, int8, as a recogniser; the offline one is the multilingual base.

    Args:
        folder: the unpacked model (``model.bin``, ``tokenizer.json``, ``config.json``), by whose name tables call it;
            or a name that faster-whisper fetches from the hub, such as ``large-v3``.
        threads: CPU threads.
        language: ``en`` or ``zh``.

    Raises:
        InputError: there is no model of this name, or it cannot be fetched.
    """

    def __init__(self, folder: str | Path, threads: int = 2, language: str = "en") -> None:
        self.name = f"Whisper {Path(folder).name.removeprefix('whisper-')} (int8, greedy)"
        self.folder = Path(folder) if (Path(folder) / "model.bin").is_file() else _fetch_whisper(str(folder))
        self.threads = threads
        self.language = language

    @cached_property
    def _model(self) -> WhisperModel:
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
            initial_prompt=_PROMPTS.get(self.language),
        )
        return " ".join(segment.text.strip() for segment in segments)


def _fetch_whisper(name: str) -> Path:
    from faster_whisper import available_models, download_model

    if name not in available_models():
        raise InputError(f"{name}: no Whisper model here; run `emova data fetch nano`, or name one such as large-v3")
    try:
        return Path(download_model(name))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"Whisper {name}: cannot be fetched from the hub ({type(error).__name__})") from None


class ParaformerJudge:
    """Paraformer through FunASR: the papers' recogniser for Chinese. Raises: InputError: it cannot be loaded."""

    def __init__(self, model: str = "paraformer-zh") -> None:
        self.name = f"Paraformer ({Path(model).name})"
        self._model = _load_funasr(model)

    def transcribe(self, samples: np.ndarray) -> str:
        """The words in ``samples`` [T] at 16 kHz; empty when nothing is heard."""
        found = self._model.generate(samples.astype(np.float32), disable_pbar=True)
        return str(found[0]["text"]) if found else ""


class Emotion2vecJudge:
    """emotion2vec+ (Ma et al. 2023) through FunASR: the likeliest of the four emotions (EMOVA, appendix D.1).

    Raises: InputError: it cannot be loaded.
    """

    def __init__(self, model: str = "iic/emotion2vec_plus_large") -> None:
        self.name = f"emotion2vec ({Path(model).name})"
        self._model = _load_funasr(model)

    def hear(self, samples: np.ndarray, acoustics: Acoustics) -> str:
        """The emotion of ``samples`` [T] at 16 kHz. Raises: RuntimeError: the model scores none of the four."""
        found = self._model.generate(
            samples.astype(np.float32), granularity="utterance", extract_embedding=False, disable_pbar=True
        )
        # Its labels are in two languages: "开心/happy".
        names = [label.rpartition("/")[2] for label in found[0]["labels"]] if found else []
        scores = {
            name: score
            for name, score in zip(names, found[0]["scores"] if found else [], strict=True)
            if name in DEFAULT_STYLES.emotions
        }
        if not scores or not np.isfinite(list(scores.values())).all():
            raise RuntimeError(f"{self.name}: no verdict")
        return max(scores, key=lambda name: scores[name])


def _load_funasr(model: str) -> AutoModel:
    try:
        from funasr import AutoModel
    except ImportError:
        raise InputError(f"{model}: FunASR is not installed; run `pip install funasr`") from None
    try:
        return AutoModel(model=model, disable_update=True)
    except Exception as error:  # FunASR raises whatever its hubs, its files and torch raise
        raise InputError(f"{model}: FunASR cannot fetch or load it ({type(error).__name__})") from None
