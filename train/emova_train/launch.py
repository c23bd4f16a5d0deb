"""``emova train --launch slurm|torchrun|deepspeed ...``: the files that start a stage on many processes or machines.

One process a GPU. On one machine ``torchrun`` and ``deepspeed`` are also run at once; for more, and for Slurm, the
files say how. Every launcher starts the same module with the same arguments, and a process finds its place in the
environment (``emova_train.distributed.world``).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import write_text

LAUNCHERS = ("slurm", "torchrun", "deepspeed")
STAGES = ("stage0", "stage1", "stage2", "stage3")
CODECS = {name: f"emova_train.{name}.program" for name in ("s2u", "u2s", "vq", "flow")}
CODECS |= {"s2u-pretrain": "emova_train.s2u.pretrain", "text-to-token": "emova_train.text_to_token.program"}
PROGRAMS = {**dict.fromkeys(STAGES, "emova_train.stages.program"), **CODECS}
"""The programs that can be spread over processes, and their modules."""
PORT = 29500
_OPTION = re.compile(r"[A-Za-z][\w-]*(=.*)?")
GRACE = 600
"""Seconds before a Slurm job's end at which it is told to save."""


@dataclass(frozen=True)
class LaunchPlan:
    """What to start, and where."""

    launcher: str
    program: str
    arguments: Sequence[str]
    """Of the program: its config and ``key=value``."""
    nodes: int = 1
    processes: int = 8
    """A node."""
    folder: Path = field(default_factory=lambda: Path("launch"))
    options: tuple[str, ...] = ()
    """``NAME`` or ``NAME=VALUE`` of sbatch, torchrun or deepspeed; they go before what is written otherwise."""
    setup: tuple[str, ...] = ()
    """Lines of the script before the start: modules to load, an environment."""

    def __post_init__(self) -> None:
        if self.launcher not in LAUNCHERS:
            raise InputError(f"--launch {self.launcher}: unknown; it is one of {', '.join(LAUNCHERS)}")
        if self.program not in PROGRAMS:
            raise InputError(f"{self.program}: cannot be spread over processes; {', '.join(PROGRAMS)} can")
        if self.nodes < 1 or self.processes < 1:
            raise InputError("--nodes and --processes must be at least 1")
        for line in (*self.options, *self.setup):
            if "\n" in line or not line.strip():
                raise InputError(f"--option and --setup: {line[:40]!r} is not one line")
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise InputError(f"--option {option[:40]!r}: give NAME or NAME=VALUE, without dashes before it")

    @property
    def module(self) -> str:
        """What every process runs."""
        return PROGRAMS[self.program]

    def words(self, **defaults: object) -> list[str]:
        """``--name=value`` of all options, a default only where it is not given; one that is None is left out."""
        given = dict(option.partition("=")[::2] for option in self.options)
        dash = "_" if self.launcher == "deepspeed" else "-"
        values = {name.replace("_", dash): value for name, value in defaults.items() if value is not None}
        whole = {**{name: str(value) for name, value in values.items()}, **given}
        return [f"--{name}={value}" if value else f"--{name}" for name, value in whole.items()]


def local_processes() -> int:
    """A process a GPU of this machine; one without any."""
    import torch

    return max(1, torch.cuda.device_count())


def write(plan: LaunchPlan) -> list[Path]:
    """Write the launch files of ``plan`` into its folder and return them, the one to start first."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    texts = {"slurm": _slurm, "torchrun": _torchrun, "deepspeed": _deepspeed}[plan.launcher](plan)
    paths = []
    for name, text in texts.items():
        path = plan.folder / name
        write_text(path, text)
        if path.suffix == ".sh":
            path.chmod(0o755)
        paths.append(path)
    return paths


def launch(plan: LaunchPlan, *, only_write: bool = False) -> int:
    """Write the files; on one machine run the stage, else say how to start it.

    Returns:
        The exit status.
    """
    paths = write(plan)
    for path in paths:
        print(f"wrote {path}")
    if plan.launcher == "slurm":
        print(f"start it: sbatch {paths[0]}")
    elif plan.nodes > 1 and plan.launcher == "torchrun":
        print(f"start it on each of the {plan.nodes} nodes: HEAD=NAME_OF_THE_FIRST_NODE {paths[0]}")
    elif plan.nodes > 1:
        print(f"name the nodes in {paths[1]}, then start it on the first: {paths[0]}")
    elif not only_write:
        return subprocess.run(local_command(plan), env=_environment(), check=False).returncode
    return 0


def local_command(plan: LaunchPlan) -> list[str]:
    """The command that runs ``plan`` on this machine alone."""
    if plan.launcher == "deepspeed":
        options = plan.words(num_gpus=plan.processes, no_local_rank="")
        head = ["deepspeed.launcher.runner", *options, "--module"]
    else:
        options = plan.words(standalone="", nproc_per_node=plan.processes)
        head = ["torch.distributed.run", *options, "-m"]
    return [sys.executable, "-m", *head, plan.module, *plan.arguments]


def _environment() -> dict[str, str]:
    import torch

    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def _program(plan: LaunchPlan) -> str:
    return shlex.join([plan.module, *plan.arguments])


def _torchrun(plan: LaunchPlan) -> dict[str, str]:
    # A process that is lost ends the others; all are started anew and go on from the last whole checkpoint.
    if plan.nodes == 1:
        words = plan.words(standalone="", nproc_per_node=plan.processes, max_restarts=3)
        where, usage = shlex.join(words), ""
    else:
        words = plan.words(
            nnodes=plan.nodes, nproc_per_node=plan.processes, max_restarts=3, rdzv_backend="c10d",
            rdzv_id=f"emova-{plan.program}",
        )  # fmt: skip
        where = f'{shlex.join(words)} \\\n  --rdzv-endpoint="${{HEAD:?the name of the first node}}:{PORT}"'
        usage = f"# On each of the {plan.nodes} nodes: HEAD=NAME_OF_THE_FIRST_NODE {plan.folder / plan.program}.sh\n"
    text = f"#!/usr/bin/env bash\n{usage}{_head(plan)}exec torchrun {where} \\\n  -m {_program(plan)}\n"
    return {f"{plan.program}.sh": text}


def _head(plan: LaunchPlan, strict: str = "-euo pipefail") -> str:
    lines = [f"set {strict}", f"cd {shlex.quote(str(Path.cwd()))}", *plan.setup]
    return "".join(f"{line}\n" for line in lines)


def _deepspeed(plan: LaunchPlan) -> dict[str, str]:
    hosts = f"{plan.program}.hosts"
    words = plan.words(hostfile=plan.folder / hosts, master_port=PORT, no_local_rank="")
    text = (
        f"#!/usr/bin/env bash\n# On the first node; it reaches the others of {hosts} by ssh.\n{_head(plan)}"
        f"exec deepspeed {shlex.join(words)} \\\n  --module {_program(plan)}\n"
    )
    names = ["localhost"] if plan.nodes == 1 else [f"node{number:02d}" for number in range(1, plan.nodes + 1)]
    return {
        f"{plan.program}.sh": text,
        hosts: "".join(f"{name} slots={plan.processes}\n" for name in names),
    }


def _slurm(plan: LaunchPlan) -> dict[str, str]:
    words = plan.words(
        job_name=f"emova-{plan.program}", nodes=plan.nodes, ntasks_per_node=plan.processes,
        gpus_per_node=plan.processes, cpus_per_task=8, exclusive="", requeue="", open_mode="append",
        output=plan.folder / f"{plan.program}-%j.log", signal=f"TERM@{GRACE}",
    )  # fmt: skip
    directives = "".join(f"#SBATCH {word}\n" for word in words)
    text = f"""#!/bin/bash
{directives}# Before the time limit every process is told to save (--signal); the job then waits for its next turn.
{_head(plan, "-uo pipefail")}export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_PORT={PORT}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}"
srun --kill-on-bad-exit=1 bash -c '
  export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
  exec python -m "$@"' emova \\
  {_program(plan)}
status=$?
if [ "$status" -eq 143 ]; then  # 128 + SIGTERM: saved, not finished
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""
    return {f"{plan.program}.sbatch": text}
