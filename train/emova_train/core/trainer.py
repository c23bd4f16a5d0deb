"""transformers' Trainer, changed where a run must be exact: data order, logging, guard, checkpoints (see engine.py)."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

import emova.core.compat  # noqa: F401
from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.loop import COUNTERS, DivergenceError, ParameterGroups, RunConfig, Validate, decay_groups
from emova_train.core.metrics import MetricsFile, plot
from emova_train.core.mfu import add_mfu
from emova_train.core.progress import Progress, StopSignals
from emova_train.data.batches import EpochBatches, InOrder, derived_seed, isolated_rng
from emova_train.data.stream import ShardLoader
from emova_train.distributed import fsdp, sharding
from emova_train.distributed import world as parallel
from emova_train.distributed.deepspeed import deepspeed_config
from emova_train.distributed.world import World


def build_trainer(
    module: nn.Module,
    loader: DataLoader[Any],
    run: RunConfig,
    world: World,
    *,
    resume_from: Path | None,
    validation: InOrder | None,
    parameter_groups: ParameterGroups | None,
    on_validate: Validate | None,
    keep_checkpoints: int,
    metrics: MetricsFile,
    progress: Progress,
    signals: StopSignals,
) -> ExactTrainer:
    """The Trainer for one run of ``emova_train.core.loop.fit``; ``run`` has its gradient accumulation resolved.

    Raises:
        InputError: the checkpoint to resume from was written with another strategy.
    """
    universal = resume_from is not None and sharding.prepare_resume(resume_from, run.parallel, world)
    deepspeed = None
    if run.parallel.zero_stage:
        parallel.prepare_deepspeed()
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
        ddp_find_unused_parameters=False,
        ddp_timeout=int(run.parallel.start_timeout),
    )
    # A process trains on one device: several in one process would be torch's DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = ExactTrainer(module, arguments, loader, run, world)
    if trainer.is_sharded:
        fsdp.shard(module, run.parallel, world.size, run.precision)
        # So that the Trainer leaves placement and gradients to the module.
        trainer.is_distributed_loading_by_transformers = True
        module._is_fsdp_managed_module = True  # type: ignore[assignment]
    trainer.universal = universal
    trainer.validation = validation
    trainer.parameter_groups = parameter_groups
    trainer.on_validate = on_validate
    trainer.keep_checkpoints = keep_checkpoints
    trainer.metrics = metrics
    trainer.progress = progress
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Steps(trainer, signals))
    return trainer


class ExactTrainer(Trainer):
    """See the module's head. Built by ``build_trainer`` only, which fills in the attributes below."""

    universal: bool
    """Whether DeepSpeed loads the form of its checkpoint that fits any number of processes."""
    validation: InOrder | None
    parameter_groups: ParameterGroups | None
    on_validate: Validate | None
    keep_checkpoints: int
    metrics: MetricsFile
    progress: Progress
    # The Trainer's own, declared here for the type checker.
    optimizer: Any
    lr_scheduler: Any
    control: Any
    deepspeed: Any
    _stage: str | None = None

    def __init__(
        self, module: nn.Module, arguments: TrainingArguments, loader: DataLoader[Any], run: RunConfig, world: World
    ) -> None:
        self.is_sharded = run.parallel.strategy == parallel.FSDP
        super().__init__(model=module, args=arguments, train_dataset=loader.dataset, data_collator=lambda batch: batch)
        # forward(**batch) of a part may take any keyword; that does not mean it scales its loss.
        self.model_accepts_loss_kwargs = False
        self.run = run
        self.world = world
        self.loss_weight = getattr(module, "loss_weight", None)
        self.loader = loader
        self.skipped_steps = 0
        self.bad_steps_in_a_row = 0
        self.last_train_terms: dict[str, float] = {}
        self.last_eval_terms: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._loss_is_finite = True
        self._window_started = time.monotonic()
        self._started = time.monotonic()
        self._window_first_step = 0

    # Data, optimizer and schedule

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            module = self.model if model is None else model
            groups = (
                self.parameter_groups(module) if self.parameter_groups else decay_groups(module, self.run.weight_decay)
            )
            groups = [
                {"lr": self.run.learning_rate, "weight_decay": self.run.weight_decay, **group} for group in groups
            ]
            for group in groups:
                group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
            groups = [group for group in groups if group["params"]]
            assert groups, "nothing to train: every parameter is frozen"
            self.optimizer = torch.optim.AdamW(groups, lr=self.run.learning_rate, betas=self.run.betas, fused=True)
            self._group_settings = sharding.group_settings(self.optimizer)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = get_cosine_with_min_lr_schedule_with_warmup(
                optimizer or self.optimizer,
                num_warmup_steps=math.ceil(self.run.warmup_ratio * num_training_steps),
                num_training_steps=num_training_steps,
                min_lr_rate=self.run.final_lr_ratio,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.is_sharded:  # which moves a block at a time, once that is split
            super()._move_model_to_device(model, device)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        fsdp.hold_back(self.model, True)
        try:
            yield
        finally:
            fsdp.hold_back(self.model, False)

    # Loss, guard

    def _prepare_input(self, data: Any) -> Any:
        """To the device and no further: with DeepSpeed the Trainer would also round weights of the loss to 16 bits."""
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else data

    def _prepare_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._prepare_input(value) for name, value in inputs.items()}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> float | None:
        """The weight of all batches of a step, over all processes."""
        if self.loss_weight is None:
            return None
        return self.world.sum(sum(float(self.loss_weight(batch)) for batch in batch_samples))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        terms = model(**inputs)
        loss = terms["loss"]
        self._loss_is_finite = self._loss_is_finite and bool(torch.isfinite(loss.detach()))
        for name, value in terms.items():
            if torch.is_tensor(value) and value.numel() != 1:
                continue
            scalar = value.detach().float().reshape(()) if torch.is_tensor(value) else torch.tensor(float(value))
            self._sums[name] = self._sums.get(name, 0.0) + scalar
            self._counts[name] = self._counts.get(name, 0) + 1
        if num_items_in_batch is not None:
            assert self.loss_weight is not None
            # The passes of a step are averaged; their weights make that the mean over everything that has a weight.
            share = float(self.loss_weight(inputs)) / max(num_items_in_batch, 1e-12)
            loss = loss * (share * self.current_gradient_accumulation_steps * self.world.size)
        return (loss, terms) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        groups = [group for group in self.optimizer.param_groups if "max_grad_norm" in group]
        if not groups:
            return super()._clip_grad_norm(model)
        if self.run.parallel.strategy != parallel.DDP:
            raise InputError("parallel.strategy: this part clips its gradients by groups, which only ddp can")
        norms = [torch.nn.utils.clip_grad_norm_(group["params"], group["max_grad_norm"]) for group in groups]
        rest = [p for group in self.optimizer.param_groups if "max_grad_norm" not in group for p in group["params"]]
        if rest:
            norms.append(torch.nn.utils.clip_grad_norm_(rest, self.args.max_grad_norm))
        return torch.linalg.vector_norm(torch.stack(norms))

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

    # Numbers

    def reset_window(self) -> None:
        self._sums, self._counts = {}, {}
        self._window_started = time.monotonic()
        self._window_first_step = self.state.global_step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        if not self._counts:  # the Trainer's closing summary; FitResult says it better
            return
        seconds = max(time.monotonic() - self._window_started, 1e-9)
        sums, counts = self._window_of_all()
        values: dict[str, float] = {}
        for name, total in sums.items():
            if name in COUNTERS:
                values[f"{name}_per_s"] = total / seconds
            else:
                values[name] = total / counts[name]
        if "samples" not in sums:
            values["samples_per_s"] = counts["loss"] * self.run.batch_size / seconds
        values["grad_norm"] = float(logs.get("grad_norm", math.nan))
        values["steps_per_s"] = (step - self._window_first_step) / seconds
        for position, group in enumerate(self.optimizer.param_groups):
            name = f"lr_{group['name']}" if "name" in group else "lr"
            if position == 0 or "name" in group:
                values[name] = float(group["lr"])
        values["skipped"] = self.skipped_steps
        add_mfu(values, self.world.size)
        if isinstance(self.loader, ShardLoader):
            numbers = self.loader.numbers()
            values.update({name: self.world.sum(value) for name, value in numbers.items() if name != "epoch"})
            values["epoch"] = numbers["epoch"]
        else:
            batches = self.loader.sampler
            assert isinstance(batches, EpochBatches)
            values["epoch"] = step * self.run.gradient_accumulation * self.world.size / batches.batches_an_epoch
        values["time"] = time.monotonic() - self._started
        self.last_train_terms = values
        if self.world.main:
            self.metrics.write("train", step, values)
        self.progress.window("train", step, values)
        self.reset_window()
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(values))

    def _window_of_all(self) -> tuple[dict[str, float], dict[str, int]]:
        """The sums and counts of the window, added up over the processes; each may have met other terms."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        own = {name: float(total) for name, total in self._sums.items()}
        for their_sums, their_counts in self.world.gather((own, self._counts)):
            for name, total in their_sums.items():
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + their_counts[name]
        return sums, counts

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        with self.world.patience(self.run.parallel):
            values = self._validate()
            self.world.barrier()
        return values

    def _validate(self) -> dict[str, float]:
        module, step = self.model, self.state.global_step
        started = time.monotonic()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        values: dict[str, float] = {}
        module.eval()
        try:
            with isolated_rng(self.run.seed), torch.no_grad():
                for samples, batch in self.validation or ():
                    with self.accelerator.autocast():
                        terms = module(**self._prepare_inputs(dict(batch)))
                    for name, value in terms.items():
                        if name not in COUNTERS and (not torch.is_tensor(value) or value.numel() == 1):
                            sums[name] = sums.get(name, 0.0) + float(value) * samples
                            counts[name] = counts.get(name, 0) + samples
                values.update({name: total / counts[name] for name, total in sums.items()})
                # Answers are written by one process, which needs the whole module for it.
                if self.on_validate is not None and self.world.main and not self.run.parallel.shards_weights:
                    values.update(self.on_validate(module, step) or {})
        finally:
            module.train()
        values["eval_seconds"] = time.monotonic() - started
        self.last_eval_terms = values
        if self.world.main:
            self.metrics.write("eval", step, values)
            plot(self.metrics.path)
        self.progress.window("eval", step, values)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        self._window_started += time.monotonic() - started  # validation is not training time
        return {f"eval_{name}": value for name, value in values.items()}

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return self._stage or self.args.output_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Every process writes its share into one folder; the first commits it when all are done."""
        step = self.state.global_step
        output = Path(self.args.output_dir)
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
            if isinstance(self.loader, ShardLoader):
                self.loader.save(stage / name)
            self.world.barrier()
            if self.world.main:
                facts = {"strategy": self.run.parallel.strategy, "processes": self.world.size}
                checkpointing.commit(stage / name, output / name, **facts)
                checkpointing.prune(output, self.keep_checkpoints)
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


class _Steps(TrainerCallback):
    """Progress after each step; a stop signal becomes a save and an end."""

    def __init__(self, trainer: ExactTrainer, signals: StopSignals) -> None:
        self.trainer = trainer
        self.signals = signals
        self.stepped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        trainer.reset_window()
        if trainer.world.size > 1 and state.global_step == 0:
            # Dropout and the like should differ between processes. A resumed run loads its generators later.
            torch.manual_seed(derived_seed(trainer.run.seed, trainer.world.rank))
        zero = getattr(getattr(trainer, "deepspeed", None), "optimizer", None)
        if zero is not None and hasattr(zero, "check_grad_overflow"):
            zero.check_grad_overflow = True  # DeepSpeed's guard, which it leaves out in float32

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        run = self.trainer.run
        world = self.trainer.world
        if not self.stepped:
            self.stepped = True
            world.set_timeout(run.parallel.step_timeout)
        self.trainer.progress.step(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
        if state.global_step % run.eval_every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = self.trainer.validation is not None or self.trainer.on_validate is not None
        if world.any(self.signals.received is not None):
            # One process was asked; all of them save, and all of them end.
            self.signals.received = self.signals.received or signal.SIGTERM
            control.should_log = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control
