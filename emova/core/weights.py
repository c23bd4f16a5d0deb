"""A module's folder: ``config.json`` and ``model.safetensors``, in full, 16-bit or 8-bit storage.

8-bit storage keeps a matrix as int8 rows with one scale a row (``NAME.int8_scale``); a floating-point tensor that is no
matrix is kept in 16 bits. Loading gives float32 again, so the rest of the code does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.core.writing import make_folder, save_tensors, write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)
Storage = Literal["float32", "float16", "int8"]
SCALE_SUFFIX = ".int8_scale"


def pack(state: dict[str, Tensor], storage: Storage, int8: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of ``state`` as they are stored; the inverse is ``unpack``. What was stored so before is stored so
    again, to the last bit.

    Args:
        int8: of 8-bit storage, only the names that begin with one of these; the others have 16 bits.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or storage == "float32":
            packed[name] = tensor.contiguous()
        elif storage == "float16" or tensor.dim() < 2 or not name.startswith(int8):
            packed[name] = tensor.half().contiguous()
        else:
            packed[name], packed[name + SCALE_SUFFIX] = int8_rows(tensor)
    return packed


def int8_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """``tensor`` as int8 and a scale for each of its rows ``[R]``; numbers that are int8 rows already stay as they are.

    A scale is a bfloat16 number: its range is that of float32, and 127 times it is a float32 number, so that rows that
    were read are stored as before. Earlier versions wrote float16 scales, which stay too.
    """
    rows = tensor.detach().float().flatten(1)
    widest = rows.abs().amax(dim=1)
    widest = torch.where(widest > 1e-30, widest / 127, 1.0)  # a row of zeros has any scale
    made = []
    for kind in (torch.bfloat16, torch.float16):
        scale = widest.to(kind)
        wide = scale.float()[:, None]
        whole = (rows / wide).round().clamp(-127, 127)
        made.append((whole, scale))
        if torch.equal(whole * wide, rows):
            break
    else:
        whole, scale = made[0]
    return whole.to(torch.int8).view(tensor.shape), scale


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors that ``pack`` stored.

    Raises:
        SafetensorError: int8 rows have no scales, or not one each, as in a file that was put together wrongly.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = packed.get(name + SCALE_SUFFIX)
        if tensor.dtype == torch.int8 and (scale is None or scale.shape != tensor.shape[:1]):
            raise SafetensorError(f"{name}: its rows of int8 have no scales")
        if scale is not None:
            state[name] = (tensor.float().flatten(1) * scale.float()[:, None]).view(tensor.shape)
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def save_folder(
    folder: str | Path, config: DataclassInstance, state: dict[str, Tensor], storage: Storage = "float32"
) -> None:
    """Write the dataclass ``config`` and the tensors ``state``; each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = make_folder(folder)
    save_tensors(folder / "model.safetensors", pack(state, storage))
    write_text(folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")


def read_folder(folder: str | Path) -> tuple[dict[str, object], dict[str, Tensor]]:
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


def build_part(cls: Callable[[ConfigT], ModuleT], config: ConfigT, folder: str | Path) -> ModuleT:
    """A module of the sizes that a folder's config names.

    Raises:
        InputError: there can be none: the layers' own complaints are told as one line.
    """
    try:
        return cls(config)
    except (ArithmeticError, AssertionError, IndexError, MemoryError, RuntimeError, ValueError) as error:
        said = f"no layers have such sizes ({_first_line(error)}); copy the whole folder again"
        raise InputError(
            f"{Path(folder) / 'config.json'}: {error if isinstance(error, InputError) else said}"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def load_state(
    module: nn.Module, state: dict[str, Tensor], folder: str | Path, optional: tuple[str, ...] = ()
) -> frozenset[str]:
    """Load ``state`` into ``module``; names that start with one of ``optional`` may be absent, and are returned if so.

    Raises:
        InputError: a tensor is missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.startswith(optional)]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in state if name in own and own[name].shape != state[name].shape]
    for problem, names in (("lacks", missing), ("has an unknown", unexpected), ("has another shape of", reshaped)):
        if names:
            raise InputError(f"{folder}: the checkpoint {problem} tensor {names[0]}; its config and weights differ")
    module.load_state_dict(state, strict=False)
    return frozenset(own.keys() - state.keys())
