"""Importing: a release to a new folder of ours, whole or not at all; and back to the release's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from emova.checkpoint.importing import emova_tokenizer, glm_language, glm_voice
from emova.checkpoint.importing.card import (
    EMOVA_MODEL,
    EMOVA_TOKENIZER,
    GLM,
    GLM_VOICE,
    QWEN_VIT,
    SPEECH,
    WHISPER,
    Licence,
    backbone_licence,
    card,
)
from emova.checkpoint.importing.emova_model import write_model, write_release
from emova.checkpoint.importing.mapping import Report
from emova.checkpoint.importing.shards import SHARD_BYTES
from emova.checkpoint.importing.source import Tensors, fetch, read_json, read_yaml, section
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.writing import new_folder, save_tensors, write_text
from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SDetokenizer
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.style import StylePrototypes, StyleSet
from emova.speech.tokenizer.emova_s2u.tokenizer import UNIT_SET, EmovaS2UTokenizer
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.units import name_units
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer

WEIGHTS = ("*.json", "*.yaml", "*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True)
class Imported:
    """What an import was of, and what became of it."""

    title: str
    source: str
    report: Report
    licences: Sequence[Licence]


# --- EMOVA's speech tokenizer -----------------------------------------------------------------------------------------
def import_emova_tokenizer(
    source: str, out: str | Path, ears_block: int | None = None, voice_block: int | None = None
) -> Imported:
    """The EMOVA release's speech tokenizer as the two speech parts of a checkpoint.

    Args:
        source: a folder with its ``config.json`` and weights, a file of weights, or a name on a hub.
        out: a new folder.
        ears_block, voice_block: units that are heard and spoken at a time; 0 waits for the end, as the release does;
            None is the usual number.

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
    if ears_block is not None:
        ears.config = replace(ears.config, block_units=ears_block)
    if voice_block is not None:
        voice.config = replace(voice.config, block_units=voice_block)
    about = Imported("EMOVA speech tokenizer", source, report, [EMOVA_TOKENIZER])
    _write_speech(out, ears, voice, styles, UNIT_SET, about)
    return about


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


# --- EMOVA's model ----------------------------------------------------------------------------------------------------
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja", "README.md")


def import_emova_model(source: str, speech: str | Path, out: str | Path) -> Imported:
    """The EMOVA release's model, and speech parts that are imported already, as a whole checkpoint.

    Args:
        source: a folder with ``config.json``, the tokenizer and the weights, or a name on a hub.
        speech: the folder of ``import_emova_tokenizer``.
        out: a new folder.

    Raises:
        InputError: something is missing, unknown or does not fit; nothing is written then.
    """
    from emova.checkpoint.loading import load_speech_tokenizer, load_voice

    ears, voice = load_speech_tokenizer(speech), load_voice(speech)
    if not isinstance(ears, EmovaS2UTokenizer) or not isinstance(voice.detokenizer, EmovaU2SDetokenizer):
        raise InputError(
            f"{shown(speech)}: its units are none of the EMOVA release; give its speech tokenizer, imported"
        )
    path, report = fetch(source, MODEL_FILES), Report()
    if not path.is_dir():
        raise InputError(f"{shown(source)}: a file; give the release's folder")
    said, tensors = read_json(path / "config.json"), Tensors.of(path)
    # Imported by and by, but written by shards of so many bytes.
    tensors.check_memory(widened=False, most=2 * SHARD_BYTES)
    with new_folder(out) as folder:
        config = write_model(path, tensors, said, folder, report)
        backbone = backbone_licence(str(config.text_config.model_type))
        about = Imported("EMOVA", source, report, [EMOVA_MODEL, backbone, QWEN_VIT, EMOVA_TOKENIZER])
        # What the model has learnt, and what its authors' data hold, are this release's units.
        _write_parts(folder, ears, voice.detokenizer, voice.prototypes, UNIT_SET)
        use = f"emova chat --image photo.png --audio question.wav --model {Path(out).name}"
        write_text(folder / "README.md", card(about.title, _named(source), about.licences, report, use))
    return about


def export_emova_model(checkpoint: str | Path, out: str | Path) -> None:
    """The release's files out of a model that was imported from it. Raises: InputError: it is another."""
    from emova.checkpoint.loading import check_files, find_checkpoint
    from emova.model import EmovaConfig

    folder = find_checkpoint(checkpoint)
    said = check_files(folder)
    config = EmovaConfig.from_pretrained(folder, local_files_only=True) if _is_emova_model(said) else None
    if config is None:
        raise InputError(f"{shown(checkpoint)}: none that was imported from the EMOVA release")
    tensors = Tensors.of(folder)
    tensors.check_memory(widened=False, most=2 * SHARD_BYTES)
    with new_folder(out) as made:
        write_release(folder, tensors, config, made)


def _is_emova_model(said: Mapping[str, Any]) -> bool:
    kinds = [(said.get(f"{part}_config") or {}).get("kind") for part in ("vision", "projector", "reply")]
    return kinds == ["qwen2_vit", "mlp", "emova_release"]


# --- any language model -----------------------------------------------------------------------------------------------
def import_causal_lm(source: str, speech: str | Path, out: str | Path) -> Imported:
    """Any causal language model of transformers with speech parts beside it: a checkpoint to train, not yet to talk to.

    Args:
        source: a folder with ``config.json``, the tokenizer and safetensors, a GGUF file, or a name on a hub.
        speech: a checkpoint whose speech tokenizer, voice and styles are copied; its shipped name or its folder.
        out: a new folder.

    Raises:
        InputError: something is missing, unknown or does not fit; nothing is written then.
    """
    from emova.checkpoint.importing.causal_lm import read_language_model, write_grown
    from emova.checkpoint.loading import check_units, find_part, load_speech_tokenizer, load_voice
    from emova.speech.tokenizer.units import units_of

    ears, voice = load_speech_tokenizer(speech), load_voice(speech)
    check_units(ears, voice, speech)
    units, report = units_of(find_part(speech, "speech_tokenizer")), Report()
    model = read_language_model(fetch(source, MODEL_FILES), 2 * SHARD_BYTES)
    licence = backbone_licence(str(model.config.model_type), model.licence)
    about = Imported("A language model that learns to speak", source, report, [licence, *_of_speech(ears)])
    with new_folder(out) as folder:
        write_grown(model, ears.codebook_size, units, voice.styles, folder, report)
        _write_parts(folder, ears, voice.detokenizer, voice.prototypes, units)
        use = f"emova train stage2 nano/stage2 init.checkpoint={Path(out).name}"
        write_text(folder / "README.md", card(about.title, _named(source), about.licences, report, use))
    return about


# --- GLM-4-Voice's speech parts ---------------------------------------------------------------------------------------
GLM_STYLES = StyleSet(voices=("female",), emotions=("neutral",), pitches=("normal",))
"""The released decoder has one voice: a speaker's vector of zeros."""
TOKENIZER_FILES, DECODER_FILES = ("config.json", "preprocessor_config.json"), ("config.yaml", "flow.pt", "hift.pt")


LANGUAGE_FILES = ("*.json", "*.safetensors", "*.bin", "tokenizer.model")


def import_glm_voice(
    tokenizer: str,
    decoder: str,
    out: str | Path,
    ears_block: int | None = None,
    voice_block: int | None = None,
    language_model: str | None = None,
) -> Imported:
    """GLM-4-Voice's speech tokenizer and decoder as the two speech parts of a checkpoint, a whole one with its model.

    Args:
        tokenizer, decoder, language_model: their folders, or names on a hub.
        out: a new folder.
        ears_block: None or 0 hears clips whole, as the release does; else the model's own blocks of 4 s are heard as
            they end.
        voice_block: units of the first chunk that is spoken, the next ones are 2, 4, 6 and 8 times as long; 0 waits
            for the last unit; None is the release's number.

    Raises:
        InputError: something is missing, unknown or does not fit; nothing is written then.
    """
    report = Report()
    heard = fetch(tokenizer, (*TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"))
    said = fetch(decoder, (*DECODER_FILES, "*.safetensors"))
    if not heard.is_dir() or not said.is_dir():
        raise InputError(f"{shown(tokenizer if not heard.is_dir() else decoder)}: a file; give the release's folder")
    ears_tensors = Tensors.of(heard)
    flow, vocoder = (Tensors.of(said, (stem,)) for stem in ("flow", "hift"))
    for tensors in (ears_tensors, flow):
        tensors.check_memory(widened=True)
    ears = glm_voice.read_tokenizer(ears_tensors, read_json(heard / "config.json"), report, bool(ears_block))
    stated = read_yaml(said / "config.yaml") if (said / "config.yaml").is_file() else {}
    parts = {key: section(section(stated, "flow"), key) for key in ("encoder", "estimator")}
    chunks = None if voice_block is None else [voice_block * times for times in (1, 2, 4, 6, 8) if voice_block]
    voice = glm_voice.read_decoder(flow, vocoder, parts, report, chunks)
    styles = StylePrototypes({style.key: torch.zeros(voice.style_size) for style in GLM_STYLES}, GLM_STYLES)
    if language_model is None:
        about = Imported("GLM-4-Voice speech parts", tokenizer, report, [GLM_VOICE, WHISPER])
        _write_speech(out, ears, voice, styles, ears.unit_set, about)
        return about
    about = Imported("GLM-4-Voice", language_model, report, [GLM_VOICE, GLM, WHISPER])
    path = fetch(language_model, LANGUAGE_FILES)
    if not path.is_dir():
        raise InputError(f"{shown(language_model)}: a file; give the release's folder")
    written, words = read_json(path / "config.json"), Tensors.of(path)
    words.check_memory(widened=False, most=2 * SHARD_BYTES)
    with new_folder(out) as folder:
        glm_language.write_language(path, words, written, ears.codebook_size, ears.unit_set, GLM_STYLES, folder, report)
        _write_parts(folder, ears, voice, styles, ears.unit_set)
        use = f"emova chat --audio question.wav --model {Path(out).name}"
        write_text(folder / "README.md", card(about.title, _named(language_model), about.licences, report, use))
    return about


def export_glm_voice(checkpoint: str | Path, out: str | Path) -> None:
    """The releases' tensors out of what was imported from them. Raises: InputError: they are others."""
    from emova.checkpoint.loading import (
        find_checkpoint,
        load_processor,
        load_speech_tokenizer,
        load_voice,
        read_config,
    )
    from emova.model import EmovaConfig

    ears, voice = load_speech_tokenizer(checkpoint), load_voice(checkpoint)
    if not isinstance(ears, WhisperVQTokenizer) or not isinstance(voice.detokenizer, FlowHiFTDetokenizer):
        raise InputError(f"{shown(checkpoint)}: its speech parts are none of the GLM-4-Voice release")
    with torch.no_grad():
        heard, said = glm_voice.write_tokenizer(ears), glm_voice.write_decoder(voice.detokenizer)
    source = find_checkpoint(checkpoint)
    whole = read_config(source).get("model_type") == "emova"
    with new_folder(out) as folder:
        if whole:
            config = EmovaConfig.from_pretrained(source, local_files_only=True)
            (folder / "language_model").mkdir()
            glm_language.write_release(Tensors.of(source), config, load_processor(source), folder / "language_model")
        (folder / "tokenizer").mkdir()
        save_tensors(folder / "tokenizer" / "model.safetensors", heard[0], {"format": "pt"})
        write_text(folder / "tokenizer" / "config.json", json.dumps(heard[1], indent=2) + "\n")
        (folder / "decoder").mkdir()
        save_tensors(folder / "decoder" / "flow.safetensors", said[0], {"format": "pt"})
        save_tensors(folder / "decoder" / "hift.safetensors", said[1], {"format": "pt"})
        write_text(folder / "decoder" / "config.yaml", said[2])


# --- both -------------------------------------------------------------------------------------------------------------
def _write_speech(
    out: str | Path, ears: SpeechTokenizer, voice: SpeechDetokenizer, styles: StylePrototypes, units: str,
    about: Imported,
) -> None:  # fmt: skip
    """Write two speech parts, whose units are called ``units``, as a checkpoint without a model."""
    with new_folder(out) as folder:
        _write_parts(folder, ears, voice, styles, units)
        config = {"model_type": "emova_speech", "styles": styles.styles.to_dict()}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        use = f"emova resynthesize question.wav --model {Path(out).name}"
        write_text(folder / "README.md", card(about.title, _named(about.source), about.licences, about.report, use))


def _of_speech(ears: SpeechTokenizer) -> list[Licence]:
    """The licences of speech parts that are copied."""
    if isinstance(ears, EmovaS2UTokenizer):
        return [EMOVA_TOKENIZER]
    return [GLM_VOICE, WHISPER] if isinstance(ears, WhisperVQTokenizer) else [SPEECH]


def _write_parts(
    folder: Path, ears: SpeechTokenizer, voice: SpeechDetokenizer, styles: StylePrototypes, units: str
) -> None:
    """The speech parts' folders and the styles into ``folder``."""
    for part, place in ((ears, "speech_tokenizer"), (voice, "speech_detokenizer")):
        part.save_pretrained(folder / place)
        name_units(folder / place, units)
    styles.save(folder)


def _named(source: str) -> str:
    """What a card calls a source: a hub's name, or a folder's without where it lay."""
    return Path(source).resolve().name if Path(source).exists() else source
