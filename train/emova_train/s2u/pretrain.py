"""Pre-train the tokenizer's encoder on speech without transcripts, as SPIRAL: ``emova train s2u-pretrain NAME``.

A student hears each recording changed (noise, rooms, codecs, another voice, masks) and learns to give what its moving
average gives for the clean one (``emova_train.s2u.contrast``). What is exported goes into ``start_from`` of
``emova train s2u``, which then needs little labelled speech (EMOVA A.1).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.whisper_init import fill_from_whisper
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import StreamedSet
from emova_train.core.resumed import CONFIG, earlier_config, told
from emova_train.data.clip_reader import StreamConfig
from emova_train.data.shard_cache import fill_cache
from emova_train.distributed import world as parallel
from emova_train.distributed.world import World
from emova_train.s2u.conditions import Conditions
from emova_train.s2u.contrast import CollapseConfig, ContrastConfig, Pretraining
from emova_train.s2u.data import ClipStore, SourceConfig, TwoViews, Views, decode_heard, unwrap
from emova_train.s2u.stream import StreamedClips, streamed

STUDENT, TEACHER = "student", "teacher"
VALIDATION_BATCHES = 16


@dataclass(frozen=True)
class PretrainConfig:
    """Everything a run needs; paths are relative to the working directory."""

    model: S2UConfig = field(default_factory=S2UConfig)  # of it the encoder is trained
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/s2u-pretrain", batch_size=1))
    train: list[SourceConfig] = field(default_factory=list)  # shards of speech, with transcripts or without
    validation: list[str] = field(default_factory=list)  # patterns of shards
    cache: str = "data/cache/s2u"  # decoded waveforms
    batch_seconds: float = 40.0  # of speech in a pass
    max_seconds: float = 16.0  # longer clips are left out
    whisper: str = ""  # the first stage starts from a CTranslate2 Whisper model, as in S2UTrainConfig
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    conditions: Conditions = field(default_factory=Conditions)  # that the student hears under
    max_warp: float = 0.1  # vocal tract factor exp(+-this), of the student's mel frames
    max_speed: float = 0.0  # both hear all exp(+-this) times as fast
    max_start: int = 3000  # first-stage frames: recordings up to this long are known
    export: str = STUDENT  # whose encoder is exported: student or teacher
    stream: StreamConfig = field(default_factory=StreamConfig)  # read converted sets as they are needed, without cache

    def __post_init__(self) -> None:
        if self.export not in (STUDENT, TEACHER):
            raise InputError(f"export={self.export}: unknown; give {STUDENT} or {TEACHER}")
        if self.run.parallel.shards_weights:
            raise InputError(
                f"run.parallel.strategy={self.run.parallel.strategy}: the teacher follows whole weights; "
                "give ddp, zero1 or zero2"
            )


def differences(config: PretrainConfig) -> list[str]:
    """What a run that goes on hears otherwise than it began: lines for whoever started it."""
    earlier = earlier_config(PretrainConfig, config.run)
    if earlier is None:
        return []
    changed = config.conditions.changes(earlier.conditions)
    now, before = asdict(config), asdict(earlier)
    for name in ("contrast", "collapse"):
        changed += [f"{name}.{key}: {before[name][key]} -> {value}" for key, value in now[name].items()
                    if value != before[name][key]]  # fmt: skip
    for name in ("train", "max_warp", "max_speed", "batch_seconds", "max_seconds"):
        if now[name] != before[name]:
            changed.append(f"{name}: {before[name]} -> {now[name]}")
    return told(config.run.output_dir, changed)


def export(model: S2UTokenizer, training: Pretraining, whose: str, folder: Path) -> None:
    """Write a tokenizer with the encoder of the student or the teacher, all else as a new one has it."""
    fresh = S2UTokenizer(model.config)
    chosen = training.student if whose == STUDENT else training.teacher
    fresh.encoder.load_state_dict(chosen.state_dict())
    fresh.save_pretrained(folder, "float32")


def train(config: PretrainConfig) -> FitResult:
    """Run the training; the encoder goes to ``run.output_dir``/export, for ``start_from`` of ``S2UTrainConfig``.

    Raises:
        InputError: shards are missing, or none of them holds speech.
        CollapseError: the targets became all alike.
    """
    if not config.train:
        raise InputError("train: names no shards; see the shipped config s2u/nano-pretrain")
    world = parallel.start(config.run.parallel)
    run = parallel.resolved(config.run, world)
    output = Path(config.run.output_dir)
    if world.main:
        for line in differences(config):
            print(line, file=sys.stderr)
        output.mkdir(parents=True, exist_ok=True)
    world.barrier()
    if world.main:
        save_config(config, output / CONFIG)
    torch.manual_seed(config.run.seed)
    model = S2UTokenizer(config.model)
    if config.whisper:
        fill_from_whisper(model.encoder.stages[0], config.whisper)
    training = Pretraining(model, config.contrast, config.collapse, run.gradient_accumulation, run.max_steps, world)
    views = Views(
        max_start=config.max_start, max_warp=config.max_warp, max_speed=config.max_speed, rough=config.conditions,
        heard_only=True,
    )  # fmt: skip
    train_set: StreamedSet | TwoViews
    if config.stream.enabled:
        clips_of = StreamedClips(model.inventory, config.max_seconds, config.batch_seconds, labelled=False)
        train_set = streamed(config.train, clips_of, views, config.stream)
        print(f"{len(train_set)} recordings, streamed", file=sys.stderr)
    else:
        store = cached([source.pattern for source in config.train], config, world)
        batches = run.max_steps * run.gradient_accumulation * world.size
        repeats = [source.repeat for source in config.train]
        train_set = TwoViews(store, repeats, batches, config.batch_seconds, run.seed, views)
    held_out = None
    if config.validation:
        others = cached(config.validation, config, world)
        held_out = TwoViews(
            others, [1.0] * len(config.validation), VALIDATION_BATCHES, config.batch_seconds, run.seed, views
        )

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        export(model, training, config.export, output / "export")
        return {}

    result = fit(
        training, train_set, unwrap, run, eval_set=held_out, on_validate=validate,
        parameter_groups=lambda module: decay_groups(module, config.run.weight_decay),
    )  # fmt: skip
    if world.main:
        export(model, training, config.export, output / "export")
    world.barrier()
    return result


def cached(patterns: Sequence[str], config: PretrainConfig, world: World) -> ClipStore:
    """The clips of ``patterns``, decoded by all processes together. Raises: InputError: none holds speech."""
    fill_cache(decode_heard, patterns, config.cache, world.rank, world.size)
    with world.patience(config.run.parallel):
        world.barrier()
    store = ClipStore(patterns, config.cache, config.max_seconds, labelled=False)
    for line in store.told() if world.main else ():
        print(line, file=sys.stderr)
    if not store.clips:
        raise InputError(f"{', '.join(patterns)}: no recording with speech in it, of {config.max_seconds:g} s at most")
    if world.main:
        hours = sum(clip.length for clip in store.clips) / 16000 / 3600
        print(f"{len(store.clips)} clips, {hours:.1f} h", file=sys.stderr)
    return store


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train s2u-pretrain``."""
    add_config(parser, "nano-pretrain")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(PretrainConfig, arguments.config, arguments.overrides, kind="s2u")
    return run_training(train, config, config.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.s2u.pretrain", "Pre-train the tokenizer's encoder without transcripts.")


if __name__ == "__main__":
    sys.exit(main())
