"""``emova train --launch slurm|torchrun|deepspeed ...``: the files that start a stage on many processes or machines.

One process a GPU. On one machine ``torchrun`` and ``deepspeed`` are also run at once; for more, and for Slurm, the
files say how. Every launcher starts the same module with the same arguments, and a process finds its place in the
environment (``emova_train.distributed.world``).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import write_text

LAUNCHERS = ("slurm", "torchrun", "deepspeed")
PROGRAMS = ("stage0", "stage1", "stage2", "stage3")
"""The programs that can be spread over processes."""
MODULE = "emova_train.stages.program"
PORT = 29500
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

    def __post_init__(self) -> None:
        if self.launcher not in LAUNCHERS:
            raise InputError(f"--launch {self.launcher}: unknown; it is one of {', '.join(LAUNCHERS)}")
        if self.program not in PROGRAMS:
            raise InputError(f"{self.program}: cannot be spread over processes; {', '.join(PROGRAMS)} can")
        if self.nodes < 1 or self.processes < 1:
            raise InputError("--nodes and --processes must be at least 1")


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
        head = ["deepspeed.launcher.runner", f"--num_gpus={plan.processes}", "--no_local_rank", "--module"]
    else:
        head = ["torch.distributed.run", "--standalone", f"--nproc-per-node={plan.processes}", "-m"]
    return [sys.executable, "-m", *head, MODULE, *plan.arguments]


def _environment() -> dict[str, str]:
    import torch

    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def _program(plan: LaunchPlan) -> str:
    return shlex.join([MODULE, *plan.arguments])


def _torchrun(plan: LaunchPlan) -> dict[str, str]:
    # A process that is lost ends the others; all are started anew and go on from the last whole checkpoint.
    if plan.nodes == 1:
        where = f"--standalone --nproc-per-node={plan.processes} --max-restarts=3"
        usage = ""
    else:
        where = (
            f"--nnodes={plan.nodes} --nproc-per-node={plan.processes} --max-restarts=3 \\\n"
            f"  --rdzv-backend=c10d --rdzv-id=emova-{plan.program} "
            f'--rdzv-endpoint="${{HEAD:?the name of the first node}}:{PORT}"'
        )
        usage = f"# On each of the {plan.nodes} nodes: HEAD=NAME_OF_THE_FIRST_NODE {plan.folder / plan.program}.sh\n"
    text = (
        f"#!/usr/bin/env bash\n{usage}set -euo pipefail\ncd {shlex.quote(str(Path.cwd()))}\n"
        f"exec torchrun {where} \\\n  -m {_program(plan)}\n"
    )
    return {f"{plan.program}.sh": text}


def _deepspeed(plan: LaunchPlan) -> dict[str, str]:
    hosts = f"{plan.program}.hosts"
    text = (
        f"#!/usr/bin/env bash\n# On the first node; it reaches the others of {hosts} by ssh.\nset -euo pipefail\n"
        f"cd {shlex.quote(str(Path.cwd()))}\n"
        f"exec deepspeed --hostfile {shlex.quote(str(plan.folder / hosts))} --master_port {PORT} --no_local_rank \\\n"
        f"  --module {_program(plan)}\n"
    )
    names = ["localhost"] if plan.nodes == 1 else [f"node{number:02d}" for number in range(1, plan.nodes + 1)]
    return {
        f"{plan.program}.sh": text,
        hosts: "".join(f"{name} slots={plan.processes}\n" for name in names),
    }


def _slurm(plan: LaunchPlan) -> dict[str, str]:
    log = plan.folder / f"{plan.program}-%j.log"
    text = f"""#!/bin/bash
#SBATCH --job-name=emova-{plan.program}
#SBATCH --nodes={plan.nodes}
#SBATCH --ntasks-per-node={plan.processes}
#SBATCH --gpus-per-node={plan.processes}
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}
# Some minutes before the time limit every process is told to save; the job then waits for its next turn.
#SBATCH --signal=TERM@{GRACE}
set -uo pipefail
cd {shlex.quote(str(Path.cwd()))}
export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
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
