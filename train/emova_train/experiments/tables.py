"""A figure over seeds, as the studies' tables show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation of what was measured; a dash where nothing was (NaN)."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"
