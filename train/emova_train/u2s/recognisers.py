"""Emotion recognisers: how surely a recording conveys a feeling (EMOVA App. A.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from emova.core.errors import InputError

ACOUSTIC, EMOTION2VEC, AUTO = "acoustic", "emotion2vec", "auto"
RECOGNISERS = (AUTO, EMOTION2VEC, ACOUSTIC)
MODEL = "iic/emotion2vec_plus_large"


class EmotionRecogniser(Protocol):
    """Hears one recording."""

    name: str

    def confidences(self, samples: np.ndarray, rate: int) -> Mapping[str, float]:
        """Emotion -> probability, of ``[T]`` float32 mono samples at ``rate`` Hz."""
        ...


class Emotion2Vec:
    """emotion2vec (Ma et al. 2023) by funasr, which fetches its weights from a hub.

    Args:
        model: its name on the hub, or a folder.

    Raises:
        InputError: funasr is not installed, or the weights cannot be had.
    """

    def __init__(self, model: str = MODEL) -> None:
        self.name = f"emotion2vec ({model})"
        try:
            from funasr import AutoModel
        except ImportError:
            raise InputError(
                "--recogniser emotion2vec: funasr is not installed; pip install funasr, or give --recogniser acoustic"
            ) from None
        try:
            self._model: Any = AutoModel(model=model, disable_update=True, disable_pbar=True)
        except Exception:  # funasr and the hub's client raise errors of many kinds
            raise InputError(
                f"--recogniser emotion2vec: {model} cannot be loaded; see that the hub can be reached or give a folder "
                "by --recogniser-model, or give --recogniser acoustic"
            ) from None

    def confidences(self, samples: np.ndarray, rate: int) -> Mapping[str, float]:
        """Raises: InputError: the model answers in another form than is known."""
        import soxr

        heard = np.asarray(samples if rate == 16000 else soxr.resample(samples, rate, 16000), np.float32)
        told = self._model.generate(heard, granularity="utterance", extract_embedding=False)
        try:
            labels, scores = told[0]["labels"], told[0]["scores"]
            # Labels are written in Chinese and English: 生气/angry.
            return {str(label).rpartition("/")[2]: float(score) for label, score in zip(labels, scores, strict=True)}
        except (IndexError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{self.name}: answers in another form than is known; give --recogniser acoustic"
            ) from None


def find_recogniser(kind: str, model: str = MODEL) -> EmotionRecogniser | None:
    """The recogniser ``kind``; None stands for the acoustic classifier, which is fitted to the recordings themselves.

    ``auto`` takes emotion2vec where it can be had.

    Raises:
        InputError: the kind is unknown, or what was asked for cannot be had.
    """
    if kind not in RECOGNISERS:
        raise InputError(f"--recogniser {kind[:30]}: unknown; give {', '.join(RECOGNISERS)}")
    if kind == ACOUSTIC:
        return None
    try:
        return Emotion2Vec(model)
    except InputError:
        if kind == EMOTION2VEC:
            raise
        return None
