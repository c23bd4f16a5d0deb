"""The language model of a checkpoint as transformers' own, for programs that know nothing of pictures and speech."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from emova.checkpoint.importing.shards import write_shards
from emova.checkpoint.importing.source import Tensors
from emova.checkpoint.loading import find_checkpoint, read_config
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.writing import write_text

_OWN = "model.language_model."
_OF_THE_SOURCE = ("quantization_config", "_name_or_path", "_model_name_or_path")
"""What a configuration may say of the file that a model was read from; these weights are plain."""


def write_backbone(name: str | Path, folder: Path) -> None:
    """Write ``config.json`` and the weights, in the numbers that they have, into ``folder``.

    Args:
        name: a shipped checkpoint or its folder.

    Raises:
        InputError: it is missing, damaged, or stored in a form of ours.
    """
    from emova.model import EmovaConfig
    from emova.model.configuration_emova import PLAIN

    source = find_checkpoint(name)
    config = EmovaConfig.from_dict(read_config(source))
    if config.weight_storage != PLAIN:
        raise InputError(
            f"{shown(source)}: its weights are stored as {config.weight_storage}, which only emova reads; assemble it "
            "with --model-storage float16"
        )
    tensors = Tensors.of(source)
    wanted = [each for each in tensors if each.startswith(_OWN)]
    if not wanted:
        raise InputError(f"{shown(source)}: it has no language model; copy the whole folder again")
    theirs = {each: "model." + each.removeprefix(_OWN) for each in wanted}
    tied = bool(config.tie_word_embeddings)
    if not tied and "lm_head.weight" in tensors.shapes:
        theirs["lm_head.weight"] = "lm_head.weight"
    write_shards(((official, tensors[own]) for own, official in theirs.items()), folder)
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config.text_config))
    said = {
        **config.text_config.to_dict(),
        "architectures": [kind.__name__],
        "tie_word_embeddings": tied,
        "dtype": str(tensors[wanted[0]].dtype).removeprefix("torch."),
    }
    for name in _OF_THE_SOURCE:
        said.pop(name, None)
    write_text(folder / "config.json", json.dumps(said, indent=2, default=str) + "\n")
