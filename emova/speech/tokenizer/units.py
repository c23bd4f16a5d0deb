"""Which tokenizer units come from: a unit's number means nothing without it.

A tokenizer's folder may name its units in ``units.json``: a copy in fewer bits keeps the name, and an imported release
has the name that its authors' data go by (``emova_data/sources``). All others are named by their weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.writing import write_text

FILE = "units.json"
_RENAMED = {"emova-release-deduplicated": "40ms_multilingual_8888"}


def current(units: str) -> str:
    """What the units are called today that earlier versions wrote down as ``units``."""
    return _RENAMED.get(units, units)


def units_of(folder: str | Path) -> str:
    """The name of the units that the speech tokenizer in ``folder`` makes.

    Raises:
        InputError: there is none, or its files cannot be read.
    """
    folder = Path(folder)
    if named := named_units(folder):
        return named
    described = folder / "config.json"
    try:
        digest = hashlib.sha256()
        for path in (described, *sorted(folder.glob("*.safetensors"))):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        raise InputError(f"{shown(described)}: missing or damaged; give the folder of a speech tokenizer") from None
    return digest.hexdigest()[:16]


def named_units(folder: Path) -> str:
    """What ``units.json`` in ``folder`` says; empty where it says nothing. Raises: InputError: it is damaged."""
    try:
        return str(json.loads((folder / FILE).read_text(encoding="utf-8"))["units"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{shown(folder / FILE)}: damaged; copy the whole folder again") from None


def name_units(folder: Path, units: str) -> None:
    """Write ``units.json`` into ``folder``."""
    write_text(folder / FILE, json.dumps({"units": units}))
