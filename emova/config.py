"""Reading YAML and ``key=value`` overrides into a frozen dataclass, and writing the resolved result beside a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emova.errors import InputError
from emova.writing import write_text

ConfigT = TypeVar("ConfigT")


def load_config(cls: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Build the dataclass ``cls`` from its defaults, then a YAML file, then ``dotted.key=value`` overrides.

    A file may name another, relative to itself, in ``base``: that one is read first, and the file says what differs.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, or a value has the wrong type.
    """
    merged = OmegaConf.structured(cls)
    _unlock(merged)
    try:
        if path is not None:
            merged = OmegaConf.merge(merged, *_files(Path(path)))
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        result = OmegaConf.to_object(merged)
    except yaml.YAMLError:
        raise InputError(f"{path or 'command line'}: not valid YAML; quote values with brackets or colons") from None
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise InputError(
            f"{path or 'command line'}: {key}{str(error).splitlines()[0]}; see the fields of {cls.__name__}"
        ) from None
    assert isinstance(result, cls)
    return result


def _files(path: Path) -> list[Any]:
    """The content of a YAML file after those of its bases, outermost first."""
    found: list[Any] = []
    seen: set[Path] = set()
    at: Path | None = path
    while at is not None:
        if not at.is_file():
            raise InputError(f"{at}: no such config file; the shipped ones are in configs/")
        if at.resolve() in seen:
            raise InputError(f"{at}: is its own base; remove a `base` line")
        seen.add(at.resolve())
        content = OmegaConf.load(at)
        base = content.pop("base", None) if isinstance(content, DictConfig) else None
        found.insert(0, content)
        at = at.parent / str(base) if base is not None else None
    return found


def config_from_dict(cls: type[ConfigT], values: dict[str, Any], source: str | Path) -> ConfigT:
    """The dataclass ``cls`` from plain containers, such as a checkpoint's ``config.json``; ``source`` is for messages.

    Raises:
        InputError: a key is unknown, or a value has the wrong type or fits no other one.
    """
    merged = OmegaConf.structured(cls)
    _unlock(merged)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(merged, values))
    except OmegaConfBaseException as error:
        raise InputError(f"{source}: {str(error).splitlines()[0]}; see the fields of {cls.__name__}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    assert isinstance(result, cls)
    return result


def _unlock(node: Any) -> None:
    """OmegaConf makes a frozen dataclass read-only at every level; merging needs to write before it is built."""
    if OmegaConf.is_config(node):
        OmegaConf.set_readonly(node, None)
        for key in range(len(node)) if OmegaConf.is_list(node) else list(node):
            if not OmegaConf.is_missing(node, key):
                _unlock(node[key])


def config_dict(config: Any) -> dict[str, Any]:
    """The dataclass ``config`` as plain containers, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved dataclass ``config`` as YAML."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(config_dict(config))))
