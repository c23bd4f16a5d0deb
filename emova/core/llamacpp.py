"""llama-cpp-python, where it is installed: imported once, and silent."""

from __future__ import annotations

from types import ModuleType

from emova.core.errors import InputError

_kept: list[object] = []  # llama.cpp keeps the pointer as long as it runs


def llama_cpp(purpose: str) -> ModuleType:
    """The package, which says nothing on stderr: what goes wrong is one error of ours.

    Args:
        purpose: what errors begin with.

    Raises:
        InputError: it is not installed, or its library cannot be loaded.
    """
    try:
        import llama_cpp as package
    except (ImportError, OSError, RuntimeError, AttributeError):  # a library of another version lacks a function
        raise InputError(
            f"{purpose}: llama-cpp-python is missing or damaged; run pip install 'emova[llamacpp]'"
        ) from None
    if not _kept:
        _kept.append(package.llama_log_callback(lambda level, text, data: None))
        package.llama_log_set(_kept[0], None)
    return package
