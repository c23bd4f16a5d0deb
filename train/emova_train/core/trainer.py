"""transformers' Trainer, changed where a run must be exact: data order, guard, numbers, checkpoints (see ``loop.py``).

A step of ``ExactTrainer``, in the order in which its methods stand below:

1. ``get_train_dataloader``      the next batches of this process, ``gradient_accumulation`` of them
2. ``_get_num_items_in_batch``   what they weigh over all processes
3. ``compute_loss``              forward pass of each, its loss scaled to its share of that weight; backward pass
4. ``_clip_grad_norm``           of all parameters, or of each group that says so
5. ``_get_grad_norm``            the guard: a step that is not finite is skipped and counted
6. ``create_optimizer``          AdamW's step, and ``create_scheduler``'s next rate
7. ``_StepEnd.on_step_end``      stop signals; what is due of the following
8. ``log``                       a line of numbers
9. ``evaluate``                  the losses of held-out samples
10. ``_save_checkpoint``         everything, whole or not at all

What each strategy of ``run.parallel`` needs beside that is in ``emova_train.distributed``.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import emova.core.compat  # noqa: F401
from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.config import FSDP, RunConfig
from emova_train.core.metrics import MetricsFile, plot
from emova_train.core.mfu import add_mfu
from emova_train.core.optimizer import adamw
from emova_train.core.progress import Progress, StopSignals
from emova_train.core.protocols import Batch, BatchSource, ParameterGroups, Validate
from emova_train.core.schedule import schedule
from emova_train.core.window import Mean, Window
from emova_train.data.batches import InOrder, derived_seed, isolated_rng
from emova_train.distributed import fsdp, sharding
from emova_train.distributed.deepspeed import deepspeed_config
from emova_train.distributed.world import World, prepare_deepspeed


class DivergenceError(InputError):
    """The loss or gradient stayed non-finite; the last complete checkpoint is untouched."""


@dataclass(frozen=True)
class Watchers:
    """What a run is checked with, written to and shown on.

    Attributes:
        validation: batches of held-out samples.
        on_validate: called at each validation; its numbers are logged.
        keep_checkpoints: the newest ones that stay.
    """

    validation: InOrder | None
    on_validate: Validate | None
    metrics: MetricsFile
    progress: Progress
    signals: StopSignals
    keep_checkpoints: int = 2


def build_trainer(
    module: nn.Module,
    loader: BatchSource,
    run: RunConfig,
    world: World,
    watchers: Watchers,
    *,
    resume_from: Path | None,
    parameter_groups: ParameterGroups | None,
) -> ExactTrainer:
    """The Trainer for one run of ``emova_train.core.loop.fit``; ``run`` has its gradient accumulation resolved.

    Raises:
        InputError: the checkpoint to resume from was written with another strategy.
    """
    universal = resume_from is not None and sharding.prepare_resume(resume_from, run.parallel, world)
    deepspeed = None
    if run.parallel.zero_stage:
        prepare_deepspeed()
        deepspeed = deepspeed_config(run, world.size, load_universal=universal)
    arguments = TrainingArguments(
        output_dir=run.output_dir,
        seed=run.seed,
        max_steps=run.max_steps,
        per_device_train_batch_size=run.batch_size,
        gradient_accumulation_steps=run.gradient_accumulation,
        learning_rate=run.learning_rate,
        max_grad_norm=run.max_grad_norm,
        save_strategy="steps",
        save_steps=run.save_every,
        save_total_limit=None,
        logging_strategy="steps",
        logging_steps=run.log_every,
        logging_nan_inf_filter=False,
        bf16=run.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        # The sampler starts at the right batch by itself; the Trainer must not skip once more.
        ignore_data_skip=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        deepspeed=deepspeed,
        ddp_find_unused_parameters=bool(getattr(module, "unused_parameters", False)),
        ddp_timeout=int(run.parallel.start_timeout),
    )
    # A process trains on one device: several in one process would be torch's DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = ExactTrainer(module, arguments, loader, run, world, watchers, parameter_groups, universal)
    if trainer.is_sharded:
        fsdp.shard(module, run.parallel, world.size, run.precision)
        # So that the Trainer leaves placement and gradients to the module.
        trainer.is_distributed_loading_by_transformers = True
        module._is_fsdp_managed_module = True  # type: ignore[assignment]
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_StepEnd(trainer, watchers.signals))
    return trainer


class ExactTrainer(Trainer):
    """See the module's head. Built by ``build_trainer``.

    Args:
        universal: whether DeepSpeed loads the form of its checkpoint that fits any number of processes.
    """

    # The Trainer's own, declared here for the type checker: DeepSpeed and accelerate put objects of theirs in place.
    model: nn.Module
    state: TrainerState
    control: TrainerControl
    optimizer: Any
    lr_scheduler: Any
    deepspeed: Any

    def __init__(
        self,
        module: nn.Module,
        arguments: TrainingArguments,
        loader: BatchSource,
        run: RunConfig,
        world: World,
        watchers: Watchers,
        parameter_groups: ParameterGroups | None,
        universal: bool,
    ) -> None:
        self.is_sharded = run.parallel.strategy == FSDP
        super().__init__(model=module, args=arguments, train_dataset=loader.dataset)
        # forward(**batch) of a part may take any keyword; that does not mean it scales its loss.
        self.model_accepts_loss_kwargs = False
        self.loader, self.run, self.world, self.watchers = loader, run, world, watchers
        self.parameter_groups = parameter_groups
        self.universal = universal
        self.loss_weight = getattr(module, "loss_weight", None)
        self.skipped_steps = 0
        self.bad_steps_in_a_row = 0
        self.last_train_terms: dict[str, float] = {}
        self.last_eval_terms: dict[str, float] = {}
        self.window = Window()
        self._loss_is_finite = True
        self._started = time.monotonic()
        self._stage: str | None = None

    # A step: batches, loss, gradient, guard

    # Batches come joined and of a weight that is no whole number; the Trainer's loop asks no more of both than it gets.
    def get_train_dataloader(self) -> BatchSource:  # type: ignore[override]
        return self.loader

    def _prepare_input(self, data: Any) -> Any:
        """To the device and no further: with DeepSpeed the Trainer would also round weights of the loss to 16 bits."""
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else data

    def _prepare_inputs(self, inputs: Batch) -> dict[str, Tensor]:
        return {name: self._prepare_input(value) for name, value in inputs.items()}

    def _get_num_items_in_batch(  # type: ignore[override]
        self, batch_samples: list[Batch], device: torch.device
    ) -> float | None:
        """The weight of all batches of a step, over all processes."""
        if self.loss_weight is None:
            return None
        return self.world.sum(sum(float(self.loss_weight(batch)) for batch in batch_samples))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        terms = model(**inputs)
        loss = terms["loss"]
        self._loss_is_finite = self._loss_is_finite and bool(torch.isfinite(loss.detach()))
        self.window.add(terms)
        if num_items_in_batch is not None:
            assert self.loss_weight is not None
            # The passes of a step are averaged; their weights make that the mean over everything that has a weight.
            share = float(self.loss_weight(inputs)) / max(float(num_items_in_batch), 1e-12)
            loss = loss * (share * self.current_gradient_accumulation_steps * self.world.size)
        return (loss, terms) if return_outputs else loss

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """For all but the last pass of a step."""
        fsdp.hold_back(self.model, True)
        try:
            yield
        finally:
            fsdp.hold_back(self.model, False)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        groups = [group for group in self.optimizer.param_groups if "max_grad_norm" in group]
        if not groups:
            return super()._clip_grad_norm(model)
        if self.run.parallel.zero_stage:
            raise InputError("parallel.strategy: this part clips its gradients by groups, which ddp and fsdp can")
        norms = [torch.nn.utils.clip_grad_norm_(group["params"], group["max_grad_norm"]) for group in groups]
        rest = [p for group in self.optimizer.param_groups if "max_grad_norm" not in group for p in group["params"]]
        if rest:
            norms.append(torch.nn.utils.clip_grad_norm_(rest, self.args.max_grad_norm))
        # Of split weights each norm is split too.
        whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        return torch.linalg.vector_norm(torch.stack(whole))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not self.world.any(not (self._loss_is_finite and math.isfinite(norm))):
            self.bad_steps_in_a_row = 0
        else:
            # Without gradients AdamW's step changes neither weights nor moments. DeepSpeed has skipped its step.
            self.optimizer.zero_grad(set_to_none=True)
            if self.run.parallel.zero_stage and self.accelerator.optimizer_step_was_skipped:
                self.lr_scheduler.step()  # left out by the Trainer then; rates are to follow from the step alone
            self.skipped_steps += 1
            self.bad_steps_in_a_row += 1
            if self.bad_steps_in_a_row >= self.run.max_bad_steps:
                raise DivergenceError(
                    f"{self.run.output_dir}: loss or gradient not finite in {self.bad_steps_in_a_row} steps in a row, "
                    f"the last one step {self.state.global_step + 1}; lower learning_rate or give precision=fp32"
                )
        self._loss_is_finite = True
        return norm

    # Made once: optimizer, schedule, place of the model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = adamw(self.model if model is None else model, self.parameter_groups, self.run)
            self._group_settings = sharding.group_settings(self.optimizer)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(optimizer or self.optimizer, self.run, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.is_sharded:  # which moves a block at a time, once that is split
            super()._move_model_to_device(model, device)

    # Numbers

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        if self.window.empty:  # the Trainer's closing summary; FitResult says it better
            return
        values = self.window.values(self.world, step, self.run.batch_size)
        values["grad_norm"] = float(logs.get("grad_norm", math.nan))
        for position, group in enumerate(self.optimizer.param_groups):
            if position == 0 or "name" in group:
                values[f"lr_{group['name']}" if "name" in group else "lr"] = float(group["lr"])
        values["skipped"] = self.skipped_steps
        add_mfu(values, self.world.size)
        values.update({name: self.world.sum(value) for name, value in self.loader.counts().items()})
        values["epoch"] = self.loader.epoch(step)
        values["time"] = time.monotonic() - self._started
        self.last_train_terms = values
        if self.world.main:
            self.watchers.metrics.write("train", step, values)
        self.watchers.progress.window("train", step, values)
        self.window.reset(step)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(values))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        with self.world.patience(self.run.parallel):
            values = self._validate()
            self.world.barrier()
        return values

    def _validate(self) -> dict[str, float]:
        module, step, watchers = self.model, self.state.global_step, self.watchers
        started = time.monotonic()
        mean = Mean()
        module.eval()
        try:
            with isolated_rng(self.run.seed), torch.no_grad():
                for samples, batch in watchers.validation or ():
                    with self.accelerator.autocast():
                        terms = module(**self._prepare_inputs(batch))
                    mean.add(terms, samples)
                values = mean.values()
                # Answers are written by one process, which needs the whole module for it.
                if watchers.on_validate is not None and self.world.main and not self.run.parallel.shards_weights:
                    values.update(watchers.on_validate(module, step) or {})
        finally:
            module.train()
        values["eval_seconds"] = time.monotonic() - started
        self.last_eval_terms = values
        if self.world.main:
            watchers.metrics.write("eval", step, values)
            plot(watchers.metrics.path)
        watchers.progress.window("eval", step, values)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        self.window.started += time.monotonic() - started  # validation is not training time
        return {f"eval_{name}": value for name, value in values.items()}

    # Checkpoints

    def _get_output_dir(self, trial: object) -> str:
        return self._stage or self.run.output_dir

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Every process writes its share into one folder; the first commits it when all are done."""
        step = self.state.global_step
        output = Path(self.run.output_dir)
        name = f"checkpoint-{step}"
        stage = checkpointing.stage_path(output, step)
        with self.world.patience(self.run.parallel), checkpointing.clear_errors(output, step):
            if self.world.main:
                checkpointing.stage_folder(output, step)
            self.world.barrier()
            self._stage = str(stage)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._stage = None
            self.loader.save(stage / name)
            self.world.barrier()
            if self.world.main:
                facts = {"strategy": self.run.parallel.strategy, "processes": self.world.size}
                checkpointing.commit(stage / name, output / name, **facts)
                checkpointing.prune(output, self.watchers.keep_checkpoints)
            self.world.barrier()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        assert output_dir is not None
        if self.is_sharded:
            state_dict = fsdp.whole_state(self.model)
        if not self.world.main:
            return
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        path = Path(output_dir) / checkpointing.WEIGHTS
        if state_dict is not None:
            sharding.save_whole(self.model, state_dict, path)
        else:
            save_model(self.model, str(path))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_sharded:
            fsdp.save(Path(output_dir), self.model, self._plain_optimizer, self.lr_scheduler, self.world.main)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_sharded and checkpoint is not None:
            fsdp.load(Path(checkpoint), self.model, self._plain_optimizer, self.lr_scheduler)
            return
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.universal:
            rates = self.lr_scheduler.get_last_lr()
            sharding.mend_universal(self.deepspeed.optimizer.optimizer, self._group_settings, rates)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_sharded:  # its weights are read with the moments
            self.load_weights(Path(resume_from_checkpoint))

    def load_weights(self, checkpoint: Path) -> None:
        """Load the module's weights from a checkpoint of this run."""
        try:
            load_model(self.model, str(checkpoint / checkpointing.WEIGHTS))
        except RuntimeError:
            raise InputError(
                f"{checkpoint}: its weights have other names or shapes than the model now configured; "
                "give the earlier configuration or another output_dir"
            ) from None


class _StepEnd(TrainerCallback):
    """Progress after each step; a stop signal becomes a save and an end."""

    def __init__(self, trainer: ExactTrainer, signals: StopSignals) -> None:
        self.trainer = trainer
        self.signals = signals
        self.stepped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        trainer = self.trainer
        trainer.window.reset(state.global_step)
        if trainer.world.size > 1 and state.global_step == 0:
            # Dropout and the like should differ between processes. A resumed run loads its generators later.
            torch.manual_seed(derived_seed(trainer.run.seed, trainer.world.rank))
        zero = getattr(getattr(trainer, "deepspeed", None), "optimizer", None)
        if zero is not None and hasattr(zero, "check_grad_overflow"):
            zero.check_grad_overflow = True  # DeepSpeed's guard, which it leaves out in float32

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        run, world, watchers = self.trainer.run, self.trainer.world, self.trainer.watchers
        if not self.stepped:
            self.stepped = True
            world.set_timeout(run.parallel.step_timeout)
        watchers.progress.step(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
        if state.global_step % run.eval_every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = watchers.validation is not None or watchers.on_validate is not None
        if world.any(self.signals.received is not None):
            # One process was asked; all of them save, and all of them end.
            self.signals.received = self.signals.received or signal.SIGTERM
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control
