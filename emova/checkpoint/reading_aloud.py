"""A second language model in a checkpoint, which does nothing but read texts aloud.

A small model that goes on learning everyday sentences forgets how to talk. So the LLaMA may stand in a checkpoint
twice, as it talks and as it reads aloud, with the vision parts, the tokenizers and the voice in common. In the same way
Phi-4-Multimodal keeps what its language model knew: what is seen and heard has weights of its own (Microsoft 2025,
arXiv 2503.01743).
"""

from __future__ import annotations

import copy
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from emova.checkpoint.files import AGAIN, READING_ALOUD, SPELLING
from emova.core.errors import InputError
from emova.core.weights import pack, unpack
from emova.core.writing import save_tensors
from emova.model import EmovaForConditionalGeneration
from emova.model.storage import LANGUAGE_MODEL
from emova.speech.spelling import LETTERS, find_spelling


def save_reading_model(model: EmovaForConditionalGeneration, folder: Path) -> None:
    """Write the language model of ``model`` beside another one's checkpoint, in int8 rows.

    Raises:
        InputError: the folder cannot be written to.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(LANGUAGE_MODEL)}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    about = {SPELLING: model.config.reading_spelling}
    save_tensors(folder / READING_ALOUD, pack(state, "int8"), metadata=about)


def load_reading_model(model: EmovaForConditionalGeneration, folder: Path) -> EmovaForConditionalGeneration | None:
    """``model`` with the language model that reads aloud, all else in common; None if there is none.

    Raises:
        InputError: it is damaged, of another shape, or wants its texts spelled in a way that is not known here.
    """
    path = folder / READING_ALOUD
    if not path.is_file():
        return None
    try:
        state = unpack(load_file(path))
        with safe_open(path, "pt") as file:
            spelling = (file.metadata() or {}).get(SPELLING, LETTERS)
    except (SafetensorError, OSError):
        raise InputError(f"{path}: the file is damaged; {AGAIN}") from None
    inner = model.model
    shared = {id(part): part for part in inner.children() if part is not inner.language_model}
    other = copy.deepcopy(model, shared)
    wanted = {name: tensor.shape for name, tensor in other.state_dict().items() if name.startswith(LANGUAGE_MODEL)}
    if model.config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise InputError(f"{path}: of another shape than the checkpoint's language model; {AGAIN}")
    try:
        find_spelling(spelling)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    other.load_state_dict(state, strict=False)
    other.config.reading_spelling = spelling
    return other.eval()
