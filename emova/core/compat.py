"""Importing this module makes torchvision importable beside a CPU build of torch.

The registry's torchvision is compiled against a CUDA torch. Beside a CPU torch its operators are not registered, its
import fails, and with it timm's, open_clip's and transformers' image parts. Only the operators' declarations are
needed by what we use (transforms, ViTs), so on that one failure they are declared and the import is tried again.
"""

from __future__ import annotations

import importlib
import sys

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _import_torchvision() -> torch.library.Library | None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if hasattr(torch.ops.torchvision, "nms"):  # its operators are there: the failure is another one
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        importlib.import_module("torchvision")
        return library
    return None


# The declarations live as long as the library object does.
_library = _import_torchvision()
