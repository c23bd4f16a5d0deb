"""Which arithmetic a run uses: bfloat16 where the device has it, since emulating it is slower than float32 by far."""

from __future__ import annotations

import torch

AUTO, BF16, FP32 = "auto", "bf16", "fp32"
PRECISIONS = (AUTO, BF16, FP32)

# As ``torch.cpu.get_capabilities`` names them. Without one of them a CPU makes each bfloat16 product out of float32
# ones: on an AVX2 machine sixty times slower than float32 itself.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")


def computes_bf16() -> bool:
    """Whether this process's device multiplies bfloat16 by itself."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _CPU_BF16)


def resolved(precision: str) -> str:
    """``bf16`` or ``fp32``: what ``auto`` means on this device."""
    if precision != AUTO:
        return precision
    return BF16 if computes_bf16() else FP32


def autocast(precision: str = AUTO) -> torch.autocast:
    """The autocast context of a run with ``precision``; one that does nothing for ``fp32``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=resolved(precision) == BF16)
