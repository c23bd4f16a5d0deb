"""How much memory there is, asked before much of it is taken."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes that programs may still take without the machine slowing down."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        pass
    try:  # elsewhere all there is: what is free is not told
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 1 << 62
