"""The instruction sets that the C of this package is written for, and which of them this processor has.

One source is compiled for the best of them; what differs between them stands in ``lanes.h`` and ``eight.h``. Not among
them: AVX-512 FP16, whose sums would be float16 too, and AMX, whose tiles pay from many more positions at once than a
step reads.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError

CHOICE = "EMOVA_ISA"
"""The environment variable that names an instruction set in place of the best one."""


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    Attributes:
        machines: as ``platform.machine()`` names them; any if empty.
        flags: for the compiler.
        needs: features of the processor, as Linux names them.
    """

    name: str
    machines: tuple[str, ...]
    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


_X86, _ARM = ("x86_64", "AMD64"), ("aarch64", "arm64")
_V3 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V3_CODE, _V4_CODE = (("-mtune=native", f"-march=x86-64-{level}") for level in ("v3", "v4"))
ISAS = (
    Isa(
        "avx512-bf16",
        _X86,
        (*_V4_CODE, "-mavx512vnni", "-mavx512bf16"),
        _V4 | {"avx512_vnni", "avx512_bf16"},
    ),
    Isa("avx512-vnni", _X86, (*_V4_CODE, "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Isa("avx512", _X86, _V4_CODE, _V4),
    Isa("avx2-vnni", _X86, (*_V3_CODE, "-mavxvnni"), _V3 | {"avx_vnni"}),
    Isa("avx2", _X86, _V3_CODE, _V3),
    Isa("neon-dotprod", _ARM, ("-march=armv8.2-a+dotprod+fp16",), frozenset({"asimd", "asimddp", "fphp"})),
    Isa("neon", _ARM, ("-march=armv8-a",), frozenset({"asimd"})),
    Isa("any", (), ("-march=native",)),
)
"""The best first. What the one needs holds what those after it on the same machine need."""


def cpu_features() -> frozenset[str]:
    """What this processor can do, as Linux names it; empty where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return frozenset(line.partition(":")[2].split())
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset({"asimd", "asimddp", "fphp"})  # every Apple processor that runs macOS
    return frozenset()


def runs(isa: Isa) -> bool:
    """Whether this machine runs its code."""
    return (not isa.machines or platform.machine() in isa.machines) and isa.needs <= cpu_features()


def candidates() -> tuple[Isa, ...]:
    """Those that run here, the best first; only the named one where ``EMOVA_ISA`` names one.

    Raises:
        InputError: it names one that does not exist or does not run here.
    """
    here = tuple(isa for isa in ISAS if runs(isa))
    named = os.environ.get(CHOICE, "")
    if not named:
        return here
    chosen = tuple(isa for isa in here if isa.name == named)
    if not chosen:
        raise InputError(f"{CHOICE}={named}: this processor runs {', '.join(isa.name for isa in here)}")
    return chosen
