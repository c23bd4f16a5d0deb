"""What a stage learns from and is tried on: a recipe's tasks, or converted sets at scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova_train.core.config import RunConfig
from emova_train.data.examples import Example
from emova_train.data.mixture import PackedMixture
from emova_train.data.pack_reader import TOKENS, ShardConfig
from emova_train.data.recipe import read_recipe
from emova_train.data.records import RecordRenderer
from emova_train.data.replies import reply_format_of
from emova_train.data.shards import Raw, find_mixture, find_set, read_shard
from emova_train.data.stream import ShardPacks
from emova_train.stages.tasks import SPEECH_TASKS, ConversationConfig, Conversations
from emova_train.stages.validation import SampleConfig, Try, Writer, draw_tries, set_task


@dataclass(frozen=True)
class DataConfig:
    """What a stage learns from: ``mixture`` names tasks over a recipe's data, ``sets`` converted sets; one of them."""

    root: str = "data/nano"
    mixture: dict[str, float] = field(default_factory=dict)
    """Weight of each task, in samples: caption, caption_reordered, picture_text, talk_text, asr, tts, spoken_talk,
    spoken_picture, teacher_forced_talk, teacher_forced_picture, interleaved_talk, interleaved_picture."""
    questions: list[str] = field(default_factory=lambda: ["question"])
    """Sets of units that ask the questions of the tasks ``spoken_*`` and ``interleaved_*``."""
    asr: list[str] = field(default_factory=lambda: ["question"])
    """Sets of units for ``asr``."""
    tts: list[str] = field(default_factory=lambda: ["answer"])
    """Sets of units for ``tts``."""
    units: str = "units"
    """The folder below ``root`` that the units are in; another tokenizer's lie in another."""
    sets: dict[str, float] = field(default_factory=dict)
    """Passes over each set of ``shards.root`` in an epoch (`emova data list --stage 2` shows the paper's), or with
    ``shards.shares=tokens`` each set's share of the tokens."""
    held_out: list[str] = field(default_factory=list)
    """Sets of ``shards.root`` whose first samples are for validation."""
    shards: ShardConfig = field(default_factory=ShardConfig)
    pack_tokens: int = 1024
    """Tokens a pack: at least so many of a recipe's samples, at most so many of a set's. Where conversations are
    counted (``run.global_batch_size``), a pass has ``run.batch_size`` of them, and this is the most of one."""
    max_tokens: int = 1024
    conversations: ConversationConfig = field(default_factory=ConversationConfig)

    def __post_init__(self) -> None:
        if self.sets and any(weight > 0 for weight in self.mixture.values()):
            raise InputError("data: give mixture (tasks of a recipe) or sets (converted sets), not both")

    @property
    def spelling(self) -> str:
        """How a text that is to be read aloud is spelled; empty where none is."""
        records = self.shards.records
        if self.sets:
            return records.spelling if records.both_directions or records.speak_share else ""
        return self.conversations.spelling if self.mixture.get("tts") else ""


@dataclass(frozen=True)
class StageData:
    """Everything that a stage reads.

    Attributes:
        train_set: of packs, for ``emova_train.core.loop.fit``.
        held_out: examples that the losses are measured on.
        tries: held-out samples that the model answers.
        writer: renders and reads answers.
        shares: each task's or set's share of the samples.
    """

    train_set: PackedMixture | ShardPacks
    held_out: list[Example]
    tries: list[Try]
    writer: Writer
    shares: dict[str, float]


def stage_data(config: DataConfig, samples: SampleConfig, processor: EmovaProcessor, *, context: int, packs: int,
               seed: int, conversations: bool = False) -> StageData:  # fmt: skip
    """Find the data of a stage.

    Args:
        context: positions of the model; longer samples are left out.
        packs: packs of the whole run, all processes together.
        conversations: a recipe's packs hold one conversation each, so that batches are counted in them.

    Raises:
        InputError: a task or set is unknown, has no data, or is damaged.
    """
    if config.sets:
        return _from_sets(config, samples, processor, min(config.max_tokens, context), seed)
    return _from_recipe(config, samples, processor, min(config.max_tokens, context), packs, seed, conversations)


def with_epochs(run: RunConfig, train_set: PackedMixture | ShardPacks) -> RunConfig:
    """``run`` with the steps that its ``epochs`` ask for: so many that every conversation is seen.

    Raises:
        InputError: a recipe's tasks are drawn without end.
    """
    if not run.epochs:
        return run
    if not isinstance(train_set, ShardPacks):
        raise InputError("run.epochs: a recipe's tasks are drawn without end; give run.max_steps, or data.sets")
    steps = math.ceil(train_set.conversations * run.epochs / run.global_batch_size - 1e-6)
    return replace(run, max_steps=max(1, steps))


def _from_recipe(
    config: DataConfig, samples: SampleConfig, processor: EmovaProcessor, limit: int, packs: int, seed: int,
    conversations: bool,
) -> StageData:  # fmt: skip
    speech = any(weight > 0 for task, weight in config.mixture.items() if task in SPEECH_TASKS)
    read = partial(
        read_recipe, config.root, speech=speech, questions=config.questions, asr=config.asr, tts=config.tts,
        units=config.units, styles=reply_format_of(processor).styles,
    )  # fmt: skip
    mixture = PackedMixture(
        Conversations(read("train"), processor, config.conversations),
        config.mixture,
        pack_tokens=config.pack_tokens,
        max_tokens=limit,
        size=min(packs, 10000),
        seed=seed,
        single=conversations,
    )
    plain = ConversationConfig(unit_noise=0.0, spelling=config.conversations.spelling)
    held_out = Conversations(read("test"), processor, plain)
    return StageData(
        train_set=mixture,
        held_out=held_out_examples(held_out, config.mixture, samples.losses_over),
        tries=draw_tries(samples, held_out, config.mixture),
        writer=Writer(held_out.processor, held_out.table, held_out.reply_format),
        shares={task.name: float(share) for task, share in zip(mixture.tasks, mixture.shares, strict=True)},
    )


def held_out_examples(conversations: Conversations, mixture: Mapping[str, float], count: int) -> list[Example]:
    """``count`` held-out samples of every task in the mixture that has any."""
    examples = []
    for number, (name, weight) in enumerate(mixture.items()):
        task = conversations.task(name)
        rng = np.random.default_rng([7, number])
        examples += [
            conversations.render(task.draw(rng), name) for _ in range(count if weight > 0 and task.size else 0)
        ]
    return examples


def _from_sets(
    config: DataConfig, samples: SampleConfig, processor: EmovaProcessor, limit: int, seed: int
) -> StageData:
    root = Path(config.shards.root)
    mixture = find_mixture(root, config.sets, of_tokens=config.shards.shares == TOKENS)
    make = partial(RecordRenderer, processor, config.shards.records, seed=seed, max_tokens=limit)
    records = config.shards.records
    if records.speak_share < 1:
        # Held-out speech is to be transcribed, not its transcript to be spoken, unless that is all that is learnt.
        records = replace(records, speak_share=0.0, both_directions=False)
    # Held-out replies show both losses.
    both = replace(records.interleaved, text_share=0.0, speech_share=0.0)
    render = RecordRenderer(processor, replace(records, interleaved=both), seed=seed, max_tokens=limit)
    examples, tries = [], []
    for name in config.held_out:
        first = [raw for raw in read_shard(find_set(root, name).shards[0]) if isinstance(raw, Raw)]
        examples += [render.render(raw, 0, name) for raw in first[: samples.losses_over]]
        for number, raw in enumerate(first[: samples.answers]):
            task = set_task(raw, speaks=records.speak_share == 1)
            tries.append(Try(task, tuple(render.messages(raw, 0)[0]), number < samples.spoken))
    return StageData(
        train_set=ShardPacks(mixture, make, config.shards, config.pack_tokens, config.sets),
        held_out=examples,
        tries=tries,
        writer=Writer(processor, render.table, lambda _: render.reply_format),
        shares={source.name: share for source, share in mixture},
    )
