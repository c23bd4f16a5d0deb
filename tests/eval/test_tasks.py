"""Tasks with a scripted model: what is asked, what is judged, and what a failure costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_eval.judges.grading import OfflineJudge
from emova_eval.judges.voices import VoiceJudges
from emova_eval.metrics.acoustics import shipped_judge
from emova_eval.models.assistant import leakage, unit_figures
from emova_eval.report.tables import confusion
from emova_eval.suite.codec import ControllabilityTask, PhoneTask, ReconstructionTask, StylesTask
from emova_eval.suite.latency import LatencyTask
from emova_eval.suite.run_folder import RunFolder, read_records
from emova_eval.suite.runner import figure_of, run_task
from emova_eval.suite.samples import Example, Output
from emova_eval.suite.scoring import METRICS
from emova_eval.suite.suite import Codebook, LeakageTask, UnitsTask
from emova_eval.suite.tasks import (
    DIALOGUE_MODES,
    AsrTask,
    ClozeTask,
    DialogueTask,
    MetricTask,
    OwnTask,
    SpokenQaTask,
    TtsTask,
    question_text,
    read_aishell,
    read_librispeech,
    read_seed_tts,
)
from tests.eval.fixtures_models import Unasked

SOUND = np.full(1600, 0.1, np.float32)


class Scripted(Unasked):
    """Says the same to everything; a path named ``gone`` cannot be opened."""

    name = "scripted"

    def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
        if "gone" in audio:
            raise InputError(f"{audio}: no such file; check the path")
        return Output("it is red", "what is it", "happy", "normal", (1, 2), SOUND, 16000)

    def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
        return Output("it is red")

    def transcribe(self, audio: str) -> Output:
        if "gone" in audio:
            raise InputError(f"{audio}: no such file; check the path")
        return Output("" if "empty" in audio else "one two three")

    def speak(self, text: str, voice: str = "female") -> Output:
        return Output(text, audio=None if "mute" in text else SOUND, sample_rate=16000)

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        return (1,) if "right" in str(audio) else (2,)

    def log_likelihood(self, context_units: Sequence[int], units: Sequence[int] = (), text: str = "") -> float:
        return -1.0 if 1 in units or "good" in text else -2.0


class Deaf:
    name = "fixed words"

    def transcribe(self, samples: np.ndarray) -> str:
        return "it is red"


def figure(task: Any, tmp_path: Path) -> Any:
    return figure_of(task, run_task(task, Scripted(), RunFolder(tmp_path / task.name, {})))


class Kind:
    key, name = "naturalness", "kind"

    def score(self, samples: np.ndarray) -> float:
        return 4.0


def test_missing_files_and_empty_words_are_errors(tmp_path: Path) -> None:
    names = ("whole", "empty", "gone")
    items = [Example(name, audio=f"{name}.wav", answers=("one two three",)) for name in names]
    found = figure(AsrTask("asr", items), tmp_path)
    assert found.value == pytest.approx(100 * 6 / 9) and found.count == 3 and found.failures == 1


def test_speech_is_judged_by_what_is_heard(tmp_path: Path) -> None:
    items = [Example("a", "it is red"), Example("b", "it is mute")]
    found = figure(TtsTask("tts", items, Deaf()), tmp_path)
    assert found.value == 50 and found.judge == "fixed words" and found.failures == 1


def test_naturalness_of_a_silent_answer_is_the_worst(tmp_path: Path) -> None:
    judges = VoiceJudges((Kind(),))
    items = [Example("a", "it is red"), Example("b", "it is mute")]
    assert figure(TtsTask("rated", items, Deaf(), judges=judges), tmp_path).extra == {"naturalness": 2.5}


def test_a_rater_that_fails_or_writes_nonsense_gives_the_worst_and_is_named(tmp_path: Path) -> None:
    class Blank(Kind):
        key, name = "blank", "blank"

        def score(self, samples: np.ndarray) -> float:
            return float("nan")

    class Broken(Kind):
        key, name = "broken", "broken"

        def score(self, samples: np.ndarray) -> float:
            raise RuntimeError("out of order")

    task = TtsTask("rated", [Example("a", "it is red")], Deaf(), judges=VoiceJudges((Kind(), Blank(), Broken())))
    found = figure(task, tmp_path)
    assert found.extra == {"naturalness": 4, "blank": 1, "broken": 1} and found.value == 0 and found.failures == 0
    [record] = read_records(tmp_path / "rated" / "samples.jsonl")
    [blank, broken] = record.notes["judge_failures"]
    assert blank.startswith("blank: no verdict") and "RuntimeError" in broken


def dialogue_items() -> list[Example]:
    facts = {"emotion": "happy", "pitch": "high"}
    return [
        Example("a", "what is it", "a.wav", answers=("it is red",), facts=facts),
        Example("b", "what is it", "gone.wav", answers=("it is red",), facts=facts),
    ]


def test_dialogue_figures_count_the_failed_reply(tmp_path: Path) -> None:
    found = figure(DialogueTask("e2e", dialogue_items(), "end-to-end", OfflineJudge(), Deaf()), tmp_path)
    assert found.value == 5 and found.failures == 1 and "offline" in found.judge
    assert found.extra == {"emotion": 0.5, "pitch": 0.0, "form": 0.5, "recognition": 0.5, "speech": 0.25}
    matrix = confusion(read_records(tmp_path / "e2e" / "samples.jsonl"), "pitch")
    assert matrix is not None and matrix[1] == ["low", "normal", "high", "none"]
    assert matrix[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    written = figure(DialogueTask("t2t", dialogue_items(), "text-in-text-out", OfflineJudge()), tmp_path)
    assert written.value == 10 and written.extra == {}
    with pytest.raises(InputError, match="recogniser"):
        DialogueTask("x", [], "end-to-end", OfflineJudge())


def test_spoken_questions_and_stories(tmp_path: Path) -> None:
    items = [Example("a", audio="a.wav", answers=("red",)), Example("b", audio="b.wav", answers=("blue",))]
    assert figure(SpokenQaTask("st", items), tmp_path).value == 50
    heard = figure(SpokenQaTask("ss", items, Deaf(), OfflineJudge()), tmp_path)
    assert heard.value == 50 and heard.extra == {"speech": 0}
    pair = {"right": "right.wav", "wrong": "w.wav"}
    stories = [Example("a", audio="c.wav", facts=pair), Example("b", audio="c.wav", facts={"right": "w", "wrong": "w"})]
    assert figure(ClozeTask("cloze", stories, spoken=True), tmp_path).value == 50  # a tie is wrong
    written = [Example("a", audio="c.wav", choices=("good end", "bad"))]
    assert figure(ClozeTask("cloze-t", written, spoken=False), tmp_path).value == 100


def test_own_data_and_prompts(tmp_path: Path) -> None:
    items = [Example("1", "colour?", answers=("red",), metric="contains")]
    assert figure(OwnTask("own", items), tmp_path).value == 100
    with pytest.raises(InputError, match="different metrics"):
        OwnTask("own", [*items, Example("2", metric="exact")])
    asked = question_text(Example("1", "Which?", choices=("x", "y"), metric="choice"))
    assert asked.startswith("Which?\nA. x\nB. y\n")
    assert question_text(Example("1", "Is it?", metric="mme")).endswith("yes or no.")


def test_libritts_is_read_aloud(tmp_path: Path) -> None:
    from emova_eval.suite.tasks import read_libritts

    chapter = tmp_path / "test-clean" / "19" / "198"
    chapter.mkdir(parents=True)
    (chapter / "19_198_0.normalized.txt").write_text("Good day, Sir.\n")
    (chapter / "19_198_0.original.txt").write_text("Good day, Sir!\n")
    (chapter / "19_198_1.normalized.txt").write_text(" \n")
    [item] = read_libritts(tmp_path)
    assert (item.id, item.text, item.answers) == ("19_198_0", "Good day, Sir.", ("Good day, Sir.",))
    assert item.audio == str(chapter / "19_198_0.wav")
    with pytest.raises(InputError, match="no \\*.normalized.txt"):
        read_libritts(tmp_path / "test-clean" / "20")


def test_speech_folders(tmp_path: Path) -> None:
    chapter = tmp_path / "ls" / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 HELLO THERE\n1-2-0001 BYE\n")
    found = read_librispeech(tmp_path / "ls")
    assert [e.answers for e in found] == [("HELLO THERE",), ("BYE",)] and found[0].audio.endswith("1-2-0000.flac")
    shell = tmp_path / "as"
    shell.mkdir()
    names = ("BAC009S0764W0121", "BAC009S0764W0122", "BAC009S0002W0122")
    (shell / "aishell_transcript_v0.8.txt").write_text("".join(f"{name} 你 好\n" for name in names))
    (shell / f"{names[0]}.wav").write_bytes(b"x")
    assert [e.id for e in read_aishell(shell)] == list(
        names[:2]
    )  # the missing recording stays, the training speaker not
    (tmp_path / "meta.lst").write_text("a|hi|p.wav|say this\nb|hi|p.wav|and that|real.wav\n")
    assert [e.text for e in read_seed_tts(tmp_path / "meta.lst")] == ["say this", "and that"]
    (tmp_path / "meta.lst").write_text("a|b\n")
    with pytest.raises(InputError, match="line 1: 2 columns"):
        read_seed_tts(tmp_path / "meta.lst")
    with pytest.raises(InputError, match="trans.txt"):
        read_librispeech(shell)


class Gone:
    """Every question's file is missing, as an ``EvalModel`` and as a server that is timed."""

    name, sample_rate = "gone", 16000

    def __getattr__(self, name: str) -> Any:
        def fail(*inputs: Any, **named: Any) -> None:
            raise InputError("x.wav: no such file; check the path")

        return fail


class Mute:
    """Answers, but without a word, a unit or a sound."""

    name, sample_rate = "mute", 16000

    def phones(self, audio: str) -> list[str]:
        return []

    def tokenize(self, audio: Any) -> tuple[int, ...]:
        return ()

    def talk(self, audio: str) -> list[Any]:
        return []

    def log_likelihood(self, context_units: Sequence[int], units: Sequence[int] = (), text: str = "") -> float:
        raise ValueError("nothing to score")

    def __getattr__(self, name: str) -> Any:
        return lambda *inputs, **named: Output()


def all_kinds() -> list[MetricTask]:
    """One task of each kind, with two questions that can be asked by voice."""
    facts = {"emotion": "happy", "pitch": "high", "right": "r.wav", "wrong": "w.wav", "voice": "v"}
    items = [
        Example(
            id, f"it is {id}", f"{id}.wav", answers=("it is red",), choices=("x", "y"), facts={**facts, "voice": id}
        )
        for id in "ab"
    ]
    sound = VoiceJudges((Kind(),))
    return [
        AsrTask("asr", items),
        AsrTask("asr-zh", items, "zh"),
        TtsTask("tts", items, Deaf(), judges=sound),
        *(DialogueTask(mode, items, mode, OfflineJudge(), Deaf()) for mode in DIALOGUE_MODES),
        SpokenQaTask("s2t", items),
        SpokenQaTask("s2s", items, Deaf()),
        ControllabilityTask("controllability", items, shipped_judge()),
        ClozeTask("cloze-t", items, False),
        ClozeTask("cloze-s", items, True),
        OwnTask("own", items),
        PhoneTask("phones", items, "by hand"),
        ReconstructionTask("reconstruction", items, Deaf(), sound),
        StylesTask("styles", items, shipped_judge()),
        UnitsTask("units", items, Codebook(4096, 25.0)),
        LeakageTask("leakage-voice", items, "voice", Codebook(4096, 25.0)),
        LatencyTask(items, repeats=1),
        *(MetricTask(f"metric-{name}", items, METRICS[name]) for name in METRICS),
    ]


@pytest.mark.parametrize("model", [Gone(), Mute()], ids=["missing files", "no words, units or sound"])
def test_every_task_counts_and_names_what_it_cannot_ask_and_what_is_empty(model: Any, tmp_path: Path) -> None:
    for task in all_kinds():
        records = run_task(task, model, RunFolder(tmp_path / task.name, {}))
        found = figure_of(task, records)
        assert found.count == len(list(task.examples())) >= 2
        if model.name == "gone":
            assert found.failures == found.count and all("no such file" in record.failure for record in records)
        if task.name in ("units", "leakage-voice"):
            assert found.value is None and "too few" in found.missing  # nothing must not be the best bitrate
        elif task.name == "latency":
            assert found.value == task.limit_s and found.failures == found.count  # type: ignore[attr-defined]
        else:
            assert found.value == (0 if found.higher_is_better else 100), task.name
        assert found.extra.get("naturalness", 1) == 1


def test_a_model_that_never_ends_is_charged_for_every_word_it_adds(tmp_path: Path) -> None:
    class Babble(Scripted):
        def speak(self, text: str, voice: str = "female") -> Output:
            return Output(text, units=tuple(range(750)), audio=np.tile(SOUND, 100), sample_rate=16000)

    class Many:
        name = "many"

        def transcribe(self, samples: np.ndarray) -> str:
            return "it is red " * 10

    task = TtsTask("tts", [Example("a", "it is red")], Many())
    found = figure_of(task, run_task(task, Babble(), RunFolder(tmp_path, {})))
    assert found.value == 900  # 27 words too many for 3


def test_units_by_hand() -> None:
    found = unit_figures([[0, 1], [2, 3]], codebook_size=8, unit_rate=25)
    assert found == pytest.approx({"bitrate": 75, "entropy_bitrate": 50, "used": 50, "perplexity": 4})


def test_a_probe_finds_what_leaks_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    voices = [voice for _ in range(20) for voice in ("x", "y")]
    sentences = [str(i // 2) for i in range(40)]
    leaky = [(rng.integers(0, 8, 50) + 8 * (voice == "y")).tolist() for voice in voices]
    clean = [rng.integers(0, 8, 50).tolist() for _ in voices]
    assert leakage(leaky, voices, sentences, 16)[0] == 100
    accuracy, majority = leakage(clean, voices, sentences, 16)
    assert abs(accuracy - majority) < 30 and majority == 50


def test_likelihood_prefers_nothing_it_was_not_asked(tiny_checkpoint: Path) -> None:
    from emova_eval.models.assistant import AssistantModel

    model = AssistantModel(str(tiny_checkpoint))
    spoken = model.log_likelihood((1, 2, 3), units=(4, 5))
    assert spoken < 0 and spoken == model.log_likelihood((1, 2, 3), units=(4, 5))
    assert model.log_likelihood((1, 2, 3), text="Hello") < 0
    with pytest.raises(ValueError, match="nothing"):
        model.log_likelihood((1,))
