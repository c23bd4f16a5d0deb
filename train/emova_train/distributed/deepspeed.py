"""DeepSpeed's configuration: made from a run's, or read from a file that may not contradict it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from emova.core.config import find_config
from emova.core.errors import InputError
from emova_train.core.config import RunConfig

AUTO = "auto"
Settings = dict[str, Any]
"""What DeepSpeed reads as JSON."""


def deepspeed_config(run: RunConfig, processes: int, *, load_universal: bool = False) -> Settings:
    """The configuration with which DeepSpeed trains ``run``.

    Args:
        run: with its gradient accumulation and precision resolved (``emova_train.distributed.world.resolved``).
        processes: that train together.
        load_universal: the checkpoint to resume from was written by another number of processes.

    Raises:
        InputError: ``run.parallel.deepspeed`` cannot be read, or contradicts the run's config.
    """
    config = _merged(_defaults(run, processes), _read(run, processes) if run.parallel.deepspeed else {})
    if load_universal:
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    return config


def _defaults(run: RunConfig, processes: int) -> Settings:
    zero: Settings = {"stage": run.parallel.zero_stage}
    if run.parallel.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if run.parallel.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if run.parallel.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": run.batch_size,
        "gradient_accumulation_steps": run.gradient_accumulation,
        "train_batch_size": run.batch_size * run.gradient_accumulation * processes,
        "gradient_clipping": run.max_grad_norm,
        "bf16": {"enabled": run.precision == "bf16"},
        "zero_optimization": zero,
        # The engine hands in torch's AdamW, with a rate for each part of the model.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def _read(run: RunConfig, processes: int) -> Settings:
    """The user's file without its ``auto`` values, once it is clear that it agrees with the run."""
    path = find_config(run.parallel.deepspeed, "deepspeed")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({type(error).__name__}); give a DeepSpeed configuration") from None
    except (json.JSONDecodeError, yaml.YAMLError):
        raise InputError(f"{path}: not valid JSON or YAML; correct the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a DeepSpeed configuration, which is an object of settings")
    values = _without_auto(values)
    found = contradictions(values, run, processes)
    if found:
        raise InputError(f"{path}: contradicts the run's config: {'; '.join(found)}; make them equal or leave them out")
    return values


def contradictions(values: Settings, run: RunConfig, processes: int) -> list[str]:
    """What a DeepSpeed configuration and a run's config say differently, a phrase each."""
    found = []
    expected: list[tuple[str, object, str]] = [
        ("train_micro_batch_size_per_gpu", run.batch_size, "run.batch_size"),
        ("gradient_accumulation_steps", run.gradient_accumulation, "run.gradient_accumulation"),
        (
            "train_batch_size",
            run.batch_size * run.gradient_accumulation * processes,
            "batch_size x gradient_accumulation x processes",
        ),
        ("gradient_clipping", run.max_grad_norm, "run.max_grad_norm"),
        ("bf16.enabled", run.precision == "bf16", f"with run.precision={run.precision}"),
        ("fp16.enabled", False, "always: run.precision is bf16 or fp32"),
        ("amp.enabled", False, "always: run.precision is bf16 or fp32"),
        ("zero_optimization.stage", run.parallel.zero_stage, f"with parallel.strategy={run.parallel.strategy}"),
        (
            "zero_optimization.offload_optimizer.device",
            "cpu" if run.parallel.offload else "none",
            f"with parallel.offload={run.parallel.offload or 'nothing'}",
        ),
        (
            "zero_optimization.offload_param.device",
            "cpu" if run.parallel.offload == "all" else "none",
            f"with parallel.offload={run.parallel.offload or 'nothing'}",
        ),
    ]
    for key, wanted, why in expected:
        given = _lookup(values, key)
        # The fastest disk beside the GPU is an offload too; which of the two is the file's business.
        if given is not None and given != wanted and not (given == "nvme" and wanted == "cpu"):
            found.append(f"{key} is {_shown(given)}, but {_shown(wanted)} {why}")
    for section, field in (
        ("optimizer", "rates and run.weight_decay"),
        ("scheduler", "run.warmup_ratio and max_steps"),
    ):
        if section in values:
            found.append(f"{section} is given, but {field} say that")
    return found


def _lookup(values: Settings, key: str) -> object:
    node: object = values
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _shown(value: object) -> str:
    return json.dumps(value)


def _without_auto(values: Settings) -> Settings:
    return {
        key: _without_auto(dict(value)) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value != AUTO
    }


def _merged(base: Settings, over: Settings) -> Settings:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
