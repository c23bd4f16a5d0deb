"""Compile a C file of this package for the machine it runs on; what comes out is kept in a folder of the user's own."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from emova.native.isa import Isa, cpu_features

FLAGS = ("-O3", "-fopenmp", "-fPIC")
FOLDER = Path(__file__).parent
"""Of the headers."""
TIMEOUT = 120
"""Seconds that one run of the compiler may take."""


class BuildError(Exception):
    """Compiled code cannot be had here; the message is the reason, in one line."""


def cache_folder() -> Path:
    """Where compiled code is kept. Raises: BuildError: the user has no home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The standard says that a relative path there counts for nothing.
        return (named if named.is_absolute() else Path.home() / ".cache") / "emova"
    except RuntimeError:
        raise BuildError("no home folder to keep compiled code in; set XDG_CACHE_HOME") from None


def find_compiler() -> list[str]:
    """The C compiler's command: ``CC``, or ``cc``. Raises: BuildError: there is none."""
    try:
        command = shlex.split(os.environ.get("CC") or "cc")
    except ValueError:
        command = []
    found = shutil.which(command[0]) if command else None
    if found is None:
        raise BuildError(f"no C compiler ({' '.join(command) or 'CC'}) was found")
    return [found, *command[1:]]


@lru_cache(maxsize=8)
def compiler_version(compiler: tuple[str, ...]) -> str:
    """The first line that ``compiler --version`` says. Raises: BuildError: it says nothing."""
    said = _run([*compiler, "--version"]).strip().splitlines()
    if not said:
        raise BuildError(f"{compiler[0]} --version says nothing")
    return said[0]


def library_path(source: Path, isa: Isa, compiler: list[str]) -> Path:
    """Where the library of ``source`` belongs: another name for each thing that changes the machine code.

    Homes are shared between machines, and what was compiled for one must not be run by another.
    """
    machine = platform.machine(), platform.system(), sorted(cpu_features())
    made_by = compiler, compiler_version(tuple(compiler)), FLAGS, isa.flags, _openmp(), torch.__version__
    headers = [path.read_bytes() for folder in {FOLDER, source.parent} for path in sorted(folder.glob("*.h"))]
    key = repr((source.read_bytes(), headers, made_by, machine))
    return cache_folder() / f"{source.stem}-{isa.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"


def build(source: Path, isa: Isa, again: bool = False) -> Path:
    """The library of ``source`` for ``isa``, compiled now if it is not there yet, or ``again``.

    Raises:
        BuildError: there is no compiler, it fails, or there is no folder that only this user can write to.
    """
    compiler = find_compiler()
    try:
        path = library_path(source, isa, compiler)
        make_private(path.parent)
        if again or not _is_own(path):
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                unit, made = Path(folder) / "unit.o", Path(folder) / "made.so"
                flags = (*FLAGS, *isa.flags, f"-I{FOLDER}")
                _run([*compiler, *flags, "-c", str(source), "-o", str(unit)])
                _run([*compiler, "-shared", str(unit), *_openmp(), "-lm", "-o", str(made)])
                made.chmod(0o700)
                os.replace(made, path)  # whole or not at all, whoever builds beside us; a link there is replaced
    except OSError as error:
        raise BuildError(f"{error.filename or 'a file'}: {error.strerror or error}") from None
    return path


def make_private(folder: Path) -> None:
    """Make ``folder``, or see that it is this user's, no link, and closed to others.

    Raises:
        BuildError: it is not. What others can write there would be run as this user.
        OSError: it cannot be made or read.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink():
        raise BuildError(f"{folder} is a link; set XDG_CACHE_HOME to a folder of your own")
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(opened)
        if facts.st_uid != os.geteuid():
            raise BuildError(f"{folder} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BuildError(f"{folder} can be written by others; empty it and take their right (chmod 700)")
        if stat.S_IMODE(facts.st_mode) != 0o700:
            os.fchmod(opened, 0o700)
    finally:
        os.close(opened)


def _is_own(path: Path) -> bool:
    """Whether ``path`` is a plain file that only this user can have written."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return False
    others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and not others


def _openmp() -> list[str]:
    """What to link for threads: torch's own OpenMP, so that both use one pool of threads."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [str(found[0]), f"-Wl,-rpath,{found[0].parent}"] if found else ["-fopenmp"]


def _run(command: list[str]) -> str:
    """What ``command`` prints. Raises: BuildError: it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the compiler {command[0]} cannot be run: {type(error).__name__}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = next((line for line in said if "error" in line), said[0] if said else f"exit {done.returncode}")
        raise BuildError(f"the compiler {command[0]} fails: {reason[:200]}")
    return done.stdout
