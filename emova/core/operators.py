"""torchvision beside a torch that it was not compiled for, such as the package index's own beside a CPU build of torch.

Its operators cannot be loaded there, so that its import fails, and with it timm's, open_clip's and whatever of
transformers looks at pictures, ``from transformers import LlamaForCausalLM`` too. What we and they use of it
(transforms, plain layers) needs none of them, only their declarations.

Reads and imports nothing else of emova's: ``emova_torch`` runs this file by itself.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Those whose shapes torchvision tells torch when it is imported."""

_kept: list[torch.library.Library] = []


@cache
def declare_torchvision() -> bool:
    """Declare torchvision's operators if it is installed and its own cannot be loaded; whether that was to do.

    torch itself is imported here and not above: torch calls this while it is still being imported. Only Linux has
    builds of both kinds.
    """
    import torch

    spec = importlib.util.find_spec("torchvision") if sys.platform == "linux" else None
    if spec is None or spec.origin is None:
        return False
    for compiled in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(compiled))  # as torchvision does; once more costs nothing
            return False
        except OSError:
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return False
    library = torch.library.Library("torchvision", "DEF")
    _kept.append(library)  # the declarations live as long as it does
    for operator in _DECLARED:
        library.define(operator)
    return True
