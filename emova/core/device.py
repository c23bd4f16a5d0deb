"""Which devices this machine has, and the one that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.core.io import shown

if TYPE_CHECKING:
    import torch


def devices() -> list[str]:
    """What can be named here: ``cpu``, and each GPU or other accelerator that torch can use."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if accelerator is not None else 0
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator is not None)]


def find_device(name: str | int | torch.device) -> torch.device:
    """The device of a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InputError: there is no such device on this machine.
    """
    import torch

    there = devices()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        device = torch.device("meta")
    if device.type == "cpu" or f"{device.type}:{device.index or 0}" in there:
        return device
    named = shown(str(name)) or "no name"
    raise InputError(f"device: {named}: this machine has no such device; it has {', '.join(there)}")
