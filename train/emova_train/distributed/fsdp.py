"""Torch's fully sharded data parallel (FSDP2) under the engine: sharding, checkpoints, whole weights.

Done here and not by accelerate, so that it runs on any device, a CPU too, and resumes on any number of processes: each
process writes its shards (torch.distributed.checkpoint), and reads what it needs of all of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from emova_train.core.config import ParallelConfig

_FOLDER = "shards"
_SCHEDULE = "schedule.json"


def shard(module: nn.Module, config: ParallelConfig, processes: int, precision: str) -> None:
    """Split ``module``'s parameters over all processes, in place; each repeated block is gathered by itself.

    The blocks are those that transformers' models name in ``_no_split_modules``. The optimizer is made afterwards.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (processes,))
    half = torch.bfloat16 if precision == "bf16" else None
    # Weights travel in 16 bits, gradients are summed in 32; what comes into a block stays as autocast made it.
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy() if config.offload else OffloadPolicy()
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    blocks = [part for part in module.modules() if type(part).__name__ in names]
    for each in [*blocks, module]:
        fully_shard(each, mesh=mesh, mp_policy=policy, offload_policy=offload)


def hold_back(module: nn.Module, hold: bool) -> None:
    """Whether a backward pass leaves its gradients unsummed, as all but the last of a step do."""
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(not hold)


def save(folder: Path, module: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, main: bool) -> None:
    """Write this process's shards of weights and moments; ``main`` adds the schedule's state."""
    weights, moments = get_state_dict(module, optimizer)
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    dcp.save({"weights": weights, "moments": moments}, checkpoint_id=folder / _FOLDER)
    if main:
        (folder / _SCHEDULE).write_text(json.dumps(_plain(scheduler.state_dict())), encoding="utf-8")


def load(folder: Path, module: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Read what ``save`` wrote, on this or another number of processes."""
    weights, moments = get_state_dict(module, optimizer)
    # What had no gradient yet (discriminators before their turn) has no moments in the file; torch made some just now.
    written = dcp.FileSystemReader(folder / _FOLDER).read_metadata().state_dict_metadata
    state = moments["state"]
    assert isinstance(state, dict)
    moments["state"] = {
        name: own
        for name, own in state.items()
        if isinstance(own, dict) and any(f"moments.state.{name}.{key}" in written for key in own)
    }
    dcp.load({"weights": weights, "moments": moments}, checkpoint_id=folder / _FOLDER)
    set_model_state_dict(module, weights)
    set_optimizer_state_dict(module, optimizer, moments, options=StateDictOptions(strict=False))
    scheduler.load_state_dict(json.loads((folder / _SCHEDULE).read_text(encoding="utf-8")))


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The gathered weights on the first process, nothing on the others; every process has to call it."""
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    assert len(weights) == len(state), "a module's own state is tensors"
    return weights


def _plain(state: Mapping[str, object]) -> dict[str, object]:
    """A schedule's numbers; its functions are made anew."""
    rates = state["base_lrs"]
    assert isinstance(rates, list), "one for each parameter group"
    return {key: value for key, value in state.items() if key != "lr_lambdas"} | {"lr_lambdas": [None] * len(rates)}
