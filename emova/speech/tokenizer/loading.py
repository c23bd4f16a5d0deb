"""A speech tokenizer of any kind from its folder; ``config.json`` says which it is."""

from __future__ import annotations

import json
from pathlib import Path

from emova.speech.tokenizer.mel_tokenizer import MelTokenizer


def load_tokenizer(folder: str | Path) -> MelTokenizer:
    """The tokenizer in ``folder``, ready for inference.

    Raises:
        InputError: a file is missing, damaged, or does not match the config.
    """
    from emova.speech.tokenizer.kmeans import KIND, KMeansTokenizer
    from emova.speech.tokenizer.s2u import S2UTokenizer

    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        kind = config.get("kind", "")
    except (OSError, ValueError, AttributeError):
        kind = ""  # the loader below says what is wrong
    return KMeansTokenizer.from_pretrained(folder) if kind == KIND else S2UTokenizer.from_pretrained(folder)
