"""Reading YAML and ``key=value`` overrides into a frozen dataclass, and writing the resolved result beside a run.

The shipped configs are the package ``emova_configs``; they are found by name from anywhere, see ``find_config``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.writing import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT")
_ENDINGS = (".yaml", ".yml", ".json")


def load_config(
    cls: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = (), *, kind: str = ""
) -> ConfigT:
    """Build the dataclass ``cls`` from its defaults, then a YAML file, then ``dotted.key=value`` overrides.

    A file may name another in ``base``, relative to itself or by the name of a shipped one: that one is read first, and
    the file says what differs. ``cls.RENAMED``, where there is one, maps dotted keys of earlier versions to today's.

    Args:
        path: a file, or the name of a shipped config (``find_config``).
        kind: the folder of the shipped configs that are meant.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, or a value has the wrong type.
    """
    merged = OmegaConf.structured(cls)
    _unlock(merged)
    source: str | Path = path if path is not None else "command line"
    try:
        if path is not None:
            merged = OmegaConf.merge(merged, *(_renamed(cls, content) for content in _files(find_config(path, kind))))
        source = "command line" if overrides else source
        changes = OmegaConf.from_dotlist(list(overrides))
        result = OmegaConf.to_object(OmegaConf.merge(merged, _renamed(cls, changes)))
    except yaml.YAMLError:
        raise InputError(f"{source}: not valid YAML; quote values with brackets or colons") from None
    except OmegaConfBaseException as error:
        raise InputError(f"{source}: {_refused(error, cls)}") from None
    assert isinstance(result, cls)
    return result


@functools.cache
def shipped_configs() -> Mapping[str, Path]:
    """The shipped configs by name: the path below the package ``emova_configs`` without its ending."""
    spec = importlib.util.find_spec("emova_configs")
    root = next((Path(folder) for folder in (spec and spec.submodule_search_locations) or ()), None)
    if root is None:
        return {}
    files = sorted(path for path in root.rglob("*") if path.suffix in _ENDINGS)
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def find_config(name: str | Path, kind: str = "") -> Path:
    """The file of a config: ``name`` itself where it is one, else the shipped config of that name.

    ``stages/nano/stage1``, ``configs/stages/nano/stage1.yaml`` and ``nano/stage1`` all name the same shipped one; where
    ``kind`` says which folder is meant, ``nano`` is enough.

    Args:
        kind: the folder of ``emova_configs`` that goes before the others, such as ``stages``.

    Raises:
        InputError: there is no such file, or the name fits several.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    wanted = Path(name).as_posix()
    if Path(name).suffix in _ENDINGS:
        wanted = wanted[: -len(Path(name).suffix)]
    wanted = wanted.removeprefix("./").removeprefix("configs/")
    for exact in (f"{kind}/{wanted}", wanted):
        if exact in shipped:
            return shipped[exact]
    fitting = [known for known in shipped if wanted and f"/{known}".endswith(f"/{wanted}")]
    fitting = [known for known in fitting if known.startswith(f"{kind}/")] or fitting
    if len(fitting) == 1:
        return shipped[fitting[0]]
    if fitting:
        raise InputError(f"config {wanted[:80]!r}: several are called so; give one of {', '.join(fitting[:8])}")
    own = [known for known in shipped if known.startswith(f"{kind}/")] if kind else list(shipped)
    short = {known.removeprefix(f"{kind}/"): known for known in own}
    close = difflib.get_close_matches(wanted, [*short, *shipped], 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"give a YAML file, or one of {', '.join([*short][:12])}"
    raise InputError(f"{name}: no such config file, nor a shipped config of that name; {hint}")


def _files(path: Path) -> list[DictConfig | ListConfig]:
    """The content of a YAML file after those of its bases, outermost first."""
    found: list[DictConfig | ListConfig] = []
    seen: set[Path] = set()
    at: Path | None = path
    while at is not None:
        if at.resolve() in seen:
            raise InputError(f"{at}: is its own base; remove a `base` line")
        seen.add(at.resolve())
        try:
            content = OmegaConf.load(at)
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{shown(at)}: cannot be read as a YAML file; give another one") from None
        base = content.pop("base", None) if isinstance(content, DictConfig) else None
        found.insert(0, content)
        if base is None:
            return found
        beside = at.parent / str(base)
        at = beside if beside.is_file() else find_config(str(base))
    return found


def _renamed(cls: type[object], content: DictConfig | ListConfig) -> DictConfig | ListConfig:
    """``content`` with the keys that it has by the names of earlier versions moved to today's."""
    for old, new in getattr(cls, "RENAMED", {}).items():
        above, _, key = old.rpartition(".")
        parent = OmegaConf.select(content, above) if above and OmegaConf.is_dict(content) else content
        if OmegaConf.is_dict(parent) and key in parent:
            value = OmegaConf.create({"value": parent.pop(key)})
            OmegaConf.update(content, new, value.value, merge=True, force_add=True)
    return content


def config_from_dict(cls: type[ConfigT], values: Mapping[str, object], source: str | Path) -> ConfigT:
    """The dataclass ``cls`` from plain containers, such as a checkpoint's ``config.json``; ``source`` is for messages.

    Raises:
        InputError: a key is unknown, or a value has the wrong type or fits no other one.
    """
    merged = OmegaConf.structured(cls)
    _unlock(merged)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(merged, _renamed(cls, OmegaConf.create(dict(values)))))
    except OmegaConfBaseException as error:
        raise InputError(f"{source}: {_refused(error, cls)}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    assert isinstance(result, cls)
    return result


def _refused(error: OmegaConfBaseException, cls: type[object]) -> str:
    """What is wrong with a key or its value, by the key's whole path; of an unknown key the nearest that there is."""
    path = error.full_key or ""
    within = error.object_type if isinstance(error.object_type, type) else cls
    if not isinstance(error, ConfigKeyError | ConfigAttributeError) or not dataclasses.is_dataclass(within):
        return f"{path}{': ' if path else ''}{str(error).splitlines()[0]}; see the fields of {within.__name__}"
    above, _, key = path.rpartition(".")
    here = [field.name for field in dataclasses.fields(within)]
    near = [f"{above}.{name}" if above else name for name in difflib.get_close_matches(key, here, 1)]
    near = near or [known for known in _paths(OmegaConf.structured(cls)) if known.rpartition(".")[2] == key]
    hint = f"there are {', '.join(here)}; where the config is of a later version, update emova"
    if near:
        hint = f"did you mean {near[0]}?"
    return f"{path}: no such key; {hint}"


def _paths(node: object, above: str = "") -> Iterator[str]:
    """The dotted path of every key of a config."""
    if isinstance(node, DictConfig):
        for key in node:
            path = f"{above}.{key!s}" if above else str(key)
            yield path
            if not OmegaConf.is_missing(node, key):
                yield from _paths(node[key], path)


def _unlock(node: object) -> None:
    """OmegaConf makes a frozen dataclass read-only at every level; merging needs to write before it is built."""
    if isinstance(node, DictConfig | ListConfig):
        OmegaConf.set_readonly(node, None)
        for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
            if not OmegaConf.is_missing(node, key):
                _unlock(node[key])


def config_dict(config: DataclassInstance) -> dict[str, object]:
    """The dataclass ``config`` as plain containers, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def save_config(config: DataclassInstance, path: str | Path) -> None:
    """Write the resolved dataclass ``config`` as YAML."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(config_dict(config))))
