"""Sources of one's own: a folder in a usual format, or an entry like the registry's in a YAML file anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from emova.core.errors import InputError
from emova_data.sources.converters import CONVERTERS, FORMATS
from emova_data.sources.registry import DataSource, entry_of

_MODALITY = {
    "llava": ("image", "text"), "messages": ("image", "speech", "text"), "speech": ("speech", "text"),
    "recordings": ("speech",), "text": ("text",),
}  # fmt: skip
_DEFAULTS: Mapping[str, object] = {
    "stages": {}, "modality": ["image", "speech", "text"], "languages": ["en"], "licence": "own", "size": "unknown",
    "citation": "own",
}  # fmt: skip


@dataclass(frozen=True)
class OwnSource:
    """A source of one's own and the folder of its files; None where ``--from`` has to say it."""

    source: DataSource
    folder: Path | None


def name_of(folder: Path) -> str:
    """A set's name from a folder's. Raises: InputError: nothing of it can be used."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    if not name:
        raise InputError(f"{folder}: give the set a name with --name")
    return name


def of_folder(folder: Path, kind: str, *, name: str = "", options: Mapping[str, object] | None = None) -> OwnSource:
    """The source that a folder in the format ``kind`` is.

    Args:
        name: of the set; the folder's where it is empty.
        options: for the converter.

    Raises:
        InputError: there is no such folder, it is empty, or the format is unknown.
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind[:30]}: unknown; choose {', '.join(FORMATS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the data")
    if next(folder.iterdir(), None) is None:
        raise InputError(f"{folder}: the folder is empty; give the one that holds the data")
    raw = {**_DEFAULTS, "name": name or name_of(folder), "title": folder.name, "modality": list(_MODALITY[kind])}
    made = entry_of(raw, str(folder))
    given = dict(options or {})
    if kind == "llava":
        given.setdefault("files", ["**/*.json", "**/*.jsonl", "**/*.parquet"])
    if kind in ("speech", "recordings"):
        given.setdefault("sample_rate", 0)  # as it is: what was recorded for a voice stays fit for one
    return OwnSource(replace(made, converter=kind, options=given), folder)


def read_yaml(path: Path, name: str = "") -> OwnSource:
    """The source in a YAML file: keys as in the registry, of which ``name`` and ``converter`` are needed; ``folder`` is
    where its files are, relative to the YAML. A file of several takes ``name`` to say which.

    Raises:
        InputError: the file is no such YAML, a key or the converter is unknown, or several sources are there.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read; give a YAML file in UTF-8") from None
    except yaml.YAMLError:
        raise InputError(f"{path}: not YAML; quote values with brackets or colons") from None
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in entries) or not entries:
        raise InputError(f"{path}: a source is a mapping with a name and a converter; see data_recipes/README.md")
    names = [each["name"] for each in entries]
    if name and name not in names:
        raise InputError(f"{path}: has no source {name[:40]}; there are {', '.join(names)}")
    if not name and len(entries) > 1:
        raise InputError(f"{path}: has several sources ({', '.join(names)}); give --name")
    raw = dict(next(each for each in entries if not name or each["name"] == name))
    folder = raw.pop("folder", None)
    source = entry_of({**_DEFAULTS, "title": raw["name"], **raw}, path.name)
    known = {**CONVERTERS, **FORMATS}
    if source.converter not in known:
        raise InputError(f"{path}: converter {source.converter[:30]!r} is unknown; choose {', '.join(sorted(known))}")
    return OwnSource(source, path.parent / str(folder) if folder is not None else None)
