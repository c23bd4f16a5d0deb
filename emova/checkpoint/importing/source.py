"""A release on the disk or on a hub: its plain files, and its tensors by name, told from their headers before any is
loaded.

Safetensors hold tensors and nothing else. A ``.pt`` or ``.bin`` file is a pickle, which can hold code: it is read as
tensors alone, and refused where it asks for more.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from pickletools import genops
from typing import IO

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.memory import available_memory

Shape = tuple[int, ...]
PICKLES = (".pt", ".bin", ".pth", ".ckpt")
AGAIN = "fetch the release again"
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LARGEST_HEADER = 100 << 20  # bytes; the format's own limit
_LARGEST_TEXT = 64 << 20  # bytes of a configuration or a tokenizer
_LARGEST_YAML = 1 << 20  # bytes
_MOST_ENTRIES = 10_000  # of one mapping of YAML
_MOST_STEPS = 1_000_000  # of a pickle; a tensor takes about thirty


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """A folder or file as it is, or the folder of a hub's repository with the files that match ``patterns``.

    Raises:
        InputError: there is no such path, and no such repository can be had.
    """
    path = Path(name)
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise InputError(f"{shown(name)}: no such folder; give a release's, or its name OWNER/NAME on a hub")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise InputError(f"{shown(name)}: comes from a hub; run pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        raise InputError(
            f"{shown(name)}: cannot be fetched from the hub; check the name, its licence and the connection, "
            "or give a folder with the files"
        ) from None


def read_json(path: Path) -> dict[str, object]:
    """A release's JSON file. Raises: InputError: it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{shown(path)}: missing; {AGAIN}")
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{shown(path)}: damaged; {AGAIN}") from None
    return content


class _PlainLoader(yaml.SafeLoader):
    """YAML whose tags, which name classes and functions elsewhere, mean nothing, and whose merges stay small."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what is merged (``<<``), which may itself have been merged, and so grow without bounds."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_ENTRIES:
            raise yaml.YAMLError("too many entries")


def _plain(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("!", _plain)
_PlainLoader.add_multi_constructor("tag:", _plain)


def read_yaml(path: Path) -> dict[str, object]:
    """A release's YAML as plain data: no class that it names is built, nothing in it is run.

    Raises:
        InputError: it is damaged.
    """
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise ValueError
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # a SafeLoader
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        raise InputError(f"{shown(path)}: damaged; {AGAIN}") from None
    return content


def section(tree: object, key: str) -> dict[str, object]:
    """The first mapping that stands under ``key`` anywhere in plain data; empty if there is none."""
    # YAML's aliases may put one mapping into many places, itself too: each is looked into once.
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        if not isinstance(here, dict) or id(here) in seen:
            continue
        seen.add(id(here))
        found = here.get(key)
        if isinstance(found, dict):
            return found
        waiting += reversed(here.values())
    return {}


class Tensors(Mapping[str, Tensor]):
    """The tensors of one or more files by name; those of safetensors are read when they are asked for.

    Args:
        files: safetensors files, or pickles.
        picked: in a pickle, the key under which the tensors lie, if they lie under one.

    Attributes:
        shapes: of each tensor.
        name: how errors call it.
        prefix: what stands before each of these names in the files.

    Raises:
        InputError: a file is missing, damaged, or holds more than tensors.
    """

    def __init__(self, files: Sequence[Path], name: str = "", picked: Sequence[str] = ()) -> None:
        self.name, self.prefix = name or shown(files[0]), ""
        self.shapes: dict[str, Shape] = {}
        self._bytes = 0
        self._where: dict[str, Path] = {}
        self._loaded: dict[str, Tensor] = {}
        for file in files:
            if not file.is_file():
                raise InputError(f"{shown(file)}: missing; {AGAIN}")
            if file.suffix == ".safetensors":
                self._add_safetensors(file)
            elif file.suffix in PICKLES:
                self._add_pickle(file, picked)
            else:
                raise InputError(f"{shown(file)}: no file of weights; give safetensors")

    @classmethod
    def of(cls, path: Path, stems: Sequence[str] = ("model", "pytorch_model")) -> Tensors:
        """Those of a file, or of a folder: whole, or in shards that an index names.

        Raises:
            InputError: there are none, a shard is missing, or a file is damaged.
        """
        if path.is_file():
            return cls([path])
        for stem, ending in ((stem, ending) for ending in ("safetensors", "bin", "pt") for stem in stems):
            index = path / f"{stem}.{ending}.index.json"
            if index.is_file():
                named = read_json(index).get("weight_map")
                if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
                    raise InputError(f"{shown(index)}: damaged; {AGAIN}")
                files = sorted(set(named.values()))
                if any(Path(file).name != file for file in files):
                    raise InputError(f"{shown(index)}: names a file outside of its folder; {AGAIN}")
                found = cls([path / file for file in files], shown(path))
                lost = next((tensor for tensor in named if tensor not in found), None)
                if lost is not None:
                    raise InputError(f"{shown(path)}: the index names tensor {shown(lost)}, no file has it; {AGAIN}")
                return found
            if (path / f"{stem}.{ending}").is_file():
                return cls([path / f"{stem}.{ending}"], shown(path))
        raise InputError(f"{shown(path)}: no weights there; give a folder with {stems[0]}.safetensors or its shards")

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:  # without loading it
        return name in self.shapes

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as it is stored. Raises: InputError: its file is damaged."""
        if name in self._loaded:
            return self._loaded[name]
        path = self._where[name]
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError):
            raise InputError(f"{shown(path)}: damaged; {AGAIN}") from None
        except RuntimeError:  # a file is opened as one stretch of memory, although little of it is read
            size = path.stat().st_size / 2**30
            raise InputError(
                f"{shown(path)}: {size:.1f} GiB in one file are more than this machine can open; cut it into shards or "
                "import it on a larger machine"
            ) from None

    def check_memory(self, widened: bool, most: int = 1 << 62) -> None:
        """See that they fit into this machine's memory, before one is loaded. Raises: InputError.

        Args:
            widened: as float32, whatever they are stored as.
            most: bytes that lie there at a time.
        """
        needed = min(most, sum(4 * prod(shape) for shape in self.shapes.values()) if widened else self._bytes)
        there = available_memory()
        if needed > there:
            raise InputError(
                f"{self.name}: needs {needed / 2**30:.1f} GiB of memory, {there / 2**30:.1f} are free; "
                "close other programs, or import it on a larger machine"
            )

    def _add_safetensors(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if not 2 <= size <= _LARGEST_HEADER:
                    raise ValueError
                header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            ends = [0]
            for name, entry in header.items():
                shape = tuple(int(length) for length in entry["shape"])
                self._add(path, name, shape)
                self._bytes += prod(shape) * _BYTES.get(entry["dtype"], 4)
                ends.append(int(entry["data_offsets"][1]))
            if path.stat().st_size < 8 + size + max(ends):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise InputError(f"{shown(path)}: damaged or cut short; {AGAIN}") from None

    def _add_pickle(self, path: Path, picked: Sequence[str]) -> None:
        try:
            check_pickle(path)
            with warnings.catch_warnings(action="ignore"):  # torch speaks of a pickle's version before it refuses it
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zip_format(path))
        except pickle.UnpicklingError:
            raise InputError(
                f"{shown(path)}: holds more than tensors; such a file can run code, so it is not opened. Give "
                "safetensors"
            ) from None
        except (
            OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError,
            NotImplementedError, MemoryError, OverflowError, zipfile.BadZipFile,
        ):  # fmt: skip
            raise InputError(f"{shown(path)}: damaged; {AGAIN}") from None
        for key in (*picked, "state_dict"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
                break
        if not isinstance(content, dict) or not all(
            isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
        ):
            raise InputError(f"{shown(path)}: no table of tensors; give the release's weights")
        for name, tensor in content.items():
            self._add(path, name, tuple(tensor.shape))
            self._bytes += tensor.numel() * tensor.element_size()
            self._loaded[name] = tensor

    def _add(self, path: Path, name: str, shape: Shape) -> None:
        if name in self._where:
            raise InputError(f"{shown(path)}: tensor {shown(name)} is in two files; {AGAIN}")
        self.shapes[name], self._where[name] = shape, path


class Prefixed(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, without it."""

    def __init__(self, tensors: Tensors | Prefixed, prefix: str) -> None:
        self.name: str = tensors.name
        self._tensors, self._prefix = tensors, prefix
        self.prefix: str = tensors.prefix + prefix
        self.shapes: dict[str, Shape] = {
            name.removeprefix(prefix): shape for name, shape in tensors.shapes.items() if name.startswith(prefix)
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:  # without loading it
        return name in self.shapes

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]


def check_pickle(path: Path) -> None:
    """See that a pickle is a table of tensors by its size, before it is loaded: nothing in it grows, and it is short.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: it is not.
    """
    if zip_format(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # As torch writes them; what is compressed may be larger than any memory.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("compressed")
            for member in members:
                if member.filename.endswith(".pkl"):
                    with archive.open(member) as file:
                        _count_steps(file, 1)
        return
    with path.open("rb") as file:
        _count_steps(file, 5)  # the older format: a magic number, its version, the machine's sizes, the table, its keys


def _count_steps(file: IO[bytes], pickles: int) -> None:
    steps = 0
    for number in range(pickles):
        start = file.tell()
        if number and not file.read(1):
            return
        file.seek(start)
        for _ in genops(file):
            steps += 1
            if steps > _MOST_STEPS:
                raise ValueError("too long")


def zip_format(path: Path) -> bool:
    """Whether a pickle lies in the newer of torch's two formats, whose tensors need not be read at once."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
