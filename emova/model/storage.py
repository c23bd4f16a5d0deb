"""A checkpoint whose language model is kept in int8 rows: half the bytes of 16 bits.

The linears and the embeddings of the LLaMA become int8 with one scale a row (``emova.core.weights``); vision tower and
projector, which are small and whose kernels have few numbers a row, and all vectors keep 16 bits. ``config.json`` says
so (``weight_storage``); reading gives plain float32 tensors, and writing those again gives the same bytes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from emova.core.weights import pack, unpack
from emova.core.writing import make_folder, save_tensors
from emova.model.configuration_emova import INT8_ROWS, PLAIN, EmovaConfig

WEIGHTS = "model.safetensors"
LANGUAGE_MODEL = ("model.language_model.", "lm_head.")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def save_int8(model: PreTrainedModel, folder: str | Path) -> None:
    """Write ``config.json``, ``generation_config.json`` and ``model.safetensors``, the language model in int8 rows.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = make_folder(folder)
    config = copy.deepcopy(model.config)
    config.weight_storage, config.architectures, config.dtype = INT8_ROWS, [type(model).__name__], torch.float16
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    state = dict(model.state_dict())
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_tensors(folder / WEIGHTS, pack(state, "int8", LANGUAGE_MODEL), metadata={"format": "pt"})


def read_int8(
    name: str | os.PathLike[str], options: Mapping[str, Any]
) -> tuple[EmovaConfig, dict[str, Tensor], GenerationConfig] | None:
    """What ``save_int8`` wrote, as float32 and a plain model's configuration; None where it did not write it.

    Args:
        name: a folder, or a name on the hub.
        options: of ``from_pretrained``.
    """
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    given = options.get("config")
    config = given if isinstance(given, EmovaConfig) else EmovaConfig.from_pretrained(name, **hub)
    if config.weight_storage != INT8_ROWS:
        return None
    path = cached_file(name, WEIGHTS, **hub)
    assert path is not None
    state = unpack(load_file(path))
    config = copy.deepcopy(config)
    config.weight_storage, config.dtype = PLAIN, torch.float32
    if cached_file(name, "generation_config.json", _raise_exceptions_for_missing_entries=False, **hub) is None:
        return config, state, GenerationConfig.from_model_config(config)
    return config, state, GenerationConfig.from_pretrained(name, **hub)
