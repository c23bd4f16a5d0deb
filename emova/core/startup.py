"""Importing and loading without the garbage collector looking on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside, if there was any before.

    Imports and weights make hundreds of thousands of objects that stay. The collector, which walks them all again each
    time that their number has grown by a quarter, takes an eighth of the time to import torch, timm and transformers
    and to load emova-nano.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
