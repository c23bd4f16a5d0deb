"""Judges of sound and of emotion: those installed tell good from bad, those absent say why."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emova.core.errors import InputError
from emova.speech.audio import load_audio
from emova_eval.judges.voices import DistillMos, Dnsmos, SpeakerJudge, Utmos, VoiceJudges, find_judges
from emova_eval.judges.words import Emotion2vecJudge, ParaformerJudge, WhisperJudge
from emova_eval.metrics.acoustics import measure
from emova_eval.suite.offline import FIXTURES
from emova_eval.suite.samples import Record

INSTALLED = all(find_spec(name) for name in ("distillmos", "speechmos", "resemblyzer", "librosa"))
needs_judges = pytest.mark.skipif(not INSTALLED, reason="the judges of sound are not installed: `make setup-eval`")


def sound(name: str) -> np.ndarray:
    return load_audio(FIXTURES / name, 16000)


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("distillmos", "speechmos", "resemblyzer", "utmos_pytorch", "visqol.api", "funasr"):
        monkeypatch.setitem(sys.modules, name, None)


def test_what_is_not_installed_is_named_and_never_dropped(no_packages: None) -> None:
    found = find_judges.__wrapped__(fetch=False)
    assert found.raters == () and found.speaker is None and found.names == ""
    assert set(found.absent) == {"naturalness", "dnsmos", "utmos", "speaker", "visqol", "mosnet"}
    assert all("make setup-eval" in why for key, why in found.absent.items() if key != "mosnet")
    assert found.comparer is None and set(found.absent_of_sound) == {"naturalness", "dnsmos", "utmos", "mosnet"}
    assert "torchaudio" not in sys.modules  # a stand-in that stays would break transformers
    for judge in (Emotion2vecJudge, ParaformerJudge):
        with pytest.raises(InputError, match="pip install funasr"):
            judge()


def test_utmos_without_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = types.ModuleType("utmos_pytorch")
    package.UTMOSScoreTorch = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utmos_pytorch", package)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="local cache"):
        Utmos(fetch=False)


def test_visqol_knows_a_copy_from_a_damaged_one() -> None:
    pytest.importorskip("visqol")
    from emova_eval.judges.voices import Visqol

    judge = Visqol()
    recording = sound("questions/00.ogg")
    noise = np.random.default_rng(0).normal(size=len(recording)).astype(np.float32)
    scores = [judge.compare(recording, recording + level * noise) for level in (0.0, 0.005, 0.1)]
    assert 4.5 < scores[0] <= 5 and scores[0] > scores[1] > scores[2] >= 1
    with pytest.raises(ValueError):
        judge.compare(recording, np.zeros(0, np.float32))


def test_a_rating_that_nobody_gives_is_a_row_that_misses_its_goal() -> None:
    from emova_eval.nano.program import rating_rows

    class Rater:
        key, name = "dnsmos", "DNSMOS"

        def score(self, samples: np.ndarray) -> float:
            return 3.0

    records = [Record("t", id, "", [], "", 0, 1, values={"dnsmos": [value, 1.0]}) for id, value in (("a", 3), ("b", 4))]
    judges = VoiceJudges((Rater(),), absent={"naturalness": "not installed", "speaker": "not installed"})
    rated, absent = rating_rows(records, judges, "read aloud")
    assert (rated.name, rated.value, rated.count, rated.note) == ("dnsmos, read aloud", 3.5, 2, "DNSMOS")
    assert (absent.name, absent.value) == ("naturalness, read aloud", None)
    assert (absent.goal, absent.note) == (3.3, "not installed")
    assert rated.reached and not absent.reached


def test_a_whisper_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Whisper model"):
        WhisperJudge(tmp_path / "none")


class Recogniser:
    """FunASR's interface: labels in two languages, with scores."""

    found: list[dict[str, Any]] = []

    def __init__(self, model: str, disable_update: bool) -> None:
        if model == "gone":
            raise AssertionError("not registered")

    def generate(self, samples: np.ndarray, **settings: Any) -> list[dict[str, Any]]:
        return self.found


def test_emotion2vec_chooses_among_the_four_emotions(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("funasr")
    package.AutoModel = Recogniser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "funasr", package)
    silence = np.zeros(1600, np.float32)
    judge, acoustics = Emotion2vecJudge(), measure(silence)
    labels = ["生气/angry", "开心/happy", "吃惊/surprised", "难过/sad", "中立/neutral", "<unk>"]
    Recogniser.found = [{"labels": labels, "scores": [0.1, 0.3, 0.5, 0.05, 0.05, 0.0]}]
    assert judge.hear(silence, acoustics) == "happy" and judge.name == "emotion2vec (emotion2vec_plus_large)"
    for nonsense in ([], [{"labels": ["<unk>"], "scores": [1.0]}], [{"labels": labels, "scores": [float("nan")] * 6}]):
        Recogniser.found = nonsense
        with pytest.raises(RuntimeError, match="no verdict"):
            judge.hear(silence, acoustics)
    Recogniser.found = [{"text": "你好"}]
    assert ParaformerJudge().transcribe(silence) == "你好"
    Recogniser.found = []
    assert ParaformerJudge().transcribe(silence) == ""
    with pytest.raises(InputError, match="cannot fetch or load"):
        ParaformerJudge("gone")


@needs_judges
@pytest.mark.slow
def test_one_voice_is_nearer_to_itself_than_to_another() -> None:
    judge = SpeakerJudge()
    # Two sentences of one voice (piper's joe), and one of another (festival's ked).
    joe, again, ked = (judge.embed(sound(f"questions/{number}.ogg")) for number in ("00", "02", "07"))
    assert np.linalg.norm(joe) == pytest.approx(1, abs=1e-3)
    assert joe @ again > joe @ ked + 0.05
    with pytest.raises(ValueError, match="no voice"):
        judge.embed(np.zeros(16000, np.float32))


@needs_judges
@pytest.mark.slow
@pytest.mark.parametrize("make", [DistillMos, Dnsmos])
def test_noise_lowers_each_rating(make: Any) -> None:
    judge, clean = make(), sound("voices/p140-neutral-0.ogg")
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    assert 1 <= judge.score(noisy) + 0.2 < judge.score(clean) <= 5
