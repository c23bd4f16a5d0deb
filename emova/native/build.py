"""C files of this package, compiled for the machine they run on at first use.

Nothing needs them. Where there is no C compiler, it fails, or ``EMOVA_NATIVE=0`` forbids it, torch does the same work.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")


def cache_folder() -> Path:
    """Where compiled code is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emova"


def compiled(source: Path) -> ctypes.CDLL | None:
    """The library that ``source`` makes, or None where it cannot be had. Whoever asks keeps it."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("EMOVA_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(_build(compiler, source)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.info("%s was not compiled, torch does its work: %s", source.name, error)
        return None


class Scratch(threading.local):
    """What compiled code writes into, kept from one call to the next; each thread has its own."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def floats(self, size: int) -> Tensor:
        """``[size]`` float32, of any values."""
        if len(self._numbers) < size:
            self._numbers = torch.empty(size * 3 // 2)  # what is asked for often grows bit by bit
        return self._numbers[:size]


def _build(compiler: str, source: Path) -> Path:
    # torch's own OpenMP, so that both use one pool of threads.
    openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    threads = [str(openmp[0]), f"-Wl,-rpath,{openmp[0].parent}"] if openmp else ["-fopenmp"]
    # A file that another machine shares with this one must not be run there.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    key = repr((source.read_bytes(), compiler, _FLAGS, threads, features, platform.machine(), platform.system()))
    path = cache_folder() / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            unit, made = Path(folder) / "unit.o", Path(folder) / "made.so"
            for command in (
                [compiler, *_FLAGS, "-c", str(source), "-o", str(unit)],
                [compiler, "-shared", str(unit), *threads, "-lm", "-o", str(made)],
            ):
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
                if done.returncode:
                    raise RuntimeError(done.stderr.strip()[:500])
            os.replace(made, path)  # whole or not at all, whoever builds beside us
    return path
