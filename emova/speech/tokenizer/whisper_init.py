"""Whisper's encoder out of a CTranslate2 ``model.bin``, as initial weights of an encoder stage.

The file is a plain list of named arrays: version, name of the specification, its revision, the number of arrays, then
for each its name, shape, type and bytes. It is read with ``struct`` and numpy alone; nothing in it is executed.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.core.weights import read_state

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class _Reader:
    """A cursor over bytes that refuses to run past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0])

    def take(self, size: int) -> bytes:
        if size < 0 or self.position + size > len(self.data):
            raise struct.error("past the end")
        self.position += size
        return self.data[self.position - size : self.position]

    def text(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode("utf-8")


def _model_bytes(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "model.bin"]
        if len(names) != 1:
            raise InputError(f"{path}: holds {len(names)} files named model.bin; give one with exactly one")
        return archive.read(names[0])


def read_ctranslate2(path: str | Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 model file whose names start with ``prefix``; a wheel or zip that holds one will do.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it is the model.bin of a CTranslate2 Whisper model")
    reader = _Reader(_model_bytes(path))
    arrays: dict[str, np.ndarray] = {}
    try:
        version, _, _ = reader.number("I"), reader.text(), reader.number("I")
        if version != 6:
            raise InputError(f"{path}: version {version} of the CTranslate2 format; version 6 can be read")
        for _ in range(reader.number("I")):
            name = reader.text()
            shape = [reader.number("I") for _ in range(reader.number("B"))]
            kind, raw = reader.number("B"), reader.take(reader.number("I"))
            if name.startswith(prefix):
                arrays[name] = np.frombuffer(raw, dtype=_TYPES[kind]).reshape(shape)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError):
        raise InputError(f"{path}: not a readable CTranslate2 model file; fetch it again") from None
    return arrays


def whisper_stage_state(path: str | Path) -> dict[str, Tensor]:
    """Whisper's encoder as the state of one ``SpiralStage``: two convolutions, blocks, final normalisation.

    Its fixed sinusoidal positions need no weights. A folder holds such a state already
    (the export of ``emova train distil``).

    Raises:
        InputError: the file cannot be read, or holds no Whisper encoder.
    """
    path = Path(path)
    if path.is_dir():
        return read_state(path)
    arrays = read_ctranslate2(path, prefix="encoder/")
    names = {"conv1": "convolutions.0.conv", "conv2": "convolutions.1.conv"}
    inner = {
        "self_attention/layer_norm": "attention_norm",
        "self_attention/linear_0": "attention.qkv",
        "self_attention/linear_1": "attention.out",
        "ffn/layer_norm": "ffn_norm",
        "ffn/linear_0": "ffn.0",
        "ffn/linear_1": "ffn.2",
    }
    kinds = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        module, _, kind = name.removeprefix("encoder/").rpartition("/")
        if module.startswith("layer_") and "/" in module:
            layer, _, part = module.partition("/")
            target = f"blocks.{layer.removeprefix('layer_')}.{inner[part]}"
        elif module in names:
            target = names[module]
        elif module == "layer_norm":
            target = "norm"
        else:
            continue  # position encodings, number of heads
        state[f"{target}.{kinds[kind]}"] = torch.from_numpy(array.astype(np.float32))
    if "convolutions.0.conv.weight" not in state:
        raise InputError(f"{path}: holds no Whisper encoder")
    return state


def fill_from_whisper(stage: nn.Module, path: str | Path) -> None:
    """Put Whisper's encoder into a ``SpiralStage`` of its shape.

    Raises:
        InputError: as ``whisper_stage_state``, or the stage has another shape.
    """
    try:
        stage.load_state_dict(whisper_stage_state(path))
    except RuntimeError:
        raise InputError(f"{path}: its encoder is not shaped like the config's first stage") from None
