"""What a run that goes on does otherwise than it began: lines for whoever started it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from emova.core.config import load_config
from emova.core.errors import InputError
from emova_train.core import checkpointing
from emova_train.core.config import RunConfig

CONFIG = "config.yaml"
"""Beside a run: its config, as it was last started."""
ConfigT = TypeVar("ConfigT")


def earlier_config(cls: type[ConfigT], run: RunConfig) -> ConfigT | None:
    """The config that the run in ``run.output_dir`` was started with, where it is to go on; None: nothing is known."""
    path = Path(run.output_dir) / CONFIG
    if not run.resume or checkpointing.latest(run.output_dir) is None or not path.is_file():
        return None
    try:
        return load_config(cls, path)
    except InputError:  # of a version that had other keys
        return None


def told(output: str | Path, changed: Sequence[str]) -> list[str]:
    """The lines that say what changed, each as ``name: before -> now``; none where nothing did."""
    if not changed:
        return []
    return [f"{output}: goes on under other conditions than it began:", *(f"  {each}" for each in changed)]
