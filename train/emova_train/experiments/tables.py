"""What studies share: results that other machines measured, and a figure over seeds as the tables show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emova.core.errors import InputError


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a ``results.json`` that a study wrote. Raises: InputError: it holds none."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: no results ({error}); give a results.json that this command wrote") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: no results; give a results.json that this command wrote")
    return rows


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation of what was measured; a dash where nothing was (NaN)."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"
