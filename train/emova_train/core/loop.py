"""One training loop for every part: transformers' Trainer with atomic checkpoints, exact resume and readable curves.

A part is trained by ``fit(module, train_set, collate, run)``. ``module.forward(**batch)`` returns a dictionary with the
scalar ``loss`` (its gradient is taken) and any other scalars, which are averaged over a logging window and written
beside it. Terms named in ``COUNTERS`` are added up and written as a rate (``tokens`` -> ``tokens_per_s``).

Every batch is a function of the seed, the epoch and the sample indices alone: the random generators are seeded anew
for each batch while it is read and put together. So the batches depend neither on how many workers read them nor on an
interruption. A data set may have ``sample(index, epoch)``, which is then called instead of ``[index]``, and
``lengths`` (a number a sample), by which batches of alike length are made.

Several processes (``train/emova_train/distributed/world.py``) read the batches in turn, so n processes without
accumulation train on what
one process with an accumulation of n does. A module may have ``loss_weight(batch)``, a number such as the tokens with a
loss: the loss of a step is then the mean over all of them, however they fall on passes and processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import default_collate

import emova.core.compat  # noqa: F401  (before transformers looks for torchvision)
from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.metrics import MetricsFile, plot
from emova_train.core.precision import AUTO, PRECISIONS
from emova_train.core.progress import Progress, StopSignals
from emova_train.core.reporting import open_reporters
from emova_train.data.batches import BatchReader, EpochBatches, isolated_rng
from emova_train.data.stream import ShardPacks
from emova_train.distributed import world as parallel
from emova_train.distributed.world import ParallelConfig, whole_shape

COUNTERS = frozenset({"samples", "tokens", "seconds", "flops"})
Collate = Callable[[list[Any]], Mapping[str, Any]]
ParameterGroups = Callable[[nn.Module], list[dict[str, Any]]]
Validate = Callable[[nn.Module, int], "Mapping[str, float] | None"]


@dataclass(frozen=True)
class RunConfig:
    """How a part is trained; the same fields for every part."""

    output_dir: str = "runs/unnamed"
    seed: int = 0
    max_steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 8
    """Samples a forward pass."""
    gradient_accumulation: int = 1
    """Forward passes of each process a step."""
    global_batch_size: int = 0
    """Samples a step over all processes; the accumulation then follows from it, so that one config trains alike on 8
    and on 128 processes. 0 = ``gradient_accumulation`` says it."""
    learning_rate: float = 1e-3
    """Peak; cosine to ``final_lr_ratio`` of it, for every parameter group alike."""
    final_lr_ratio: float = 0.0
    warmup_ratio: float = 0.03
    weight_decay: float = 0.01
    """On tensors of two or more dimensions, unless ``parameter_groups`` says otherwise."""
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    """0 = no clipping."""
    max_bad_steps: int = 10
    """Steps in a row with a non-finite loss or gradient, all skipped, after which the run is given up."""
    save_every: int = 500
    eval_every: int = 500
    log_every: int = 10
    precision: str = AUTO
    """``bf16``: autocast, float32 weights; ``fp32``; ``auto``: bf16 where the device computes it by itself."""
    resume: bool = True
    """Go on from the newest complete checkpoint in ``output_dir`` when there is one."""
    report_to: list[str] = field(default_factory=list)
    """Where the numbers go beside ``metrics.jsonl``: tensorboard, wandb, trackio."""
    workers: int = 0
    """Processes that read the data; 0 = the training process itself."""
    threads: int = 0
    """torch's threads; 0 = as they are."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision}: unknown; give {', '.join(PRECISIONS)}")
        for name in ("max_steps", "batch_size", "gradient_accumulation", "save_every", "eval_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")


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


class DivergenceError(InputError):
    """The loss or gradient stayed non-finite; the last complete checkpoint is untouched."""


def decay_groups(module: nn.Module, weight_decay: float, **extra: Any) -> list[dict[str, Any]]:
    """The trainable parameters as two AdamW groups: matrices decay, vectors and scalars do not."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if len(whole_shape(p)) >= 2], "weight_decay": weight_decay, **extra},
        {"params": [p for p in trainable if len(whole_shape(p)) < 2], "weight_decay": 0.0, **extra},
    ]
    return [group for group in groups if group["params"]]


def fit(
    module: nn.Module,
    train_set: Dataset[Any] | Sequence[Any],
    collate: Collate | None,
    run: RunConfig,
    *,
    eval_set: Dataset[Any] | Sequence[Any] | None = None,
    parameter_groups: ParameterGroups | None = None,
    on_validate: Validate | None = None,
    keep_checkpoints: int = 2,
) -> FitResult:
    """Train ``module`` in place and return what happened.

    Args:
        module: ``forward(**batch)`` returns ``{"loss": scalar, term: scalar, ...}``.
        train_set: map-style; see this file's head for ``sample`` and ``lengths``.
        collate: list of samples -> batch; ``None`` stacks tensors.
        eval_set: its terms are averaged every ``run.eval_every`` steps and at the end.
        parameter_groups: AdamW groups with their own ``lr`` and ``weight_decay``; a ``name`` labels the rate's curve,
            ``max_grad_norm`` clips a group by itself.
        on_validate: called at each validation, in eval mode without gradients; numbers it returns are logged.

    Raises:
        DivergenceError: ``run.max_bad_steps`` steps in a row had a non-finite loss or gradient.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once the checkpoint is written.
    """
    from emova_train.core.trainer import build_trainer  # transformers' Trainer takes seconds to import
    from emova_train.distributed import sharding

    if run.threads:
        torch.set_num_threads(run.threads)
    world = parallel.start(run.parallel)
    run = parallel.resolved(run, world)
    metrics = MetricsFile(run.output_dir, open_reporters(run.report_to, run.output_dir) if world.main else [])
    # Every process takes the first one's answer: a folder may be seen later on another machine.
    resume_from = world.gather(checkpointing.latest(run.output_dir) if run.resume else None)[0]
    done = checkpointing.step_of(resume_from) if resume_from else 0
    if resume_from is None and checkpointing.completed(run.output_dir):
        raise InputError(f"{run.output_dir}: holds an earlier run; give resume=true or another output_dir")
    if world.main and resume_from is None:
        metrics.path.unlink(missing_ok=True)
    elif world.main:
        metrics.drop_after(done)
    a_step = run.gradient_accumulation * world.size
    reader = BatchReader(train_set, collate or default_collate, run.seed)
    batches = EpochBatches(
        len(train_set),  # type: ignore[arg-type]
        run.batch_size,
        run.seed,
        total=run.max_steps * a_step,
        start=done * a_step,
        rank=world.rank,
        processes=world.size,
        lengths=getattr(train_set, "lengths", None),
    )
    loader = DataLoader(
        reader,  # type: ignore[arg-type]
        batch_size=None,
        sampler=batches,
        num_workers=run.workers,
        # Its own generator: starting the iterator must not move the generator that dropout draws from.
        generator=torch.Generator().manual_seed(run.seed),
        persistent_workers=False,
        prefetch_factor=4 if run.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    if isinstance(train_set, ShardPacks):  # reads by itself and knows its place
        loader = train_set.loader(collate or default_collate, run)  # type: ignore[assignment]
        if resume_from:
            loader.load(resume_from)  # type: ignore[attr-defined]
    validation = None
    if eval_set is not None:
        validation = BatchReader(eval_set, collate or default_collate, run.seed).in_order(run.batch_size)

    started = time.monotonic()
    with StopSignals() as signals, Progress(run.max_steps, done, shown=world.main) as progress:
        trainer = build_trainer(
            module,
            loader,
            run,
            world,
            resume_from=resume_from if done < run.max_steps else None,
            validation=validation,
            parameter_groups=parameter_groups,
            on_validate=on_validate,
            keep_checkpoints=keep_checkpoints,
            metrics=metrics,
            progress=progress,
            signals=signals,
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


__all__ = [
    "COUNTERS",
    "DivergenceError",
    "FitResult",
    "RunConfig",
    "decay_groups",
    "fit",
    "isolated_rng",
]
