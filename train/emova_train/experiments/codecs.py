"""Which codec a language model learns faster (GLM-4-Voice section 3.1 chooses its tokenizer for that): one model of
nano's shape from nothing on the units of each, as many tokens for all, with several seeds.

At each point of a run the model transcribes held-out utterances (it hears) and reads held-out texts aloud through the
codec's own decoder, which a recogniser writes down (it speaks). Points that were measured are only read, a run that was
interrupted goes on, and a run that is finished leaves its figures alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from emova.checkpoint.loading import find_checkpoint
from emova.checkpoint.registry import load_tokenizer
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova.core.writing import write_text
from emova.engine.decoder import best_decoder
from emova.engine.engine import EngineConfig
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.speech.tokenizer.units import units_of
from emova_train.data.recipe import Recipe, read_recipe
from emova_train.data.units import spread, tokenize_set
from emova_train.experiments.paradigms import draw_asr, transcript_errors
from emova_train.experiments.tables import over_seeds
from emova_train.stages.config import InitConfig, StageConfig
from emova_train.stages.program import train
from emova_train.stages.tasks import ConversationConfig, Conversations
from emova_train.stages.validation import SampleConfig, Samples, Try, Writer, plain_words, word_edits

RESULT = "points.json"
SECONDS = 12
"""Of speech that a sentence may take at most."""


@dataclass(frozen=True)
class LearningConfig:
    """The comparison.

    Attributes:
        stage: rates, mixture, losses and packs: nano's first stage, without what only one kind of units has (embeddings
            that start from phones, noise along the quantiser's levels).
        model: the shape.
        tokenizer: a checkpoint or folder with the text tokenizer; its vocabulary has as many units as each codec.
        data: the recipe's folder; ``asr`` and ``tts`` are its sets.
        tokens: of one run, those of its units among them.
        points: of a run at which it is measured, the last at its end.
        seeds: runs of each codec.
        shards: of each set and split that are tokenised; 0: all.
        utterances, sentences: held-out ones that are transcribed and read aloud at a point.
        overrides: ``key=value`` of the stage.
    """

    stage: str = "stages/nano/stage0"
    model: str = "model/nano"
    tokenizer: str = "emova-nano"
    data: str = "data/nano"
    output: str = "runs/codecs/learning"
    asr: tuple[str, ...] = ("question",)
    tts: tuple[str, ...] = ("answer",)
    tokens: int = 400_000
    points: int = 3
    seeds: int = 3
    shards: int = 6
    utterances: int = 48
    sentences: int = 16
    threads: int = 1
    overrides: tuple[str, ...] = ("run.batch_size=1",)

    def __post_init__(self) -> None:
        if min(self.tokens, self.points, self.seeds, self.utterances, self.sentences, self.threads) < 1:
            raise InputError("codecs: tokens, points, seeds, utterances, sentences and threads are at least 1")


@dataclass(frozen=True)
class Learnt:
    """A codec whose units are learnt.

    Attributes:
        tokenizer: its folder.
        heard: what a recogniser writes down of units spoken by its decoder; None where it has none.
    """

    name: str
    tokenizer: Path
    heard: Callable[[Sequence[int]], str] | None = None

    @property
    def units(self) -> str:
        """The folder of the data's units."""
        return f"units-{hashlib.sha256(units_of(self.tokenizer).encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Point:
    """What a model can do after so many tokens: word errors as shares, and the share of a transcript's next tokens that
    it finds likeliest, which tells codecs apart before words are right. NaN: the codec has no decoder."""

    tokens: int
    hear: float
    speak: float
    next_tokens: float


@dataclass(frozen=True)
class Cell:
    """One run: a codec and a seed."""

    codec: Learnt
    seed: int
    config: StageConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run.output_dir)

    @property
    def done(self) -> bool:
        """Whether its points are all there."""
        return (self.folder / RESULT).is_file()

    @property
    def tokens(self) -> int:
        """That it reads, about."""
        return self.config.run.max_steps * tokens_a_step(self.config)


def tokens_a_step(config: StageConfig) -> int:
    """Of a stage, about: a pack's last conversation may stick out."""
    return config.run.batch_size * config.run.gradient_accumulation * config.data.pack_tokens


def cells(config: LearningConfig, codecs: Sequence[Learnt]) -> Iterator[Cell]:
    """All runs, every codec with one seed before the next seed."""
    for seed in range(config.seeds):
        for codec in codecs:
            yield Cell(codec, seed, stage_of(config, codec, seed))


def stage_of(config: LearningConfig, codec: Learnt, seed: int) -> StageConfig:
    """The training of a cell, in a folder that bears a digest of all that its figures depend on."""
    stage = load_config(StageConfig, config.stage, list(config.overrides), kind="stages")
    every = max(1, -(-config.tokens // (tokens_a_step(stage) * config.points)))
    run = replace(
        stage.run, seed=seed, max_steps=every * config.points, eval_every=every, save_every=every, output_dir="",
        threads=0,
    )  # fmt: skip
    data = replace(
        stage.data, root=config.data, asr=list(config.asr), tts=list(config.tts), units=codec.units,
        conversations=replace(stage.data.conversations, unit_noise=0.0),
    )  # fmt: skip
    init = InitConfig(model=config.model, tokenizer=str(find_checkpoint(config.tokenizer)))
    samples = SampleConfig(answers=0, losses_over=config.utterances)  # what it answers is measured by ``measure``
    made = replace(stage, run=run, init=init, data=data, samples=samples)
    measured = [config.utterances, config.sentences, config.shards]
    told = asdict(replace(made, init=replace(init, tokenizer=config.tokenizer)))  # wherever its folder lies
    digest = hashlib.sha256(json.dumps([told, measured], sort_keys=True).encode()).hexdigest()[:10]
    folder = Path(config.output) / f"{codec.units}-seed{seed}-{digest}"
    return replace(made, run=replace(run, output_dir=str(folder), threads=config.threads))


def prepare(config: LearningConfig, codecs: Sequence[Learnt]) -> None:
    """Tokenise the speech with each codec; shards that were tokenised before are read.

    Raises:
        InputError: a codec has another number of units than the vocabulary, or the data are missing.
    """
    folder = find_checkpoint(config.tokenizer)
    known = TokenIds.from_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder)).codebook_size
    for codec in codecs:
        size = load_tokenizer(codec.tokenizer).codebook_size
        if size != known:
            raise InputError(
                f"{codec.name}: {size} units, the vocabulary of {config.tokenizer} has {known}; give --set tokenizer= "
                f"one that `emova train tokenizer --codebook-size {size}` made"
            )
    for codec in codecs:
        # The splits' answers are shared, and every recipe has them: ``answer`` is read whatever is learnt.
        for name in dict.fromkeys((*config.asr, *config.tts, "question", "answer")):
            tokenize_set(codec.tokenizer, Path(config.data), name, config.threads, folder=codec.units,
                         most=config.shards)  # fmt: skip


def run_cell(config: LearningConfig, cell: Cell) -> list[Point]:
    """Train one cell, go on with it, or read what it gave. Its checkpoints go when all points are written."""
    kept = cell.folder / RESULT
    if cell.done:
        return [Point(**each) for each in json.loads(kept.read_text(encoding="utf-8"))]

    @cache
    def held_out() -> Recipe:
        # The texts of the spoken questions are held out; those of the answers are not.
        return read_recipe(config.data, "test", asr=config.asr, tts=config.asr, units=cell.codec.units)

    def measured(model: EmovaForConditionalGeneration, processor: EmovaProcessor, step: int) -> Mapping[str, float]:
        known = cell.folder / f"measured-{step}.json"
        if known.is_file():
            return dict(json.loads(known.read_text(encoding="utf-8")))
        figures = measure(model, processor, held_out(), config, cell.codec)
        write_text(known, json.dumps(figures))
        return figures

    train(cell.config, measured)
    points = [
        Point(int(row["step"]) * tokens_a_step(cell.config), row["hear_wer"], _number(row.get("speak_wer")),
              _number(row.get("transcript_accuracy")))
        for row in _validations(cell.folder)
    ]  # fmt: skip
    write_text(kept, json.dumps([asdict(point) for point in points], indent=1) + "\n")
    for path in cell.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    return points


def _validations(folder: Path) -> list[dict[str, float]]:
    from emova_train.core.metrics import FILE_NAME, read

    return [row for row in read(folder / FILE_NAME) if row["kind"] == "eval"]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def measure(
    model: EmovaForConditionalGeneration, processor: EmovaProcessor, held_out: Recipe, config: LearningConfig,
    codec: Learnt,
) -> dict[str, float]:  # fmt: skip
    """``hear_wer`` on held-out utterances, and ``speak_wer`` on held-out texts where the codec has a decoder."""
    conversations = Conversations(held_out, processor, ConversationConfig(turns=1, unit_noise=0.0))
    writer = Writer(processor, conversations.table, conversations.reply_format)
    rate = load_tokenizer(codec.tokenizer).unit_rate
    limits = SampleConfig(max_tokens=40, max_units=int(SECONDS * rate), unit_rate=rate)
    samples = Samples(limits, [], writer, Path())
    decoder = best_decoder(model, EngineConfig())
    wrong, total = transcript_errors(samples.answers(model, draw_asr(conversations, config.utterances), decoder))
    figures = {"hear_wer": wrong / max(total, 1)}
    if codec.heard is None:
        return figures
    texts = spread(sorted(held_out.tts.by_text), config.sentences)
    wrong = total = 0
    asked = [_read_aloud(text, conversations.reply_format("tts").speak_prompt) for text in texts]
    for text, shown in zip(texts, samples.answers(model, asked, decoder), strict=True):
        reference = plain_words(text)
        heard = plain_words(codec.heard(shown.said)) if shown.said else []
        wrong, total = wrong + word_edits(reference, heard), total + len(reference)
    return figures | {"speak_wer": wrong / max(total, 1)}


def _read_aloud(text: str, prompt: str) -> Try:
    asked = {"role": "user", "content": [{"type": "text", "text": prompt + text}]}
    return Try("tts", (asked, {"role": "assistant", "content": [{"type": "audio", "units": []}]}), True)


def table(found: Mapping[str, Sequence[Sequence[Point]]]) -> str:
    """By codec and tokens: words wrong in per cent when it hears and when it speaks, and next tokens right; mean ±
    standard deviation over the seeds."""
    heads = ["codec", "tokens", "seeds", "hears, WER %", "speaks, WER %", "transcript's next tokens right %"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, runs in found.items():
        for points in zip(*runs, strict=False):
            cells_of = [
                over_seeds([100 * getattr(point, key) for point in points]) for key in ("hear", "speak", "next_tokens")
            ]
            lines.append(f"| {' | '.join([name, f'{points[0].tokens:,}', str(len(points)), *cells_of])} |")
    return "\n".join(lines) + "\n"
