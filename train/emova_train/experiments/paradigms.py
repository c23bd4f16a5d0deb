"""The omni-modal alignment paradigms of EMOVA section 4.1, and the ways of aligning pictures of its Table 7.

A paradigm is a row of phases; each is a stage (``emova_train.stages.program``) that starts from the phase before.
Paradigms that begin alike share those phases, so nothing is trained twice, and what is finished is only read again. As
in the paper, speech is measured on the aligned model, pictures after a short tuning on questions about pictures.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from emova.core.config import find_config, load_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.data.recipe import Picture, Recipe, read_recipe
from emova_train.experiments.tables import read_rows
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.program import train
from emova_train.stages.sample_page import Shown
from emova_train.stages.tasks import ConversationConfig, Conversations
from emova_train.stages.validation import SampleConfig, Samples, Try, Writer, draw_tries, plain_words, word_edits

FOLDER = find_config("paradigms/nano").parent
SIZES = ("small", "nano")
"""Files of ``FOLDER`` that say what all paradigms have in common."""
TABLE7 = "table7"
"""The folder below it with the rows of that table."""


@dataclass(frozen=True)
class PhaseConfig:
    """Passes over the image-text and the speech-text data."""

    image: float = 0.0
    speech: float = 0.0


@dataclass(frozen=True)
class ParadigmConfig:
    """One of the paradigms."""

    title: str = ""
    phases: list[PhaseConfig] = field(default_factory=list)
    units: str = "units"
    """The folder of the data's units; see ``emova_train.stages.data.DataConfig``."""
    vision_rate: float = 1.0
    """The tower's rate in the phases, in the stage's; 0 freezes it."""
    vision_share: float | None = None
    """The share of the tower's blocks that they train, from the deep end; None: the stage's."""
    template: str = "qa"
    """How they ask for a caption; see ``emova_train.stages.tasks.ConversationConfig``."""

    def __post_init__(self) -> None:
        if not self.title or not self.phases:
            raise InputError("a paradigm has a title and phases")
        if any(min(phase.image, phase.speech) < 0 or phase.image + phase.speech == 0 for phase in self.phases):
            raise InputError(f"{self.title}: a phase has an amount of image, speech or both, none below 0")

    def sees(self, modality: str) -> bool:
        """Whether any phase has data of ``image`` or ``speech``."""
        return any(getattr(phase, modality) > 0 for phase in self.phases)


@dataclass(frozen=True)
class ComparisonConfig:
    """What all paradigms share; the shipped ``paradigms/nano`` comments the fields."""

    stage: str = "stages/nano/stage2"
    model: str = "model/nano"
    tokenizer: str = "runs/tokenizer-nano"
    vision: str = ""
    data: str = "data/nano"
    output: str = "runs/paradigms"
    steps: int = 100
    text: float = 1.0
    tune: float = 0.5
    image_tasks: dict[str, float] = field(default_factory=lambda: {"caption": 1.0})
    speech_tasks: dict[str, float] = field(default_factory=lambda: {"asr": 0.6, "tts": 0.4})
    tune_tasks: dict[str, float] = field(default_factory=lambda: {"picture_text": 1.0})
    pictures: int = 180
    utterances: int = 120
    threads: int = 1
    prepare: dict[str, str] = field(default_factory=dict)
    """What has to be there before: a file or folder, and the ``emova`` command that makes it; see ``prepare``."""


@dataclass(frozen=True)
class Phase:
    """One stage to be run: its name among the phases, the stage without its start, and how it is reached."""

    folder: Path
    config: StageConfig

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def tokens(self) -> int:
        """That it reads, about."""
        run = self.config.run
        return run.max_steps * run.batch_size * run.gradient_accumulation * self.config.data.pack_tokens


@dataclass(frozen=True)
class Outcome:
    """Figures of one paradigm and seed: shares from 0 to 1, higher is better, by benchmark.

    ``pictures`` and ``asr`` are of answers that the model wrote; ``tokens: …`` of the same kinds of answers, the share
    of tokens that it finds likeliest after those before, which tells paradigms apart long before answers are right.
    """

    paradigm: str
    seed: int
    scores: dict[str, float]


def paradigms(names: Sequence[str] = (), folder: Path = FOLDER) -> dict[str, ParadigmConfig]:
    """The shipped paradigms, or the named ones. Raises: InputError: a name is unknown."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem not in SIZES}
    for name in names:
        if name not in files:
            raise InputError(f"paradigm {name[:40]!r} is unknown; there are {', '.join(files) or 'none'} in {folder}")
    return {name: load_config(ParadigmConfig, path) for name, path in files.items() if not names or name in names}


def plan(comparison: ComparisonConfig, paradigm: ParadigmConfig, seed: int) -> list[Phase]:
    """The phases of a paradigm: text, its own, and where it sees pictures the tuning."""
    made: list[Phase] = []

    def add(name: str, passes: float, tasks: dict[str, float], rates: RatesConfig, template: str = "qa") -> None:
        made.append(_phase(comparison, stage, paradigm.units, seed, made, name, passes, tasks, rates, template))

    stage = _stage(comparison.stage)
    aligned = replace(stage.rates, vision=stage.rates.vision * paradigm.vision_rate)
    if paradigm.vision_share is not None:
        aligned = replace(aligned, vision_share=paradigm.vision_share)
    add("text", comparison.text, {"talk_text": 1.0}, RatesConfig(llm=stage.rates.llm))
    for phase in paradigm.phases:
        tasks: dict[str, float] = {}
        for passes, of in ((phase.image, comparison.image_tasks), (phase.speech, comparison.speech_tasks)):
            total = sum(of.values())
            tasks |= {task: passes * weight / total for task, weight in of.items() if passes > 0}
        name = "-".join(kind for kind in ("image", "speech") if getattr(phase, kind) > 0)
        add(name, phase.image + phase.speech, tasks, aligned, paradigm.template)
    if paradigm.sees("image"):
        add("tune", comparison.tune, comparison.tune_tasks, stage.rates)
    return made


@functools.lru_cache(maxsize=4)
def _stage(path: str) -> StageConfig:
    return load_config(StageConfig, path, kind="stages")


def _phase(
    comparison: ComparisonConfig,
    stage: StageConfig,
    units: str,
    seed: int,
    before: Sequence[Phase],
    name: str,
    passes: float,
    tasks: dict[str, float],
    rates: RatesConfig,
    template: str,
) -> Phase:
    speech = any(task in comparison.speech_tasks for task in tasks)
    steps = max(1, round(passes * comparison.steps))
    run = replace(
        stage.run, seed=seed, max_steps=steps, save_every=max(1, steps // 2), eval_every=steps, output_dir="",
        threads=comparison.threads,
    )  # fmt: skip
    config = replace(
        stage,
        run=run,
        init=InitConfig(model=comparison.model, tokenizer=comparison.tokenizer, vision=comparison.vision),
        rates=rates,
        # Without speech the units do not matter: both kinds then share the phase.
        data=replace(
            stage.data,
            root=comparison.data,
            mixture=tasks,
            units=units if speech else "units",
            conversations=replace(stage.data.conversations, template=template),
        ),
        samples=SampleConfig(answers=0, losses_over=comparison.utterances),
    )
    # Where the data and the threads lie changes nothing; what was done before does.
    facts = asdict(replace(config, run=replace(run, threads=0)))
    told = json.dumps([before[-1].folder.name if before else "", facts], sort_keys=True)
    folder = Path(comparison.output) / "phases" / f"seed{seed}-{name}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"
    if before:
        config = replace(config, init=InitConfig(checkpoint=str(before[-1].export)))
    return Phase(folder, replace(config, run=replace(config.run, output_dir=str(folder))))


def prepare(comparison: ComparisonConfig) -> None:
    """Make what has to be there before; each command is run as a process of its own, where its result is missing.

    Raises:
        InputError: a command did not make what it was to make.
    """
    for made, command in comparison.prepare.items():
        if not Path(made).exists():
            print(f"emova {command}", file=sys.stderr, flush=True)
            code = subprocess.run([sys.executable, "-m", "emova.cli.main", *shlex.split(command)], check=False)
            if code.returncode or not Path(made).exists():
                raise InputError(f"prepare: `emova {command}` did not make {made}; see its message")


def is_done(phase: Phase) -> bool:
    """Whether the phase has been trained to its end."""
    return (phase.folder / "done.json").is_file()


def run_phase(phase: Phase) -> None:
    """Train a phase, or go on with it. Raises: InputError."""
    if not is_done(phase):
        result = train(phase.config)
        facts = {"steps": result.steps, "seconds": result.seconds, "terms": dict(result.train_terms)}
        facts["held_out"] = dict(result.eval_terms)
        write_text(phase.folder / "done.json", json.dumps(facts, indent=1) + "\n")


def _held_out_terms(phase: Phase) -> dict[str, float]:
    """The losses and shares of right tokens that a finished phase had on held-out samples."""
    return json.loads((phase.folder / "done.json").read_text(encoding="utf-8"))["held_out"]


def _result_file(comparison: ComparisonConfig, name: str, last: Phase) -> Path:
    asked = f"{comparison.pictures}-{comparison.utterances}"
    return Path(comparison.output) / "results" / f"{name}-{last.folder.name}-{asked}.json"


def is_measured(comparison: ComparisonConfig, name: str, paradigm: ParadigmConfig, seed: int) -> bool:
    """Whether the outcome is there, so that ``run_paradigm`` trains nothing."""
    return _result_file(comparison, name, plan(comparison, paradigm, seed)[-1]).is_file()


def row_of(comparison: ComparisonConfig, paradigm: ParadigmConfig, outcome: Outcome) -> dict[str, str | int | float]:
    """An outcome with what it was measured on, for ``join``: its last phase (named after all before) and its tests."""
    return {
        "paradigm": outcome.paradigm,
        "seed": outcome.seed,
        "phases": plan(comparison, paradigm, outcome.seed)[-1].folder.name,
        "asked": f"{comparison.pictures} pictures, {comparison.utterances} utterances",
        **outcome.scores,
    }


def join(comparison: ComparisonConfig, chosen: Mapping[str, ParadigmConfig], file: Path) -> int:
    """Take over outcomes that another machine measured, so that ``run_paradigm`` reads them. Returns: how many.

    Raises:
        InputError: the file holds no results, or one of a chosen paradigm that was trained or asked otherwise.
    """
    rows = read_rows(file)
    try:
        outcomes = [Outcome(row["paradigm"], int(row["seed"]), _scores(row)) for row in rows]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: no results of paradigms ({error}); give a results.json of theirs") from error
    found = [(row, each) for row, each in zip(rows, outcomes, strict=True) if each.paradigm in chosen]
    for row, outcome in found:
        own = row_of(comparison, chosen[outcome.paradigm], outcome)
        if differing := [key for key in ("phases", "asked") if row.get(key) != own[key]]:
            raise InputError(
                f"{file}: {outcome.paradigm}, seed {outcome.seed}, has other {differing[0]} ({row.get(differing[0])}) "
                f"than here ({own[differing[0]]}); join results of the same size, steps and configs"
            )
    for _, outcome in found:
        last = plan(comparison, chosen[outcome.paradigm], outcome.seed)[-1]
        known = _result_file(comparison, outcome.paradigm, last)
        known.parent.mkdir(parents=True, exist_ok=True)
        write_text(known, json.dumps(outcome.scores, indent=1) + "\n")
    return len(found)


def _scores(row: Mapping[str, str | int | float]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key not in ("paradigm", "seed", "phases", "asked")}


def run_paradigm(comparison: ComparisonConfig, name: str, paradigm: ParadigmConfig, seed: int) -> Outcome:
    """Train and measure; finished parts are read from the disk. Raises: InputError."""
    phases = plan(comparison, paradigm, seed)
    known = _result_file(comparison, name, phases[-1])
    if known.is_file():
        return Outcome(name, seed, json.loads(known.read_text(encoding="utf-8")))
    for phase in phases:
        run_phase(phase)
    held_out = read_recipe(
        comparison.data,
        "test",
        speech=paradigm.sees("speech"),
        asr=phases[-1].config.data.asr,
        tts=phases[-1].config.data.tts,
        units=paradigm.units,
    )
    scores: dict[str, float] = {}
    if paradigm.sees("image"):
        scores |= picture_scores(phases[-1].export, held_out, comparison.pictures)
        scores["tokens: pictures"] = _held_out_terms(phases[-1])["text_accuracy"]
    if paradigm.sees("speech"):
        aligned = phases[-2] if paradigm.sees("image") else phases[-1]
        scores["asr"] = asr_score(aligned.export, held_out, comparison.utterances)
        scores["tokens: asr"] = _held_out_terms(aligned)["transcript_accuracy"]
    known.parent.mkdir(parents=True, exist_ok=True)
    write_text(known, json.dumps(scores, indent=1) + "\n")
    return Outcome(name, seed, scores)


def _asker(checkpoint: Path, recipe: Recipe) -> tuple[EmovaForConditionalGeneration, Conversations, Samples]:
    model = EmovaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    processor = EmovaProcessor.from_pretrained(checkpoint, local_files_only=True)
    conversations = Conversations(recipe, processor, ConversationConfig(turns=1, unit_noise=0.0))
    writer = Writer(processor, conversations.table, conversations.reply_format)
    return model.eval(), conversations, Samples(SampleConfig(), [], writer, checkpoint)


def picture_scores(checkpoint: Path, recipe: Recipe, count: int) -> dict[str, float]:
    """The share of exact answers to typed questions, by kind of picture and over all kinds alike (``pictures``)."""
    model, conversations, samples = _asker(checkpoint, recipe)
    by_kind: dict[str, list[Picture]] = {}
    for picture in conversations.asked:
        by_kind.setdefault(picture.kind, []).append(picture)
    rng = np.random.default_rng(17)
    scores = {}
    for kind, pictures in sorted(by_kind.items()):
        tries = []
        for number in range(-(-count // len(by_kind))):
            picture = pictures[int(rng.integers(len(pictures))) if number >= len(pictures) else number]
            exchange = picture.exchanges[int(rng.integers(len(picture.exchanges)))]
            asked = [{"type": "image", "image": picture.load()}, {"type": "text", "text": exchange.question}]
            messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": exchange.answer})
            tries.append(Try("picture_text", messages, False))
        shown = samples.answers(model, tries)
        right = [plain_words(each.written.answer) == plain_words(each.written.expected) for each in shown]
        scores[f"pictures: {kind}"] = float(np.mean(right))
    scores["pictures"] = float(np.mean(list(scores.values())))
    return scores


def asr_score(checkpoint: Path, recipe: Recipe, count: int) -> float:
    """1 - WER on held-out utterances, not below 0 (the paper's Figure 2 shows the same)."""
    model, conversations, samples = _asker(checkpoint, recipe)
    wrong, total = transcript_errors(samples.answers(model, draw_asr(conversations, count)))
    return max(0.0, 1 - wrong / max(total, 1))


def draw_asr(conversations: Conversations, count: int) -> list[Try]:
    """Held-out utterances to be transcribed, the same ones each time."""
    return draw_tries(SampleConfig(answers=count), conversations, {"asr": 1.0})


def transcript_errors(shown: Sequence[Shown]) -> tuple[int, int]:
    """Wrong words and words of the references, over all of the transcripts."""
    wrong = total = 0
    for each in shown:
        reference = plain_words(each.written.expected)
        wrong, total = wrong + word_edits(reference, plain_words(each.written.answer)), total + len(reference)
    return wrong, total
