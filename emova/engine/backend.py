"""Which backend a checkpoint is decoded by, before anything of it is loaded."""

from __future__ import annotations

import dataclasses
import logging
from importlib.util import find_spec
from pathlib import Path

from emova.checkpoint.gguf import FILE_NAME
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.llamacpp import llama_cpp
from emova.engine.engine import EngineConfig

_ALL = 1 << 30
log = logging.getLogger(__name__)
BACKENDS = ("auto", "native", "torch", "llama.cpp", "vllm")


def resolve_backend(config: EngineConfig, folder: Path) -> EngineConfig:
    """``config`` with llama.cpp and its file named where that decodes, or the folder where vLLM does; else as it is.

    A file that was named is taken, whatever there is else; one in the checkpoint's folder is taken by ``auto`` where
    llama-cpp-python is installed.

    Raises:
        InputError: there is no such backend, or no file for it.
    """
    if config.backend not in BACKENDS:
        raise InputError(f"the backend {config.backend[:40]!r}: unknown; give one of {', '.join(BACKENDS)}")
    if config.gguf and config.backend in ("native", "torch", "vllm"):
        raise InputError(f"the backend {config.backend}: a GGUF file is for llama.cpp; leave one of the two out")
    if config.backend == "vllm":
        config.vllm.interpreter()
        # vLLM cuts up what it reads by itself, and does not need to hear of each piece.
        return dataclasses.replace(config, checkpoint=str(folder), prefill_chunk=_ALL)
    if config.backend in ("native", "torch"):
        return config
    there = Path(config.gguf) if config.gguf else folder / FILE_NAME
    if config.gguf or config.backend == "llama.cpp":
        if not there.is_file():
            raise InputError(
                f"{shown(there)}: no such file; write one: emova export gguf --dtype q8_0 --model {shown(folder.name)} "
                f"--out {FILE_NAME}, then --gguf {FILE_NAME}"
            )
        llama_cpp("the backend llama.cpp")
        return dataclasses.replace(config, backend="llama.cpp", gguf=str(there))
    if not there.is_file():
        return config
    if find_spec("llama_cpp") is None:
        log.warning("%s is not used: llama-cpp-python is not installed (pip install 'emova[llamacpp]')", FILE_NAME)
        return config
    return dataclasses.replace(config, backend="llama.cpp", gguf=str(there))
