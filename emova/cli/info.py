"""``emova info``: what a checkpoint holds, from its files alone, and what this machine runs it with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import NotRequired, TypedDict

from emova import __version__
from emova.checkpoint.files import AGAIN, READING_ALOUD, SPELLING, WORDS
from emova.checkpoint.loading import (
    check_files,
    checkpoint_styles,
    find_checkpoint,
    read_config,
    shipped_names,
)
from emova.cli.common import add_common, show
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.weights import SCALE_SUFFIX
from emova.speech.spelling import LETTERS

_METADATA = "__metadata__"


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(parser, "emova info\nemova info --model runs/stage3 --json")
    parser.set_defaults(run=run)


def count_parameters(path: Path) -> dict[str, int]:
    """Parameters of each first-level part of a safetensors file, from its header. Raises: InputError."""
    counts: dict[str, int] = {}
    try:
        for name, tensor in _header(path).items():
            if name != _METADATA and not name.endswith(SCALE_SUFFIX):
                part = ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])
                counts[part] = counts.get(part, 0) + prod(tensor["shape"])
    except (LookupError, TypeError, AttributeError):
        raise _damaged(path) from None
    return counts


def reading_spelling(folder: Path) -> str:
    """What a text that is read aloud is spelled in (``emova.speech.spelling``). Raises: InputError."""
    own = folder / READING_ALOUD
    if own.exists():
        return str(_table(_header(own), _METADATA).get(SPELLING, LETTERS))
    return str(read_config(folder).get("reading_spelling", LETTERS))


def count_words(folder: Path) -> int:
    """How many words ordinary speech is written down with (``emova train words``), 0 for none. Raises: InputError."""
    path = folder / WORDS
    if not path.exists():
        return 0
    try:
        return int(_header(path)["unigrams"]["shape"][0]) - 1  # the sentence's beginning is counted too
    except (LookupError, TypeError, ValueError):
        raise _damaged(path) from None


def _header(path: Path) -> dict[str, dict[str, list[int]]]:
    """What a safetensors file says of its tensors. Raises: InputError: it says nothing."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= 100 << 20:
                raise ValueError
            found = json.loads(file.read(size))
    except (OSError, ValueError):
        raise _damaged(path) from None
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> InputError:
    return InputError(f"{shown(path)}: the file is damaged; {AGAIN}")


class Description(TypedDict):
    """What ``emova info`` tells of a checkpoint; what its ``config.json`` does not say is None."""

    emova: str
    folder: str
    bytes: int
    parameters: dict[str, dict[str, int]]
    weights: object
    context: object
    layers: object
    width: object
    tokens: object
    speech_units: object
    reading_spelling: str
    words: int
    kinds: dict[str, str]
    styles: dict[str, list[str]]
    shipped: list[str]
    native: NotRequired[dict[str, dict[str, str]]]


def describe(folder: Path) -> Description:
    """Parts, sizes and constants of the checkpoint ``folder``. Raises: InputError."""
    config = check_files(folder)
    weights = {
        "model": folder / "model.safetensors",
        "reading_model": folder / READING_ALOUD,
        "speech_tokenizer": folder / "speech_tokenizer" / "model.safetensors",
        "speech_detokenizer": folder / "speech_detokenizer" / "model.safetensors",
    }
    text = _table(config, "text_config")
    return {
        "emova": __version__,
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "parameters": {name: count_parameters(path) for name, path in weights.items() if path.exists()},
        "weights": config.get("weight_storage", "plain"),
        "context": text.get("max_position_embeddings"),
        "layers": text.get("num_hidden_layers"),
        "width": text.get("hidden_size"),
        "tokens": config.get("token_count"),
        "speech_units": config.get("speech_codebook_size"),
        "reading_spelling": reading_spelling(folder),
        "words": count_words(folder),
        "kinds": _kinds(folder, config),
        "styles": checkpoint_styles(folder).to_dict(),
        "shipped": shipped_names(),
    }


def _table(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _kinds(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    """Which kind of each part the checkpoint names; what it does not name is the kind that it always was."""
    speech = {"speech_tokenizer": "s2u", "speech_detokenizer": "u2s"}
    kinds = {name: str(read_config(folder / name).get("kind", usual)) for name, usual in speech.items()}
    model = {"vision": "internvit", "projector": "c_abstractor", "reply": "json"}
    return kinds | {name: str(_table(config, f"{name}_config").get("kind", usual)) for name, usual in model.items()}


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    folder = find_checkpoint(arguments.model)
    facts = describe(folder)
    from emova.native.compiled import statuses  # after the checkpoint is known to be one: it imports torch

    kernels = statuses()
    facts["native"] = {name: asdict(status) for name, status in kernels.items()}
    lines = [f"{arguments.model}: {facts['bytes'] / 2**20:.1f} MiB in {folder}"]
    for name, counts in facts["parameters"].items():
        lines.append(f"  {name}: {sum(counts.values()) / 1e6:.2f} million parameters")
        lines += [f"    {part}: {count / 1e6:.2f}" for part, count in sorted(counts.items())]
    lines.append(
        f"  language model: {facts['layers']} layers x {facts['width']}, {facts['tokens']} tokens, of them "
        f"{facts['speech_units']} speech units, context {facts['context']}, weights {facts['weights']}"
    )
    words = f", writes down with {facts['words']:,} words" if facts["words"] else ""
    lines.append(f"  reads aloud from {facts['reading_spelling']}{words}")
    lines.append(f"  kinds: {', '.join(facts['kinds'].values())}")
    lines += [f"  {name}: {', '.join(words)}" for name, words in facts["styles"].items()]
    lines.append(f"  shipped checkpoints: {', '.join(facts['shipped']) or 'none'}")
    lines += [f"  {name} on this machine's CPU: {status.runs}, {status.why}" for name, status in kernels.items()]
    show(arguments, facts, lines)
    return 0
