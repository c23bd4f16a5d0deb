"""Processes that train together: their group, what they tell each other, and how a model is spread over them.

A program started by ``torchrun``, ``deepspeed`` or ``srun`` (``emova_train.launch``) finds its place in
the environment; one started plainly is alone. ``strategy`` says how the training state is spread:

- ``ddp``: each process holds everything; only gradients are exchanged.
- ``zero1``, ``zero2``, ``zero3``: DeepSpeed splits the optimizer, the gradients too, the weights too.
- ``fsdp``: torch's fully sharded data parallel splits all three without DeepSpeed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from emova.core.errors import InputError
from emova_train.core import precision
from emova_train.core.config import DDP, ParallelConfig, RunConfig

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    control: distributed.ProcessGroup | None = None
    """A group on the CPU for small messages, so that they never wait for a device."""

    @property
    def main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def gather(self, value: ValueT) -> list[ValueT]:
        """``value`` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[ValueT] = [value] * self.size
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any process."""
        return self.sum(float(flag)) > 0

    def sum(self, value: float) -> float:
        """The sum of ``value`` over the processes, the same in each."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control)
        return float(total)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum(0.0)

    def set_timeout(self, seconds: float) -> None:
        """How long a process waits for the others from now on."""
        if distributed.is_initialized():
            from torch.distributed import distributed_c10d as c10d

            for group in list(c10d._world.pg_map):
                c10d._set_pg_timeout(timedelta(seconds=seconds), group)

    @contextmanager
    def patience(self, config: ParallelConfig) -> Iterator[None]:
        """Wait long inside the block: one process may validate or write while the others wait."""
        self.set_timeout(config.start_timeout)
        try:
            yield
        finally:
            self.set_timeout(config.step_timeout)


_world: World | None = None


def start(config: ParallelConfig) -> World:
    """Join the group of processes, once; further calls return the same place. Call it before the model is built."""
    global _world
    if _world is not None:
        return _world
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and config.strategy == DDP:
        return World()
    if alone:
        # A sharded strategy with one process still needs a group, of one.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    timeout = timedelta(seconds=config.start_timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl", timeout=timeout)
    else:
        distributed.init_process_group("gloo", timeout=timeout)
    if config.zero_stage:
        prepare_deepspeed()
    control = distributed.new_group(backend="gloo", timeout=timeout)
    _world = World(distributed.get_rank(), distributed.get_world_size(), control)
    return _world


def stop() -> None:
    """Leave the group together, at the end of a run that went well; after an error a process just ends.

    Who takes its connections down while another still talks over them may be aborted by gloo.
    """
    global _world
    if _world is not None:
        _world = None
        distributed.barrier()
        distributed.destroy_process_group()


def prepare_deepspeed() -> None:
    """Import DeepSpeed so that it also runs without a GPU: on gloo, and without compiling operators.

    Raises:
        InputError: it is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError:
        raise InputError("strategy zero1, 2 and 3 need DeepSpeed: pip install 'emova[scale]'") from None
    if not torch.cuda.is_available():
        # Its shared-memory communication would be compiled for minutes, and gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if distributed.is_initialized():
        # At once, not with its engine: weights are split while they are read, before there is one.
        deepspeed.init_distributed(distributed.get_backend(), auto_mpi_discovery=False, verbose=False)


def resolved(run: RunConfig, world: World) -> RunConfig:
    """``run`` with the gradient accumulation that ``global_batch_size`` asks for, and the precision of this device.

    Where ``batch_size`` does not divide what a process has of a step, its largest divisor below that is taken.

    Raises:
        InputError: the processes do not divide the global batch.
    """
    run = replace(run, precision=precision.resolved(run.precision))
    if not run.global_batch_size:
        return run
    each, left = divmod(run.global_batch_size, world.size)
    if left or not each:
        below = max(1, run.global_batch_size // world.size) * world.size
        raise InputError(
            f"run.global_batch_size={run.global_batch_size}: {world.size} processes take one each at least, which does "
            f"not divide it; give {below} or {below + world.size}, or another number of processes"
        )
    a_pass = max(size for size in range(1, run.batch_size + 1) if each % size == 0)
    return replace(run, batch_size=a_pass, gradient_accumulation=each // a_pass)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
