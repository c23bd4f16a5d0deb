"""How vLLM is run, and where: read before anything of it is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.io import shown

PYTHON = "EMOVA_VLLM_PYTHON"
"""The environment variable that names the Python which has vLLM."""


@dataclass(frozen=True)
class VllmConfig:
    """How vLLM is run.

    Attributes:
        python: the interpreter of its environment; empty: what ``EMOVA_VLLM_PYTHON`` names.
        dtype: of weights and caches: ``auto`` (as the checkpoint has them), ``bfloat16``, ``float16`` or ``float32``.
        sequences: most that it computes in one step.
        cache_gib: memory for keys and values on a CPU.
        eager: operator by operator; else vLLM compiles the model when it starts, which takes a while.
    """

    python: str = ""
    dtype: str = "auto"
    sequences: int = 16
    cache_gib: int = 1
    eager: bool = True

    def interpreter(self) -> str:
        """The Python that has vLLM. Raises: InputError: none is named, or there is none."""
        python = self.python or os.environ.get(PYTHON, "")
        if not python:
            raise InputError(
                f"the backend vllm: name the Python of an environment that has vLLM in {PYTHON}; docs/backends.md "
                "tells how to make one"
            )
        if not os.access(python, os.X_OK) or Path(python).is_dir():
            raise InputError(f"{PYTHON}: {shown(python)} is no Python")
        return python
