"""Importing: a release to a new folder of ours, whole or not at all; and back to the release's own files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from emova.checkpoint.importing import card, emova_tokenizer
from emova.checkpoint.importing.card import Licence
from emova.checkpoint.importing.mapping import Report
from emova.checkpoint.importing.source import Tensors, fetch, read_json
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.writing import new_folder, save_tensors, write_text
from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SDetokenizer
from emova.speech.tokenizer.emova_s2u.tokenizer import EmovaS2UTokenizer

WEIGHTS = ("*.json", "*.safetensors", "*.bin")


def import_emova_tokenizer(
    source: str, out: str | Path, ears_block: int = 0, voice_block: int = 20
) -> tuple[Report, list[Licence]]:
    """The EMOVA release's speech tokenizer as the two speech parts of a checkpoint.

    Args:
        source: a folder with its ``config.json`` and weights, a file of weights, or a name on a hub.
        out: a new folder.
        ears_block, voice_block: units that are heard and spoken at a time; 0 waits for the end, as the release does.

    Returns:
        What became of each tensor, and the licences.

    Raises:
        InputError: something is missing, unknown or does not fit; nothing is written then.
    """
    path, report = fetch(source, WEIGHTS), Report()
    config = read_json(path / "config.json") if path.is_dir() else {}
    if path.is_dir() and str(config.get("model_type", "emova_speech_tokenizer")) != "emova_speech_tokenizer":
        raise InputError(
            f"{shown(source)}: holds a {str(config['model_type'])[:40]}, no speech tokenizer of EMOVA; give that"
        )
    tensors = Tensors.of(path)
    tensors.check_memory(widened=True)
    ears, voice, styles = emova_tokenizer.read(tensors, config, report)
    ears.config = replace(ears.config, block_units=ears_block)
    voice.config = replace(voice.config, block_units=voice_block)
    licences = [card.EMOVA_TOKENIZER]
    with new_folder(out) as folder:
        ears.save_pretrained(folder / "speech_tokenizer")
        voice.save_pretrained(folder / "speech_detokenizer")
        styles.save(folder)
        about = {"model_type": "emova_speech", "styles": styles.styles.to_dict()}
        write_text(folder / "config.json", json.dumps(about, indent=2) + "\n")
        use = f"emova resynthesize question.wav --voice male --model {Path(out).name}"
        write_text(folder / "README.md", card.card("EMOVA speech tokenizer", path_name(source), licences, report, use))
    return report, licences


def path_name(source: str) -> str:
    """What a card calls a source: a hub's name, or a folder's without where it lay."""
    return Path(source).resolve().name if Path(source).exists() else source


def export_emova_tokenizer(checkpoint: str | Path, out: str | Path) -> None:
    """The release's files out of speech parts that were imported from it. Raises: InputError: they are others."""
    from emova.checkpoint.loading import load_speech_tokenizer, load_voice

    ears, voice = load_speech_tokenizer(checkpoint), load_voice(checkpoint)
    if not isinstance(ears, EmovaS2UTokenizer) or not isinstance(voice.detokenizer, EmovaU2SDetokenizer):
        raise InputError(f"{shown(checkpoint)}: its speech parts are none of the EMOVA release")
    with torch.no_grad():
        tensors, config = emova_tokenizer.write(ears, voice.detokenizer, voice.prototypes)
    with new_folder(out) as folder:
        save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
