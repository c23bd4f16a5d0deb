"""Where numbers go beside ``metrics.jsonl``: TensorBoard, Weights & Biases or trackio, each only when asked for.

None of them is needed to train. wandb and trackio take their settings from their own environment variables
(``WANDB_MODE=offline``, ``TRACKIO_DIR``).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from emova.core.errors import InputError

PROJECT = "emova"


class Reporter(Protocol):
    """Anything that takes a run's numbers; ``kind`` is train or eval."""

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder, under ``tensorboard/``."""

    def __init__(self, output_dir: Path) -> None:
        self.writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(output_dir / "tensorboard")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{name}/{kind}", value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Tracked:
    """wandb or trackio, which share one interface; a run is named after its folder and goes on when it is resumed."""

    def __init__(self, package: str, output_dir: Path) -> None:
        self.module = _import(package, package)
        # Two runs of one stage lie in folders of the same name.
        name = "-".join(output_dir.resolve().parts[-2:])
        self.is_wandb = package == "wandb"
        more = {"id": name, "dir": str(output_dir)} if self.is_wandb else {}
        self.module.init(project=PROJECT, name=name, resume="allow", **more)
        if self.is_wandb:
            self.module.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        finite = {f"{kind}/{name}": value for name, value in values.items() if math.isfinite(value)}
        if self.is_wandb:  # its own step never goes back, as that of a resumed run does
            self.module.log({"step": step, **finite})
        else:
            self.module.log(finite, step=step)

    def close(self) -> None:
        self.module.finish()


REPORTERS = ("tensorboard", "wandb", "trackio")


def open_reporters(names: Sequence[str], output_dir: str | Path) -> list[Reporter]:
    """The reporters of a run. Raises: InputError: a name is unknown, or its package is not installed."""
    for name in names:
        if name not in REPORTERS:
            raise InputError(f"report_to: {name[:40]!r} is unknown; choose from {', '.join(REPORTERS)}")
    folder = Path(output_dir)
    return [TensorBoard(folder) if name == "tensorboard" else Tracked(name, folder) for name in names]


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"report_to: {package} is not installed; run pip install {package}") from None
