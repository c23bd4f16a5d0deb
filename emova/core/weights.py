"""A module's folder: ``config.json`` and ``model.safetensors``, in full, 16-bit or 8-bit storage.

8-bit storage keeps a matrix as int8 rows with one float16 scale a row (``NAME.int8_scale``); everything that is
not a floating-point matrix stays as it is. Loading gives float32 again, so the rest of the code does not know.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.core.writing import make_folder, save_tensors, write_text

Storage = Literal["float32", "float16", "int8"]
SCALE_SUFFIX = ".int8_scale"


def pack(state: dict[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """The tensors of ``state`` as they are stored; the inverse is ``unpack``."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or storage == "float32":
            packed[name] = tensor.contiguous()
        elif storage == "float16" or tensor.dim() < 2:
            packed[name] = tensor.half().contiguous()
        else:
            rows = tensor.float().flatten(1)
            scale = rows.abs().amax(dim=1).clamp(min=1e-6).div(127).half()
            packed[name] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).view(tensor.shape)
            packed[name + SCALE_SUFFIX] = scale
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors that ``pack`` stored."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = packed.get(name + SCALE_SUFFIX)
        if scale is not None:
            state[name] = (tensor.float().flatten(1) * scale.float()[:, None]).view(tensor.shape)
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def save_folder(folder: str | Path, config: Any, state: dict[str, Tensor], storage: Storage = "float32") -> None:
    """Write the dataclass ``config`` and the tensors ``state``; each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = make_folder(folder)
    save_tensors(folder / "model.safetensors", pack(state, storage))
    write_text(folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a plain dictionary, and the float32 tensors, of a folder that ``save_folder`` wrote.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    path = _present(Path(folder) / "config.json")
    _present(Path(folder) / "model.safetensors")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(_damaged(folder)) from None
    return config, read_state(folder)


def read_state(folder: str | Path) -> dict[str, Tensor]:
    """The float32 tensors in a folder's ``model.safetensors``, whatever else lies beside it.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        return unpack(load_file(_present(Path(folder) / "model.safetensors")))
    except SafetensorError:
        raise InputError(_damaged(folder)) from None


def _present(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: missing; a checkpoint needs it, copy the whole folder again")
    return path


def _damaged(folder: str | Path) -> str:
    return f"{Path(folder)}: a file is damaged; copy the whole folder again"


def load_state(module: nn.Module, state: dict[str, Tensor], folder: str | Path, optional: tuple[str, ...] = ()) -> None:
    """Load ``state`` into ``module``; names that start with one of ``optional`` may be absent (training-only parts).

    Raises:
        InputError: a tensor is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.startswith(optional)]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in state if name in own and own[name].shape != state[name].shape]
    for problem, names in (("lacks", missing), ("has an unknown", unexpected), ("has another shape of", reshaped)):
        if names:
            raise InputError(f"{folder}: the checkpoint {problem} tensor {names[0]}; its config and weights differ")
    module.load_state_dict(state, strict=False)
