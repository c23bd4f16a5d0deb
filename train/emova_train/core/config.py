"""What every training program's config has: the run itself, and how it is spread over processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from emova.core.errors import InputError
from emova_train.core.precision import AUTO, PRECISIONS

DDP, FSDP = "ddp", "fsdp"
ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
STRATEGIES = (DDP, *ZERO_STAGES, FSDP)
OFFLOADS = ("", "optimizer", "all")
COSINE, LINEAR = "cosine", "linear"
SCHEDULES = (COSINE, LINEAR)


@dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over processes."""

    strategy: str = DDP
    """``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``fsdp``."""
    offload: str = ""
    """What ZeRO keeps in the host's memory: ``optimizer``, or ``all``: the weights too (zero3). ``fsdp``: ``all``."""
    deepspeed: str = ""
    """A DeepSpeed configuration (JSON or YAML) whose settings are taken over; it may not contradict this config."""
    start_timeout: float = 1800.0
    """Seconds that processes wait for each other up to the first step, and while one validates or saves."""
    step_timeout: float = 300.0
    """Seconds afterwards: when a process is lost, the others should end soon and be started anew."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"parallel.strategy={self.strategy}: unknown; it is one of {', '.join(STRATEGIES)}")
        if self.offload not in OFFLOADS:
            raise InputError(f"parallel.offload={self.offload}: unknown; give optimizer, all or nothing")
        allowed = {"zero1": ("optimizer",), "zero2": ("optimizer",), "zero3": ("optimizer", "all"), FSDP: ("all",)}
        if self.offload and self.offload not in allowed.get(self.strategy, ()):
            raise InputError(f"parallel.offload={self.offload}: {self.strategy} has no such offload")
        if self.deepspeed and self.strategy not in ZERO_STAGES:
            raise InputError(f"parallel.deepspeed: {self.strategy} does not use DeepSpeed; give strategy=zero1, 2 or 3")
        if not 0 < self.step_timeout <= self.start_timeout:
            raise InputError("parallel: step_timeout must be above 0 and at most start_timeout")

    @property
    def zero_stage(self) -> int:
        """0 without DeepSpeed."""
        return ZERO_STAGES.get(self.strategy, 0)

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds the whole model."""
        return self.strategy in ("zero3", FSDP)


@dataclass(frozen=True)
class RunConfig:
    """How a part is trained; the same fields for every part."""

    output_dir: str = "runs/unnamed"
    seed: int = 0
    max_steps: int = 1000
    """Optimizer steps."""
    epochs: float = 0.0
    """Passes over a stage's converted sets; ``max_steps`` then follows from their size and the global batch."""
    batch_size: int = 8
    """Samples a forward pass."""
    gradient_accumulation: int = 1
    """Forward passes of each process a step."""
    global_batch_size: int = 0
    """Samples a step over all processes; the accumulation then follows from it, so that one config trains alike on 8
    and on 128 processes. A stage's samples are conversations, however they are packed. 0 = ``gradient_accumulation``
    passes of ``batch_size``, which a stage then counts in packs of ``data.pack_tokens``."""
    learning_rate: float = 1e-3
    """Peak; from there by ``schedule`` to ``final_lr_ratio`` of it, for every parameter group alike."""
    schedule: str = COSINE
    """``cosine`` or ``linear``."""
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
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule={self.schedule}: unknown; give {' or '.join(SCHEDULES)}")
        if not 0 <= self.epochs < math.inf or self.global_batch_size < 0:
            raise InputError("run: epochs and global_batch_size must be 0 or more")
        if self.epochs and not self.global_batch_size:
            raise InputError(f"run.epochs={self.epochs:g}: an epoch is of conversations; give run.global_batch_size")
        for name in ("max_steps", "batch_size", "gradient_accumulation", "save_every", "eval_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
