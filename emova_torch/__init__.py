"""emova as a plug-in of torch (``torch.backends`` in setup.cfg), which calls ``register`` at the end of its import.

So torchvision imports in every program of the environment, whether or not it imports emova. A package of its own, that
reads the one file it needs by path: torch may be imported by transformers, halfway through its Auto classes, where
``import emova`` could not make itself known to them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def register() -> None:
    """Declare torchvision's operators beside a CPU build of torch that they were not compiled for.

    Beside a build for GPUs, torchvision is left to load its operators when it is imported.
    """
    import torch

    name = f"{__name__}.operators"
    if torch.backends.cuda.is_built() or name in sys.modules:
        return
    with suppress(Exception):  # what is wrong with torchvision is told to who imports it, not to who imports torch
        emova = find_spec("emova")
        assert emova is not None and emova.origin is not None
        spec = spec_from_file_location(name, Path(emova.origin).parent / "core" / "operators.py")
        assert spec is not None and spec.loader is not None
        operators = sys.modules[name] = module_from_spec(spec)  # it must stay: it holds the declarations
        spec.loader.exec_module(operators)
        operators.declare_torchvision()
