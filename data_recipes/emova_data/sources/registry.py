"""The registry of sources: what each is, where it comes from, under which licence, and how it becomes shards.

The entries stand in ``sources/*.yaml``, one list a file. Unknown keys are refused.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from emova.core.errors import InputError
from emova_data.records.selection import Selection, selection_of

FOLDER = Path(__file__).parent
STAGES = ("1", "2", "3", "codec", "pretraining")
ACCESS = ("open", "gated", "form", "generated")


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        path: below the base address; also the path below the source's folder.
        md5, sha256: published checksums, where there are any.
        unpack: a tar or zip archive whose members are wanted.
    """

    path: str
    md5: str = ""
    sha256: str = ""
    unpack: bool = False


@dataclass(frozen=True)
class DataSource:
    """One entry.

    Attributes:
        name: short name, for the command line and the folder.
        title: what it is called by its authors.
        stages: stage (1, 2, 3, codec, pretraining) -> mixing weight, the passes over it in one epoch of that stage.
        modality: of image, speech, text.
        languages: codes such as en, zh.
        licence: SPDX identifier, or words.
        size: items and bytes, in words.
        records: about how many, for plans that are made where the set is not; 0: unknown.
        citation: where to read about it; its authors ask to be cited.
        access: open; gated (accept terms, then a token); form (ask the authors); generated (here).
        hub: data-set repository on the Hugging Face hub.
        hub_files: patterns of the files wanted from it.
        base: address that ``files`` are below.
        files: files to fetch by HTTP.
        converter: name in ``converters.CONVERTERS``; empty where another entry or a generator makes the records.
        options: for the converter.
        deduplicate: copies within the source are left out.
        dedup_against: other sources whose records count as copies.
        select: what a record has to be to stay (``emova_data.records.selection``).
        units: whose units its speech is in, where it comes as units; they go with no other tokenizer.
        note: what else one has to know, such as where the pictures come from.
    """

    name: str
    title: str
    stages: Mapping[str, float]
    modality: tuple[str, ...]
    languages: tuple[str, ...]
    licence: str
    size: str
    citation: str
    records: int = 0
    access: str = "open"
    hub: str = ""
    hub_files: tuple[str, ...] = ()
    base: str = ""
    files: tuple[RemoteFile, ...] = ()
    converter: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    deduplicate: bool = False
    dedup_against: tuple[str, ...] = ()
    select: Selection | None = None
    units: str = ""
    note: str = ""

    @property
    def suffix(self) -> str:
        """Of its shards."""
        return ".jsonl" if self.modality == ("text",) else ".tar"


def entry_of(raw: object, where: str) -> DataSource:
    """An entry of a YAML file that ``where`` names. Raises: InputError: a key is unknown, missing or wrong."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: each entry is a mapping")
    name = str(raw.get("name", ""))
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise InputError(f"{where}: name {name[:40]!r}: lower-case letters, digits and hyphens are expected")
    known = {f.name for f in dataclasses.fields(DataSource)}
    if unknown := sorted(set(raw) - known):
        raise InputError(f"{where}: {name}: key {unknown[0]!r} is unknown; keys are {', '.join(sorted(known))}")
    values = dict(raw)
    required = {f.name for f in dataclasses.fields(DataSource)
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}  # fmt: skip
    if missing := sorted(required - set(raw)):
        raise InputError(f"{where}: {name}: {missing[0]} is missing")
    for key in ("modality", "languages", "hub_files", "dedup_against"):
        if key in values:
            values[key] = tuple(values[key])
    try:
        values["stages"] = {str(stage): float(weight) for stage, weight in values["stages"].items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{where}: {name}: stages map a stage to its weight, such as {{2: 1.0}}") from None
    if strange := sorted(set(values["stages"]) - set(STAGES)):
        raise InputError(f"{where}: {name}: stage {strange[0]!r} is unknown; stages are {', '.join(STAGES)}")
    if "select" in values:
        if not isinstance(values["select"], dict):
            raise InputError(f"{where}: {name}: select is a mapping, such as {{min_answer_words: 1}}")
        values["select"] = selection_of(values["select"], f"{where}: {name}")
    if values.get("access", "open") not in ACCESS:
        raise InputError(f"{where}: {name}: access is one of {', '.join(ACCESS)}")
    try:
        files = [{"path": item} if isinstance(item, str) else item for item in values.get("files", ())]
        values["files"] = tuple(RemoteFile(**item) for item in files)
    except TypeError:
        raise InputError(f"{where}: {name}: files have path, md5, sha256, unpack") from None
    return DataSource(**values)


def read_registry(folder: Path = FOLDER) -> dict[str, DataSource]:
    """All sources by name. Raises: InputError: a file is not as described."""
    found: dict[str, DataSource] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            raise InputError(f"{path}: not YAML") from None
        for raw in listed or ():
            entry = entry_of(raw, path.name)
            if entry.name in found:
                raise InputError(f"{path.name}: {entry.name} is there twice")
            found[entry.name] = entry
    for entry in found.values():
        for other in entry.dedup_against:
            if other not in found:
                raise InputError(f"{entry.name}: dedup_against names {other!r}, which is not in the registry")
    return found


@functools.lru_cache(maxsize=1)
def registry() -> dict[str, DataSource]:
    """The shipped registry."""
    return read_registry()


def find(name: str) -> DataSource:
    """The source ``name``. Raises: InputError."""
    import difflib

    entries = registry()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, 1)
        hint = f"did you mean {near[0]}?" if near else "`emova data list` names them"
        raise InputError(f"source {str(name)[:40]!r} is unknown; {hint}")
    return entries[name]


def mixture(stage: str) -> dict[str, float]:
    """Source -> passes an epoch, for a stage. Raises: InputError: no such stage."""
    if stage not in STAGES:
        raise InputError(f"stage {stage[:20]!r} is unknown; stages are {', '.join(STAGES)}")
    return {name: entry.stages[stage] for name, entry in registry().items() if stage in entry.stages}
