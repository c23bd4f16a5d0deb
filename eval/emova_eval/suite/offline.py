"""``emova eval all --offline``: every task on shipped fixtures; what cannot run here is a line with its reason.

The fixtures (``eval/emova_eval/fixtures/README.md``) are held-out questions by unheard voices, test pictures of the
recipe,
rule-made voices, and acoustic measures for the emotion judge. Vision benchmarks run from files in their own formats,
which are written into the run's folder. Names begin with ``fixture-``: none of the figures is the benchmark's own.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_eval.judges.voices import find_judges
from emova_eval.models.assistant import AssistantModel
from emova_eval.suite.bench_files import write_benchmarks
from emova_eval.suite.codec import ControllabilityTask, PhoneTask, ReconstructionTask, StylesTask
from emova_eval.suite.latency import AssistantTalker, LatencyTask
from emova_eval.suite.runner import Figure, missing_figure
from emova_eval.suite.samples import Example, Output
from emova_eval.suite.suite import (
    UNITS,
    VISION,
    Codebook,
    SuiteConfig,
    UnitsTask,
    build_task,
    leakage_task,
    make_emotion_judge,
    make_judge,
    make_recogniser,
)  # fmt: skip
from emova_eval.suite.tasks import (
    DIALOGUE_MODES,
    AsrTask,
    ClozeTask,
    DialogueTask,
    MetricTask,
    OwnTask,
    Recogniser,
    SpokenQaTask,
    TtsTask,
    read_seed_tts,
)  # fmt: skip

FIXTURES = Path(__file__).parents[1] / "fixtures"
FACTS = ("emotion", "pitch", "phones", "fact", "key", "spoken_answer")
STYLE_RECORDINGS = 2
SENTENCES = 8
CHINESE = ("asr-aishell-1", "asr-aishell-2", "tts-aishell-2", "seed-tts-zh")

Built = MetricTask | Figure


class FixtureRow(TypedDict, total=False):
    """A line of a fixture's JSON Lines file: what it has of these depends on the file."""

    audio: str
    image: str
    text: str
    question: str
    answer: str
    kind: str
    group: str
    gender: str
    emotion: str
    pitch: str
    intent: str
    slots: dict[str, str]
    type: str
    key: str
    fact: str
    voice: str
    phones: list[str]
    spoken_answer: str


def read_rows(name: str) -> list[FixtureRow]:
    """A fixture's records. Raises: InputError: the installation lacks it."""
    path = FIXTURES / name
    if not path.is_file():
        raise InputError(f"{path}: missing; install emova anew")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _named(task: MetricTask, name: str) -> MetricTask:
    task.name = f"fixture-{name}"
    return task


def or_missing(name: str, build: Callable[[], MetricTask]) -> Built:
    """The task, or the reason why it cannot run."""
    try:
        return _named(build(), name)
    except InputError as error:
        return missing_figure(f"fixture-{name}", str(error))


def questions() -> list[Example]:
    """The shipped spoken questions; ``answers`` is the reference reply, ``group`` talk or a kind of picture."""
    return [
        Example(
            id=Path(row["audio"]).stem,
            text=row["question"],
            audio=str(FIXTURES / row["audio"]),
            images=(str(FIXTURES / row["image"]),) if row["image"] else (),
            answers=(row["answer"],),
            group=row["kind"],
            facts={key: value for key, value in row.items() if key in FACTS and value},
        )
        for row in read_rows("questions.jsonl")
    ]


def _spoken_answers(asked: Sequence[Example]) -> list[Example]:
    """Questions on facts and on pictures, with the words that a right answer must hold."""
    found = [item for item in asked if item.facts.get("fact") or item.facts.get("key") not in (None, "yes", "no")]
    return [
        dataclasses.replace(item, answers=(item.facts.get("fact") or item.facts["key"],), facts={}) for item in found
    ]


def _stories(asked: Sequence[Example], spoken: bool) -> list[Example]:
    """A question as the context; its answer is the right ending, the answer to the next question the wrong one."""
    told = [item for item in asked if item.facts.get("spoken_answer")]
    stories = []
    for item, other in zip(told, told[1:] + told[:1], strict=True):
        ends = {"right": item, "wrong": other}
        facts = {name: str(FIXTURES / end.facts["spoken_answer"]) for name, end in ends.items()} if spoken else {}
        choices = (item.answers[0], other.answers[0])
        stories.append(Example(item.id, item.text, item.audio, answers=choices[:1], choices=choices, facts=facts))
    return stories


def write_seed_tts(folder: Path, asked: Sequence[Example]) -> Path:
    """Sentences in the form of Seed-TTS-eval's meta.lst."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{item.id}|{item.text}|{Path(item.audio).name}|{item.answers[0]}" for item in asked[:SENTENCES]]
    path = folder / "meta.lst"
    write_text(path, "\n".join(lines) + "\n")
    return path


def write_own(folder: Path, asked: Sequence[Example]) -> Path:
    """A folder as a user would make one: ``meta.jsonl`` with pictures and recordings beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in [found for found in asked if found.images][:4]:
        for file in (item.audio, item.images[0]):
            shutil.copy(file, folder / Path(file).name)
        lines.append({"id": item.id, "audio": Path(item.audio).name, "image": Path(item.images[0]).name,
                      "answer": item.facts.get("key", item.answers[0])})  # fmt: skip
    write_text(folder / "meta.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return folder


def vision_tasks(config: SuiteConfig) -> list[Built]:
    """The fourteen benchmarks, each from a file in its own form."""
    folder = Path(config.output_dir) / "fixtures"
    files = write_benchmarks(FIXTURES, folder, list(VISION))

    def build(name: str) -> MetricTask:
        return build_task(name, dataclasses.replace(config, data=str(files[name]), images=str(folder / "images")))

    return [or_missing(name, lambda name=name: build(name)) for name in VISION]  # type: ignore[misc]


def speech_tasks(config: SuiteConfig, asked: Sequence[Example]) -> list[Built]:
    """Recognition, units, dialogue, questions and endings; and what a recogniser must hear, where there is one."""
    folder = Path(config.output_dir) / "fixtures"
    judge = make_judge(config)
    heard = [dataclasses.replace(item, answers=(item.text,), facts={}, group="") for item in asked]
    phones = [
        dataclasses.replace(item, answers=(" ".join(item.facts["phones"]),), facts={}, group="") for item in asked
    ]
    texts = [Example(item.id, item.answers[0]) for item in asked[:SENTENCES]]
    known = _spoken_answers(asked)
    voices = [
        Example(str(i), row["text"], str(FIXTURES / row["audio"]), group=row["group"])
        for i, row in enumerate(read_rows("voices.jsonl"))
    ]

    def recogniser() -> Recogniser:
        return make_recogniser(config)

    def leaks(name: str) -> MetricTask:
        return leakage_task(name, voices, Codebook.of(config.model))

    sound = find_judges(fetch=False)
    return [
        or_missing("asr", lambda: AsrTask("asr", heard)),
        *chinese_tasks(config, folder),
        or_missing("phones", lambda: PhoneTask("phones", phones, "G2P of the text")),
        or_missing("units", lambda: UnitsTask("units", heard, Codebook.of(config.model))),
        *(or_missing(name, lambda name=name: leaks(name)) for name in UNITS if name != "units"),  # type: ignore[misc]
        or_missing("styles", lambda: StylesTask("styles", heard[:STYLE_RECORDINGS], make_emotion_judge(config))),
        or_missing("controllability", lambda: ControllabilityTask("c", texts, make_emotion_judge(config))),
        or_missing("dialogue-unit-in-text-out", lambda: DialogueTask("d", asked, DIALOGUE_MODES[1], judge)),
        or_missing("dialogue-text-in-text-out", lambda: DialogueTask("d", asked, DIALOGUE_MODES[2], judge)),
        or_missing("spoken-qa-s2t", lambda: SpokenQaTask("q", known)),
        or_missing("cloze-s2t", lambda: ClozeTask("c", _stories(asked, False), False)),
        or_missing("cloze-s2s", lambda: ClozeTask("c", _stories(asked, True), True)),
        or_missing("own", lambda: OwnTask("own", _own(folder / "own", asked))),
        or_missing("tts", lambda: TtsTask("tts", texts, recogniser(), judges=sound)),
        or_missing("tts-male", lambda: TtsTask("tts", texts, recogniser(), voice="male", judges=sound)),
        or_missing(
            "seed-tts", lambda: TtsTask("s", read_seed_tts(write_seed_tts(folder / "seed", asked)), recogniser())
        ),
        or_missing("reconstruction", lambda: ReconstructionTask("r", heard[:16], recogniser(), sound)),
        or_missing("dialogue-end-to-end", lambda: DialogueTask("d", asked, DIALOGUE_MODES[0], judge, recogniser())),
        or_missing("spoken-qa-s2s", lambda: SpokenQaTask("q", known, recogniser())),
    ]


def chinese_tasks(config: SuiteConfig, folder: Path) -> list[Built]:
    """Recognition and reading aloud in Chinese, on a few sentences by synthetic Mandarin voices."""
    rows = read_rows("chinese.jsonl")
    spoken = [
        Example(Path(row["audio"]).stem, row["text"], str(FIXTURES / row["audio"]), answers=(row["text"],))
        for row in rows
    ]
    texts = [dataclasses.replace(item, audio="") for item in spoken]

    def build(name: str) -> MetricTask:
        if name.startswith("asr"):
            return AsrTask(name, spoken, "zh")
        recogniser = make_recogniser(config, "zh")
        items = read_seed_tts(write_seed_tts(folder / "seed-zh", spoken)) if name.startswith("seed") else texts
        return TtsTask(name, items, recogniser, "zh")

    return [or_missing(name, lambda name=name: build(name)) for name in CHINESE]  # type: ignore[misc]


def _own(folder: Path, asked: Sequence[Example]) -> list[Example]:
    from emova_eval.suite.datasets import read_own

    return read_own(write_own(folder, asked))


class LocalLatency(LatencyTask):
    """The latency of the model under test, in this process."""

    def __init__(self, asked: Sequence[Example]) -> None:
        super().__init__([dataclasses.replace(item, images=()) for item in asked[:4]], repeats=2)

    def ask(self, model: AssistantModel, example: Example) -> Output:  # type: ignore[override]  # timed in this process
        """The assistant, timed."""
        return super().ask(AssistantTalker(model.assistant, model.name), example)


def offline_tasks(config: SuiteConfig) -> list[Built]:
    """All that can run here, and a line for each task that cannot."""
    asked = questions()
    return [*speech_tasks(config, asked), *vision_tasks(config), or_missing("latency", lambda: LocalLatency(asked))]
