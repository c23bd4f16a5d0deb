"""Tasks by name, and a run over several of them with its report."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from emova.checkpoint.loading import find_checkpoint, load_speech_tokenizer
from emova.core.errors import InputError
from emova_eval.judges.grading import AnswerJudge, EndpointJudge, OfflineJudge
from emova_eval.judges.voices import find_judges
from emova_eval.metrics.acoustics import EmotionJudge, shipped_judge
from emova_eval.models.assistant import AssistantModel, EvalModel, leakage, probe, timbre, unit_figures
from emova_eval.models.endpoint import Endpoint, EndpointConfig
from emova_eval.report.run_report import write_run_report
from emova_eval.suite.codec import ControllabilityTask, PhoneTask, ReconstructionTask, StylesTask
from emova_eval.suite.datasets import CONVERTERS, read_benchmark, read_mme, read_own, read_tsv
from emova_eval.suite.run_folder import RunFolder, hash_model, hash_path
from emova_eval.suite.runner import Figure, figure_of, missing_figure, run_task
from emova_eval.suite.samples import Example, Output, Record, Score
from emova_eval.suite.scoring import METRICS, Metric
from emova_eval.suite.tasks import (
    DIALOGUE_MODES,
    AsrTask,
    ClozeTask,
    DialogueTask,
    GeneralQaTask,
    KnowledgeTask,
    MetricTask,
    OwnTask,
    Recogniser,
    SpokenQaTask,
    TtsTask,
    read_aishell,
    read_librispeech,
    read_libritts,
    read_seed_tts,
)

# The fourteen benchmarks of EMOVA's Table 3 and their metrics.
VISION = {
    "mme": "mme",
    "mmbench": "circular",
    "seed": "choice",
    "mmvet": "mmvet",
    "realworldqa": "choice_or_exact",
    "textvqa": "vqa",
    "chartqa": "relaxed",
    "docvqa": "anls",
    "infovqa": "anls",
    "ocrbench": "ocrbench",
    "mathvista": "mathvista",
    "mathverse": "mathverse",
    "scienceqa": "choice",
    "ai2d": "choice",
}
SPEECH = (
    "asr-librispeech", "asr-librispeech-other", "asr-aishell-1", "asr-aishell-2", "tts-librispeech",
    "tts-libritts", "tts-aishell-2", "seed-tts", "seed-tts-zh",
)  # fmt: skip
FIXTURES = Path(__file__).parents[1] / "fixtures"
UNITS = ("units", "leakage-voice", "leakage-emotion")
CODEC = ("phones", "reconstruction", "styles", "controllability")
GENERAL, KNOWLEDGE = "general-qa", "knowledge"
SPOKEN_QA = ("web-questions", "llama-questions", "triviaqa")
STORIES = ("storycloze", "topic-storycloze")
TASKS = (
    *VISION,
    *SPEECH,
    *(f"dialogue-{mode}" for mode in DIALOGUE_MODES),
    *UNITS,
    *CODEC,
    *(f"{name}-{way}" for name in (*SPOKEN_QA, GENERAL, KNOWLEDGE, *STORIES) for way in ("s2t", "s2s")),
    "own",
)


@dataclass(frozen=True)
class SuiteConfig:
    """What is evaluated.

    Args:
        model: a checkpoint's name or folder.
        data: a benchmark's file or folder.
        images: its pictures, where they lie apart.
        output_dir: the run's folder.
        limit: at most so many questions of a task; 0 asks all.
        judge_url: an OpenAI-compatible address; empty judges offline.
        judge_model: the judge's name there.
        votes: how often the judge is asked.
        whisper: the folder of the recogniser that hears the model's speech, or a name such as ``large-v3``.
        paraformer: FunASR's recogniser that hears Chinese instead, such as ``paraformer-zh``.
        language: of dialogues and of recordings that are said again, ``en`` or ``zh``; other tasks have their own.
        emotion_judge: FunASR's emotion recogniser, such as ``iic/emotion2vec_plus_large``; empty takes the shipped one.
    """

    model: str = "emova-nano"
    data: str = ""
    images: str = ""
    output_dir: str = "runs/eval"
    limit: int = 0
    judge_url: str = ""
    judge_model: str = ""
    votes: int = 1
    whisper: str = "data/nano/sources/whisper-base"
    paraformer: str = ""
    language: str = "en"
    emotion_judge: str = ""


class MmVetTask(MetricTask):
    """MM-Vet: a language model grades each answer from 0 to 1."""

    def __init__(self, items: Sequence[Example], judge: EndpointJudge) -> None:
        super().__init__("mmvet", items, Metric("mmvet", lambda said, example: Score(0.0)), judge.name)
        self.answer_judge = judge

    def score(self, example: Example, output: Output) -> Score:
        """The judge's grade."""
        grade = self.answer_judge.mmvet(example.text, example.answers[0], output.text)
        return Score(grade.value, notes=grade.notes(), failure=grade.failure)


@dataclass(frozen=True)
class Codebook:
    """Of how many kinds units are, and how many of them a second has."""

    size: int
    rate: float

    @classmethod
    def of(cls, model: str) -> Codebook:
        """Of the units that a checkpoint's speech tokenizer makes. Raises: InputError: there is none."""
        tokenizer = load_speech_tokenizer(model)
        return cls(tokenizer.codebook_size, tokenizer.unit_rate)


class UnitsTask(MetricTask):
    """What units cost: bits a second by the entropy of the units that came.

    Further: ``bitrate`` without regard to how often each comes; ``used``, per cent of the codebook that came at all;
    ``perplexity``, two to the entropy. Entropy and use grow with the number of units, so compare equal sets alone.
    """

    def __init__(self, name: str, items: Sequence[Example], codebook: Codebook) -> None:
        def bits(records: Sequence[Record]) -> float:
            sequences = [record.notes["units"] for record in records if record.notes.get("units")]
            # Without units there is no figure: none at all would be the best bitrate.
            figures = unit_figures(sequences, codebook.size, codebook.rate) if sequences else {}
            return figures.get("entropy_bitrate", float("nan"))

        metric = Metric("units", lambda said, example: Score(0.0), "bit/s", higher_is_better=False, aggregate=bits)
        super().__init__(name, items, metric, "none; counted")
        self.codebook = codebook

    def ask(self, model: EvalModel, example: Example) -> Output:
        """The units of a recording."""
        return Output(units=model.tokenize(example.audio))

    def score(self, example: Example, output: Output) -> Score:
        """How many units, kept one by one."""
        return Score(float(len(output.units)), notes={"units": [int(unit) for unit in output.units]})

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """The plain bitrate, codebook use and perplexity."""
        sequences = [record.notes["units"] for record in records if record.notes.get("units")]
        if not sequences:
            return {}
        figures = unit_figures(sequences, self.codebook.size, self.codebook.rate)
        return {name: figures[name] for name in ("bitrate", "used", "perplexity")}


class LeakageTask(UnitsTask):
    """How much better than the commonest label a linear probe tells voice or emotion from units, in points.

    Examples have the sentence as ``text`` and the label in ``facts``. A recording without units is a failure; the probe
    cannot see it, so the count of failures must be read with the figure.
    """

    interval = False  # a probe trained anew for each draw would take hours

    def __init__(self, name: str, items: Sequence[Example], label: str, codebook: Codebook) -> None:
        labels = {item.facts.get(label) for item in items}
        if len(labels) < 2 or None in labels or len({item.text for item in items}) < 2:
            raise InputError(f"{name}: needs the group VOICE/EMOTION, two labels and two sentences at least")
        super().__init__(name, items, codebook)

        def above_chance(records: Sequence[Record]) -> float:
            seen = [record for record in records if record.notes.get("units")]
            if len({record.notes[label] for record in seen}) < 2 or len({record.question for record in seen}) < 2:
                return float("nan")  # nothing to tell apart is not the same as nothing that leaks
            found = leakage(
                [record.notes["units"] for record in seen],
                [record.notes[label] for record in seen],
                [record.question for record in seen],
                codebook.size,
            )
            return found[0] - found[1]

        self.metric = dataclasses.replace(self.metric, unit="points over chance", aggregate=above_chance)
        self.judge = "linear probe on histograms of units, sentences held out"
        self.label = label

    def score(self, example: Example, output: Output) -> Score:
        """The units, the label, and what the sound itself tells."""
        score = super().score(example, output)
        notes = {**score.notes, self.label: example.facts[self.label], "timbre": timbre(example.audio)}
        return dataclasses.replace(score, notes=notes)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """Shares right: of the probe on units, of always the commonest label, of a like probe on the recordings."""
        seen = [record for record in records if record.notes.get("units")]
        if len({record.notes[self.label] for record in seen}) < 2 or len({record.question for record in seen}) < 2:
            return {}
        labels, sentences = [record.notes[self.label] for record in seen], [record.question for record in seen]
        found, chance = leakage([r.notes["units"] for r in seen], labels, sentences, self.codebook.size)
        figures = {"probe": found / 100, "chance": chance / 100}
        if all(record.notes.get("timbre") for record in seen):
            sound = np.array([record.notes["timbre"] for record in seen])
            sound = (sound - sound.mean(0)) / (sound.std(0) + 1e-6)
            figures["from_the_sound"] = probe(sound, labels, sentences)[0] / 100
        return figures


def leakage_task(name: str, items: Sequence[Example], codebook: Codebook) -> LeakageTask:
    """``leakage-voice`` or ``leakage-emotion`` on recordings whose group is ``VOICE/EMOTION``."""
    labelled = []
    for item in items:
        voice, _, emotion = item.group.partition("/")
        facts = {key: value for key, value in (("voice", voice), ("emotion", emotion)) if value}
        labelled.append(dataclasses.replace(item, facts=facts, group=""))
    random.Random(0).shuffle(labelled)  # so that a limited run has all labels
    return LeakageTask(name, labelled, name.removeprefix("leakage-"), codebook)


def make_judge(config: SuiteConfig) -> AnswerJudge:
    """The judge that the settings name."""
    if not config.judge_url:
        return OfflineJudge()
    if not config.judge_model:
        raise InputError("judge: name its model with --judge-model")
    cache = str(Path(config.output_dir) / "judge")
    return EndpointJudge(Endpoint(EndpointConfig(config.judge_url, config.judge_model, cache=cache)), config.votes)


def make_recogniser(config: SuiteConfig, language: str = "en") -> Recogniser:
    """The recogniser that hears the model's speech. Raises: InputError: it is not there."""
    return _recogniser(config.whisper, config.paraformer if language == "zh" else "", language)


@cache
def _recogniser(whisper: str, paraformer: str, language: str) -> Recogniser:
    from emova_eval.judges.words import ParaformerJudge, WhisperJudge

    return ParaformerJudge(paraformer) if paraformer else WhisperJudge(whisper, language=language)


def make_emotion_judge(config: SuiteConfig) -> EmotionJudge:
    """What hears emotions in the model's speech. Raises: InputError: it is not there."""
    from emova_eval.judges.words import Emotion2vecJudge

    return Emotion2vecJudge(config.emotion_judge) if config.emotion_judge else shipped_judge()


def build_task(name: str, config: SuiteConfig) -> MetricTask:
    """The task of this name on ``config.data``. Raises: InputError: unknown, or the data cannot be used."""
    if name not in TASKS:
        raise InputError(f"task: {name[:40]!r} is unknown; choose from {', '.join(TASKS)}")
    if not config.data:
        raise InputError(f"{name}: give its file or folder with --data")
    data = Path(config.data)
    if name in VISION:
        return _vision(name, data, config)
    if name in UNITS:
        items, codebook = read_own(data), Codebook.of(config.model)
        if name == "units":
            return UnitsTask(name, [dataclasses.replace(item, group="") for item in items], codebook)
        return leakage_task(name, items, codebook)
    if name in CODEC:
        return _codec(name, data, config)
    if name == "own":
        return OwnTask(f"own-{data.name}", read_own(data))
    if name in SPEECH:
        language = "zh" if "aishell" in name or name.endswith("-zh") else "en"
        if name.startswith("seed-tts"):
            items = read_seed_tts(data)
            return TtsTask(name, items, make_recogniser(config, language), language, judges=find_judges())
        reader = read_aishell if language == "zh" else read_libritts if name.endswith("libritts") else read_librispeech
        items = reader(data)
        if name.startswith("asr"):
            return AsrTask(name, items, language)
        items = [dataclasses.replace(item, text=item.answers[0]) for item in items]
        return TtsTask(name, items, make_recogniser(config, language), language, judges=find_judges())
    items = read_spoken(data)
    if name.startswith("dialogue-"):
        mode = name.removeprefix("dialogue-")
        recogniser = make_recogniser(config, config.language) if mode == "end-to-end" else None
        return DialogueTask(name, items, mode, make_judge(config), recogniser, config.language)
    spoken = name.endswith("-s2s")
    if name.rsplit("-", 1)[0] in STORIES:
        return ClozeTask(name, items, spoken)
    judge = make_judge(config)
    if name.startswith((GENERAL, KNOWLEDGE)):
        if not isinstance(judge, EndpointJudge):
            raise InputError(f"{name}: its grades need a language model; give --judge and --judge-model")
        recogniser = make_recogniser(config) if spoken else None
        if name.startswith(KNOWLEDGE):
            return KnowledgeTask(name, items, judge, recogniser)
        return GeneralQaTask(name, items, judge, recogniser, find_judges() if spoken else None)
    return SpokenQaTask(
        name, items, make_recogniser(config) if spoken else None, judge if isinstance(judge, EndpointJudge) else None
    )


def _codec(name: str, data: Path, config: SuiteConfig) -> MetricTask:
    """The codec's tasks on a folder of one's own (``answer`` holds the words, or the phones) or of LibriSpeech's."""
    items = read_own(data) if (data / "meta.jsonl").is_file() else read_librispeech(data)
    if name == "controllability":
        items = [dataclasses.replace(item, text=item.text or item.answers[0], audio="", group="") for item in items
                 if item.text or item.answers]  # fmt: skip
        if not items:
            raise InputError(f"{data}: no line has a text to be read aloud")
        return ControllabilityTask(name, items, make_emotion_judge(config))
    items = [dataclasses.replace(item, group="") for item in items if item.audio]
    if not items:
        raise InputError(f"{data}: no question has audio")
    if name == "phones":
        return PhoneTask(name, items, "the data set's")
    if name == "styles":
        return StylesTask(name, items, make_emotion_judge(config))
    return ReconstructionTask(name, items, make_recogniser(config, config.language), find_judges(), config.language)


def tasks_in(root: Path, config: SuiteConfig) -> list[MetricTask | Figure]:
    """A task for each file or folder in ``root`` that bears its name, and a line for each that has none.

    Raises:
        InputError: nothing in the folder bears a task's name.
    """
    places = {path.stem if path.is_file() else path.name: path for path in sorted(root.glob("*"))}
    found: list[MetricTask | Figure] = []
    for name in TASKS:
        if name not in places:
            found.append(missing_figure(name, f"no file or folder of this name in {root}"))
            continue
        try:
            found.append(build_task(name, dataclasses.replace(config, data=str(places[name]))))
        except InputError as error:
            found.append(missing_figure(name, str(error)))
    if not any(isinstance(task, MetricTask) or task.task in places for task in found):
        raise InputError(f"{root}: nothing here bears a task's name; they are {', '.join(TASKS)}")
    return found


def read_spoken(folder: Path) -> list[Example]:
    """Dialogues, spoken questions and stories: a folder as ``read_own`` takes it.

    A dialogue's ``group`` may be ``EMOTION/PITCH``, the labels of its reference; a story has the context as ``audio``
    and its right and wrong ending as ``choices``, texts for S→T and files of the folder for S→S.
    """
    items = []
    for item in read_own(folder):
        facts = dict(item.facts)
        emotion, slash, pitch = item.group.partition("/")
        if slash:
            facts |= {"emotion": emotion, "pitch": pitch}
        if len(item.choices) == 2:
            facts |= {
                key: str(folder / Path(file).name) for key, file in zip(("right", "wrong"), item.choices, strict=True)
            }
        items.append(dataclasses.replace(item, facts=facts))
    return items


def _vision(name: str, data: Path, config: SuiteConfig) -> MetricTask:
    metric = VISION[name]
    if name == "mme" and data.is_dir():
        items = read_mme(data)
    elif data.suffix == ".tsv":
        items = read_tsv(data, metric, Path(config.output_dir) / "media")
    elif name in CONVERTERS:
        items = read_benchmark(name, data, config.images or data.parent / "images")
    else:
        raise InputError(f"{name}: give a .tsv file in VLMEvalKit's format")
    if name == "mmvet":
        judge = make_judge(config)
        if not isinstance(judge, EndpointJudge):
            raise InputError("mmvet: its grades need a language model; give --judge and --judge-model")
        return MmVetTask(items, judge)
    return MetricTask(name, items, METRICS[metric])


def _hash_of(model: str) -> str:
    try:
        return hash_model(find_checkpoint(model))
    except InputError:
        return "no checkpoint here"  # a server's model; our own would not have loaded


def run_suite(
    tasks: Sequence[MetricTask | Figure],
    config: SuiteConfig,
    title: str,
    model: EvalModel | None = None,
    advance: Callable[[str], object] = lambda line: None,
) -> list[Figure]:
    """Run tasks into one folder and write its report; a ``Figure`` among them is a task that could not be built.

    An interrupt writes the report of what is there, names what is missing, and goes on to its caller.
    """
    facts = {
        **asdict(config),
        "output_dir": ".",
        "model_hash": _hash_of(config.model),
        "data_hash": hash_path(config.data) if config.data else hash_path(FIXTURES),
        "tasks": [task.task if isinstance(task, Figure) else task.name for task in tasks],
    }
    model = model or AssistantModel(config.model)
    folder = RunFolder(config.output_dir, facts)
    figures: list[Figure] = []
    records: list[Record] = []

    def finish() -> None:
        write_run_report(title, figures, folder, records)

    for index, task in enumerate(tasks):
        if isinstance(task, Figure):
            figures.append(task)
            continue
        advance(f"{task.name}: {len(list(task.examples()))} questions")
        try:
            found = run_task(task, model, folder, config.limit)
        except KeyboardInterrupt:
            left = tasks[index:]
            figures += [
                missing_figure(t.task if isinstance(t, Figure) else t.name, "interrupted; run again to go on")
                for t in left
            ]
            finish()
            raise
        records += found
        figures.append(dataclasses.replace(figure_of(task, found), absent=task.absent))
    finish()
    return figures
