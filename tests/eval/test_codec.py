"""The codec's tasks on a model whose sound is known: phones, words through the round trip, styles, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from emova.speech.audio import save_wav
from emova.speech.style import DEFAULT_STYLES, Style
from emova_eval.judges.voices import VoiceJudges
from emova_eval.metrics.acoustics import Acoustics, shipped_judge
from emova_eval.models.assistant import EvalModel
from emova_eval.report.tables import confusion
from emova_eval.suite.codec import ControllabilityTask, PhoneTask, ReconstructionTask, StylesTask, mean_similarity
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import figure_of, run_task
from emova_eval.suite.samples import Example, Output, Record

RATE = 16000


def tone(f0: float, seconds: float = 0.3) -> np.ndarray:
    """A voice-like sound: ten harmonics of ``f0`` Hz."""
    time = np.arange(int(RATE * seconds)) / RATE
    return np.asarray(sum(np.sin(2 * np.pi * f0 * k * time) / k for k in range(1, 11)) * 0.1, np.float32)


class Known:
    """F0 follows gender and pitch; ``sad`` fails; the units heard again are half of the units."""

    name = "known"

    def phones(self, audio: str) -> list[str]:
        return ["a", "b"]

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        return (1, 2, 3, 4) if isinstance(audio, str) else (1, 2)

    def resynthesize(self, audio: str, style: Style) -> Output:
        if "b.wav" in audio:
            raise ValueError("too short")
        return Output(units=(1, 2), audio=tone(100), sample_rate=RATE)

    def render(self, units: Sequence[int], style: Style) -> Output:
        if style.emotion == "sad":
            raise ValueError("no such voice")
        f0 = {"female": 200, "male": 100}[style.gender] * {"low": 0.8, "normal": 1.0, "high": 1.2}[style.pitch]
        return Output(units=tuple(units), audio=tone(f0), sample_rate=RATE)


class AlwaysHappy:
    name = "always happy"

    def hear(self, samples: np.ndarray, acoustics: Acoustics) -> str:
        return "happy"


class Recogniser:
    name = "recogniser"

    def transcribe(self, samples: np.ndarray) -> str:
        return "red green"


class Rater:
    key, name = "naturalness", "rater"

    def score(self, samples: np.ndarray) -> float:
        return 3.0


@pytest.fixture
def items(tmp_path: Path) -> list[Example]:
    for name in "ab":
        save_wav(tmp_path / f"{name}.wav", tone(150), RATE)
    words = "red green blue"
    return [Example(name, words, str(tmp_path / f"{name}.wav"), answers=(words,)) for name in "ab"]


def measure(task: Any, folder: Path) -> tuple[Any, list[Record]]:
    records = run_task(task, Known(), RunFolder(folder / "run", {}))
    return figure_of(task, records), records


def test_phones_are_compared_one_by_one(tmp_path: Path) -> None:
    items = [Example("1", audio="x", answers=("a b",)), Example("2", audio="x", answers=("a c c d",))]
    figure, _ = measure(PhoneTask("phones", items, "by hand"), tmp_path)
    assert figure.value == 50 and figure.judge == "labels: by hand"  # 0 of 2, and 3 of 4: b for c, two missing


def test_words_lost_on_the_way_and_a_failed_recording_count(items: list[Example], tmp_path: Path) -> None:
    judges = VoiceJudges((Rater(),), absent={"utmos": "no weights"})
    figure, records = measure(ReconstructionTask("r", items, Recogniser(), judges), tmp_path)
    # "a": one of three words lost; "b": all three.
    assert figure.value == pytest.approx(100 * 4 / 6) and figure.failures == 1
    assert figure.extra["recordings"] == pytest.approx(1 / 3)
    assert figure.extra["naturalness"] == 2 and figure.judge == "recogniser; rater"  # 3, and 1 for what did not sound
    assert records[1].failure == "ValueError: too short"


class Pitch:
    """Tells voices apart by whether they are those of the recordings (150 Hz) or of the renderings (100 Hz)."""

    name = "pitch"

    def embed(self, samples: np.ndarray) -> np.ndarray:
        crossings = np.sum(np.diff(np.signbit(samples - samples.mean()))) / (len(samples) / RATE)
        return np.array([1.0, 0.0]) if crossings > 250 else np.array([0.6, 0.8])


class Nobody:
    name = "nobody"

    def embed(self, samples: np.ndarray) -> np.ndarray:
        raise ValueError("no voice is heard")


def test_voices_by_hand_and_a_voice_that_is_not_heard(items: list[Example], tmp_path: Path) -> None:
    same = [items[0], Example("c", items[0].text, items[0].audio, answers=items[0].answers)]
    figure, _ = measure(ReconstructionTask("r", same, Recogniser(), VoiceJudges(speaker=Pitch())), tmp_path / "1")
    assert figure.extra["speaker"] == pytest.approx(0.6)
    assert figure.extra["speaker_recordings"] == pytest.approx(1) and figure.extra[
        "speaker_renderings"
    ] == pytest.approx(1)
    figure, records = measure(
        ReconstructionTask("r", items, Recogniser(), VoiceJudges(speaker=Nobody())), tmp_path / "2"
    )
    assert figure.extra["speaker"] == 0 and records[0].notes["judge_failures"] == ["nobody: no voice is heard"]
    assert mean_similarity(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == pytest.approx(1 / 3)


class Copies:
    key, name = "visqol", "by length"

    def compare(self, recording: np.ndarray, rendering: np.ndarray) -> float:
        return 4.0


def test_a_rendering_is_compared_with_its_recording(items: list[Example], tmp_path: Path) -> None:
    task = ReconstructionTask("r", items, Recogniser(), VoiceJudges(comparer=Copies()))
    figure, _ = measure(task, tmp_path)
    assert figure.extra["visqol"] == pytest.approx((4 + 1) / 2)  # the second could not be said again: the worst
    assert "by length" in task.judge


class Reader(Known):
    """Reads a text in as many units as it has letters, and each text once."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def speak(self, text: str, voice: str = "female") -> Output:
        self.read.append(text)
        return Output(text, units=tuple(range(len(text))), audio=tone(100), sample_rate=RATE)


def test_controllability_is_of_units_that_the_model_wrote(tmp_path: Path) -> None:
    """50 texts, each in four emotions by the female voice in its normal pitch; the units are written once."""
    texts = [Example(str(number), f"text {number}") for number in range(60)]
    task = ControllabilityTask("controllability", texts, AlwaysHappy())
    asked = list(task.examples())
    emotions = [example.facts["emotion"] for example in asked]
    assert len(asked) == 200 and {emotions.count(emotion) for emotion in DEFAULT_STYLES.emotions} == {50}
    few = ControllabilityTask("controllability", texts[:2], AlwaysHappy())
    model = Reader()
    folder = RunFolder(tmp_path, {})
    records = run_task(few, cast(EvalModel, model), folder)
    figure = figure_of(few, records)
    assert model.read == ["text 0", "text 1"]
    assert figure.count == 8 and figure.value == 25 and figure.failures == 2  # happy is heard; sad has no voice
    assert {record.notes["units"] for record in records if not record.failure} == {len("text 0")}
    matrix = confusion(records, "emotion")
    assert matrix is not None and matrix[0].sum() == 8


def test_styles_by_hand(items: list[Example], tmp_path: Path) -> None:
    figure, records = measure(StylesTask("styles", items[:1], AlwaysHappy()), tmp_path)
    assert figure.count == 24 and figure.failures == 6 and figure.value == 25  # happy alone is heard right
    assert figure.extra["pitch_order"] == 0.75  # 8 triples, of which sad's two fail
    assert figure.extra["gender_order"] == 0.75 and figure.extra["gender"] == 0.75
    assert figure.extra["same_length"] == 0  # a rendering that failed has no length
    assert figure.extra["units_again"] == pytest.approx((18 * 0.5 + 6 * 1.0) / 24)
    assert "units_other" not in figure.extra  # one recording has no other
    found = confusion(records, "emotion")
    assert found is not None and found[1] == [*DEFAULT_STYLES.emotions, "none"]
    assert found[0][:4].tolist() == [[0, 6, 0, 0, 0], [0, 6, 0, 0, 0], [0, 0, 0, 0, 6], [0, 6, 0, 0, 0]]


def test_a_confusion_of_whole_answers_is_four_by_four() -> None:
    rows = [
        Record("t", e, "", [], "", 1, 1, notes={"asked_emotion": e, "emotion": e}) for e in DEFAULT_STYLES.emotions[:2]
    ]
    found = confusion(rows, "emotion")
    assert found is not None and found[0].shape == (4, 4) and found[1] == list(DEFAULT_STYLES.emotions)


def test_the_shipped_judge_tells_what_it_is_and_how_good() -> None:
    judge = shipped_judge()
    share = int(judge.name.split("hears ")[1].split(" %")[0])
    assert "other" in judge.name and share >= 90
