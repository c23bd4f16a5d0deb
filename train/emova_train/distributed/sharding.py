"""Checkpoints of a training state that is spread over processes: whole weights, resuming on other numbers of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.config import DDP, ParallelConfig, RunConfig
from emova_train.distributed.deepspeed import deepspeed_config
from emova_train.distributed.world import World, prepare_deepspeed, resolved

_LATEST_UNIVERSAL = "latest_universal"


@contextmanager
def partitioned(run: RunConfig, world: World) -> Iterator[None]:
    """Under ZeRO-3, split the weights that ``from_pretrained`` reads in the block over the processes at once."""
    if run.parallel.zero_stage < 3:
        yield
        return
    prepare_deepspeed()
    from transformers.integrations import HfDeepSpeedConfig

    # transformers sees it as long as it is alive.
    alive = HfDeepSpeedConfig(deepspeed_config(resolved(run, world), world.size))
    try:
        yield
    finally:
        del alive


def release(module: nn.Module, config: ParallelConfig) -> None:
    """After a run: give the parameters memory of their own, and let new models be built whole again.

    ZeRO-1 and 2 leave the weights in one large buffer; ZeRO-3 leaves transformers splitting every model it builds.
    """
    if not config.zero_stage:
        return
    if not config.shards_weights:
        for parameter in module.parameters():
            parameter.data = parameter.detach().clone()
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


def prepare_resume(checkpoint: Path, config: ParallelConfig, world: World) -> bool:
    """Make ``checkpoint`` ready for these processes; whether DeepSpeed has to load its universal form.

    ddp and fsdp read theirs on any number of processes. ZeRO's is converted when the number has changed
    (DeepSpeed's universal checkpoint).

    Raises:
        InputError: it was written with another strategy.
    """
    facts = checkpointing.facts(checkpoint)
    strategy, processes = facts.get("strategy", DDP), facts.get("processes", 1)
    if strategy != config.strategy:
        raise InputError(
            f"{checkpoint}: written with parallel.strategy={strategy}, not {config.strategy}; go on with that, or "
            "start the stage anew in another run.output_dir"
        )
    if not config.zero_stage or processes == world.size:
        return False
    if world.main and not (checkpoint / _LATEST_UNIVERSAL).is_file():
        convert_to_universal(checkpoint, config)
    world.barrier()
    return True


def convert_to_universal(checkpoint: Path, config: ParallelConfig) -> None:
    """Add the universal form, which any number of processes can load, to a DeepSpeed checkpoint's folder."""
    from deepspeed.checkpoint import ds_to_universal

    written = next(checkpoint.glob("global_step*[0-9]"))
    universal = checkpoint / f"{written.name}_universal"
    shutil.rmtree(universal, ignore_errors=True)
    arguments = argparse.Namespace(
        input_folder=str(written),
        output_folder=str(universal),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # ZeRO-1 and 2 do not note what the conversion asks for; ZeRO-3 does.
        inject_missing_state=config.zero_stage < 3,
    )
    print(f"{checkpoint}: converted for another number of processes", file=sys.stderr)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        ds_to_universal.main(arguments)


def group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, object]]:
    """What the parameter groups of ``optimizer`` say beside their parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def mend_universal(optimizer: torch.optim.Optimizer, settings: list[dict[str, object]], rates: list[float]) -> None:
    """Undo what DeepSpeed 0.19 gets wrong when it loads the universal form of a ZeRO-3 checkpoint.

    It gives every parameter group the first one's rate and weight decay, and all of them one step counter, which then
    counts once a group.

    Args:
        settings: of the groups, as they were made.
        rates: the groups' present learning rates.
    """
    for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
        group.update({key: value for key, value in own.items() if key not in ("lr", "initial_lr")})
        group["lr"] = rate
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def save_whole(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Write gathered weights as safetensors, each tied tensor once.

    Args:
        module: whose shared parameters tell which names are tied.
        state: the whole tensors by the module's names.
    """
    shared = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    shared -= {name for name, _ in module.named_parameters()}
    kept = {name: _alone(tensor.detach().cpu()) for name, tensor in state.items() if name not in shared}
    save_file(kept, path, metadata={"format": "pt"})


def _alone(tensor: Tensor) -> Tensor:
    """``tensor`` in memory of its own: DeepSpeed keeps many in one buffer."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
