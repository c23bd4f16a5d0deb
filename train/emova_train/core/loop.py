"""One training loop for every part: transformers' Trainer with atomic checkpoints, exact resume and readable curves.

A part is trained by ``fit(module, train_set, collate, run)``. ``module.forward(**batch)`` returns a dictionary with the
scalar ``loss`` (its gradient is taken) and any other scalars, which are averaged over a logging window and written
beside it (``emova_train.core.window``). What a step does, in its order, is at the head of ``emova_train.core.trainer``.

Every batch is a function of the seed, the epoch and the sample indices alone: the random generators are seeded anew
for each batch while it is read and put together. So the batches depend neither on how many workers read them nor on an
interruption. A data set may have ``sample(index, epoch)``, which is then called instead of ``[index]``, and
``lengths`` (a number a sample), by which batches of alike length are made.

Several processes (``emova_train.distributed.world``) read the batches in turn, so n processes without accumulation
train on what one process with an accumulation of n does. A module may have ``loss_weight(batch)``, a number such as the
tokens with a loss: the loss of a step is then the mean over all of them, however they fall on passes and processes. One
whose ``unused_parameters`` is true may leave some out of a pass, in other processes others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data._utils.collate import default_collate

import emova.core.compat  # noqa: F401  (before transformers looks for torchvision)
from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.config import RunConfig
from emova_train.core.metrics import MetricsFile, plot
from emova_train.core.progress import Progress, StopSignals
from emova_train.core.protocols import Batch, BatchSource, ParameterGroups, SampleSet, SampleT, StreamedSet, Validate
from emova_train.core.reporting import open_reporters
from emova_train.data.batches import BatchReader, EpochLoader
from emova_train.distributed import world as parallel
from emova_train.distributed.world import World


@dataclass(frozen=True)
class FitResult:
    """What a run did; the module itself holds the trained weights."""

    steps: int
    """Optimizer steps in all, those before a resume included."""
    skipped_steps: int
    """Steps of this process whose gradient was not finite."""
    seconds: float
    """Wall time of this process's part of the run."""
    checkpoint: Path | None
    """The newest complete checkpoint."""
    train_terms: Mapping[str, float]
    """The last logging window."""
    eval_terms: Mapping[str, float]
    """The last validation."""
    weights: Path | None = None
    """Where no process holds the whole module (zero3, fsdp): the file that has its trained weights."""


def fit(
    module: nn.Module,
    train_set: SampleSet[SampleT] | StreamedSet,
    collate: Callable[[list[SampleT]], Batch] | None,
    run: RunConfig,
    *,
    eval_set: SampleSet[SampleT] | None = None,
    parameter_groups: ParameterGroups | None = None,
    on_validate: Validate | None = None,
    keep_checkpoints: int = 2,
) -> FitResult:
    """Train ``module`` in place and return what happened.

    Args:
        module: ``forward(**batch)`` returns ``{"loss": scalar, term: scalar, ...}``.
        train_set: see this file's head for ``sample`` and ``lengths``.
        collate: list of samples -> batch; ``None`` stacks tensors.
        eval_set: its terms are averaged every ``run.eval_every`` steps and at the end.
        parameter_groups: AdamW groups with their own ``lr`` and ``weight_decay``; a ``name`` labels the rate's curve,
            ``max_grad_norm`` clips a group by itself.
        on_validate: called at each validation, in eval mode without gradients; numbers it returns are logged.

    Raises:
        DivergenceError: ``run.max_bad_steps`` steps in a row had a non-finite loss or gradient.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once the checkpoint is written.
    """
    from emova_train.core.trainer import Watchers, build_trainer  # transformers' Trainer takes seconds to import
    from emova_train.distributed import sharding

    if run.threads:
        torch.set_num_threads(run.threads)
    world = parallel.start(run.parallel)
    run = parallel.resolved(run, world)
    collate = collate or default_collate

    metrics = MetricsFile(run.output_dir, open_reporters(run.report_to, run.output_dir) if world.main else [])
    resume_from = _checkpoint_to_resume(run, world, metrics)
    done = checkpointing.step_of(resume_from) if resume_from else 0
    loader = _batches(train_set, collate, run, world, done)
    if resume_from:
        loader.load(resume_from)
    validation = BatchReader(eval_set, collate, run.seed).in_order(run.batch_size) if eval_set is not None else None

    started = time.monotonic()
    with StopSignals() as signals, Progress(run.max_steps, done, shown=world.main) as progress:
        trainer = build_trainer(
            module,
            loader,
            run,
            world,
            Watchers(validation, on_validate, metrics, progress, signals, keep_checkpoints),
            resume_from=resume_from if done < run.max_steps else None,
            parameter_groups=parameter_groups,
        )
        if done < run.max_steps:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        else:
            assert resume_from is not None
            if not run.parallel.shards_weights:
                trainer.load_weights(resume_from)
        sharding.release(module, run.parallel)
        if world.main:
            plot(metrics.path)
    metrics.close()
    signals.exit_if_asked()
    checkpoint = checkpointing.latest(run.output_dir)
    return FitResult(
        steps=max(done, trainer.state.global_step),
        skipped_steps=trainer.skipped_steps,
        seconds=time.monotonic() - started,
        checkpoint=checkpoint,
        train_terms=trainer.last_train_terms,
        eval_terms=trainer.last_eval_terms,
        weights=checkpoint / checkpointing.WEIGHTS if checkpoint and run.parallel.shards_weights else None,
    )


def _checkpoint_to_resume(run: RunConfig, world: World, metrics: MetricsFile) -> Path | None:
    """The checkpoint that the run goes on from, the same in every process; metrics written after it are dropped.

    Raises:
        InputError: the folder holds a run that is not to be resumed.
    """
    # Every process takes the first one's answer: a folder may be seen later on another machine.
    found = world.gather(checkpointing.latest(run.output_dir) if run.resume else None)[0]
    if found is None and checkpointing.completed(run.output_dir):
        raise InputError(f"{run.output_dir}: holds an earlier run; give resume=true or another output_dir")
    if world.main and found is None:
        metrics.path.unlink(missing_ok=True)
    elif world.main:
        assert found is not None
        metrics.drop_after(checkpointing.step_of(found))
    return found


def _batches(
    train_set: SampleSet[SampleT] | StreamedSet,
    collate: Callable[[list[SampleT]], Batch],
    run: RunConfig,
    world: World,
    done: int,
) -> BatchSource:
    """The batches of this process from step ``done`` on."""
    if isinstance(train_set, StreamedSet):
        return train_set.batches(collate, run)
    return EpochLoader(train_set, collate, run, rank=world.rank, processes=world.size, done=done)
