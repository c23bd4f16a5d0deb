"""Packages that are only needed for some commands: which ``pip install`` line brings a missing one."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from emova.core.errors import InputError

OURS = ("emova", "emova_app", "emova_bench", "emova_configs", "emova_data", "emova_eval", "emova_torch", "emova_train")
# The extra of each command; what a command needs beyond emova itself is listed there.
EXTRA_OF = {
    "bench": "bench",
    "data": "data",
    "demo": "demo",
    "eval": "eval",
    "export": "gguf",
    "serve": "serve",
    "train": "train",
}
# Modules that are called otherwise than the package that brings them.
_PACKAGES = {
    "multipart": "python-multipart",
    "OpenSSL": "pyopenssl",
    "open_clip": "open-clip-torch",
    "PIL": "pillow",
    "piper": "piper-tts",
    "hibari": "hibari-tts",
    "sklearn": "scikit-learn",
    "webrtcvad": "webrtcvad-wheels",
}
_REQUIREMENT = re.compile(r"""([\w.-]+).*?(?:;.*extra\s*==\s*["']([\w-]+)["'])?""")


def _listed() -> dict[str, list[str]]:
    """The extras that list a package, by its normalised name; ``""`` stands for what emova always needs."""
    found: dict[str, list[str]] = {}
    try:
        lines = requires("emova") or []
    except PackageNotFoundError:  # run from its folder, without having been installed
        lines = []
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        if match is not None:
            found.setdefault(_normal(match[1]), []).append(match[2] or "")
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def install_line(module: str, command: str) -> str:
    """What to run so that ``command`` finds ``module``."""
    extras = _listed().get(_normal(_PACKAGES.get(module, module)), [])
    own = EXTRA_OF.get(command, "")
    # A package that no extra lists comes with one that the command's own extra lists.
    extra = own if own in extras or not extras else min(extras)
    return f"pip install 'emova[{extra}]'" if extra else "pip install emova"


def missing_package(error: ImportError, command: str) -> InputError | None:
    """What a user of ``command`` is told; None if a module of our own is missing, which no installation mends."""
    module = (error.name or "").split(".")[0]
    if module in OURS:
        return None
    if not module or not isinstance(error, ModuleNotFoundError):
        # Libraries that look for their optional parts themselves do not say by name what they miss.
        what = f"a package that it needs{f' ({module})' if module else ''} is missing or too old"
    else:
        what = f"the package {module} is not installed"
    return InputError(f"{command}: {what}; run {install_line(module, command)}")
