"""A checkpoint folder and the parts in it: each is checked to be there, to be whole, and to fit the others."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from emova.checkpoint.files import AGAIN, WORDS
from emova.core.device import find_device
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.memory import available_memory
from emova.core.startup import collector_paused
from emova.speech.style import StylePrototypes, StyleSet

if TYPE_CHECKING:
    from emova.decoding.word_search import WordModel
    from emova.model.modeling_emova import EmovaForConditionalGeneration
    from emova.model.processing_emova import EmovaProcessor
    from emova.reply.format import ReplyFormat
    from emova.speech.tokenizer.protocol import SpeechTokenizer
    from emova.speech.voice import Voice

SHIPPED = Path(__file__).parents[1] / "checkpoints"
LAYERS = "model.language_model.layers."
_FILES = {
    "config.json": "the model's configuration",
    "model.safetensors": "the model's weights",
    "tokenizer.json": "the text tokenizer",
    "processor_config.json": "the processor's configuration",
    "speech_tokenizer": "the speech tokenizer",
    "speech_detokenizer": "the voice",
    StylePrototypes.FILE_NAME: "the voice's styles",
}


def shipped_names() -> list[str]:
    """The checkpoints that came with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a shipped checkpoint or of a path. Raises: InputError: there is none."""
    path = Path(name)
    if str(name).strip() and path.is_dir():
        return path
    if path.name == str(name) and path.name and (SHIPPED / path.name).is_dir():
        return SHIPPED / path.name
    known = ", ".join(shipped_names()) or "none"
    if str(name).strip() and path.exists():
        raise InputError(f"{shown(name)}: not a folder; give a checkpoint folder or a shipped name ({known})")
    raise InputError(f"{shown(name) or 'no name'}: no such checkpoint; give its folder or a shipped name ({known})")


def find_part(name: str | Path, part: str) -> Path:
    """The folder of a part: ``name`` itself, or the part in a checkpoint (its folder, or a shipped one's name).

    Args:
        part: ``speech_tokenizer`` or ``speech_detokenizer``.

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    if path.is_dir() and not (path / part).is_dir():
        return path  # whoever reads it says what is missing
    folder = find_checkpoint(name)
    check_part(folder, part)
    return folder / part


@dataclass(frozen=True)
class Parts:
    """Everything that a conversation needs.

    Attributes:
        processor: renders conversations, the speech tokenizer attached.
        voice: a speech detokenizer and its style vectors.
        reply_format: how replies are written unless another format is asked for.
        name: how errors and ``emova info`` call the checkpoint.
        reading_model: the model with another language model, which reads aloud; None where the same one does
            (``emova.checkpoint.reading_aloud``).
        words: a lexicon and pairs of words, where ordinary speech is written down by them
            (``emova.decoding.word_search``).
    """

    model: EmovaForConditionalGeneration
    processor: EmovaProcessor
    speech_tokenizer: SpeechTokenizer
    voice: Voice
    reply_format: ReplyFormat
    name: str
    reading_model: EmovaForConditionalGeneration | None = None
    words: WordModel | None = None


def check_part(folder: Path, name: str) -> None:
    """See that a part is there. Raises: InputError."""
    sharded = name == "model.safetensors" and (folder / f"{name}.index.json").exists()
    if not sharded and not (folder / name).exists():
        raise InputError(f"{shown(folder)}: {name} is missing ({_FILES[name]}); {AGAIN}")


def read_config(folder: Path) -> dict[str, object]:
    """A folder's ``config.json``. Raises: InputError: it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{shown(folder / 'config.json')}: the file is damaged; {AGAIN}")
    return config


def check_files(folder: Path) -> dict[str, object]:
    """See that all parts are there, and read ``config.json``. Raises: InputError."""
    for name in _FILES:
        check_part(folder, name)
    config = read_config(folder)
    if config.get("model_type") != "emova":
        raise InputError(f"{shown(folder)}: not an emova checkpoint; give a folder whose config.json says emova")
    return config


def checkpoint_styles(name: str | Path) -> StyleSet:
    """The styles of a checkpoint, without loading it. Raises: InputError: there is none, or they are wrong."""
    folder = find_checkpoint(name)
    if not (folder / "config.json").exists():
        return StyleSet()
    try:
        return StyleSet.from_dict(read_config(folder).get("styles") or {})
    except InputError as error:
        raise InputError(f"{shown(folder / 'config.json')}: {error}") from None


def load_speech_tokenizer(name: str | Path, device: str = "cpu") -> SpeechTokenizer:
    """The speech tokenizer of a checkpoint alone. Raises: InputError."""
    folder = find_checkpoint(name)
    check_part(folder, "speech_tokenizer")
    from emova.checkpoint.registry import load_tokenizer

    return load_tokenizer(folder / "speech_tokenizer", device)


def load_voice(name: str | Path, device: str = "cpu") -> Voice:
    """The voice of a checkpoint alone. Raises: InputError."""
    folder = find_checkpoint(name)
    check_part(folder, "speech_detokenizer")
    check_part(folder, StylePrototypes.FILE_NAME)
    from emova.checkpoint.registry import load_detokenizer
    from emova.speech.voice import Voice

    prototypes = StylePrototypes.load(folder, checkpoint_styles(folder))
    detokenizer = load_detokenizer(folder / "speech_detokenizer", device)
    if prototypes.size != detokenizer.style_size:
        raise InputError(
            f"{shown(folder)}: the styles have {prototypes.size} channels, the voice takes {detokenizer.style_size}; "
            f"{AGAIN}"
        )
    return Voice(detokenizer, prototypes)


def load_parts(name: str | Path, device: str = "cpu", layers: bool = True) -> Parts:
    """Load a checkpoint by its shipped name or folder, in float32, ready for inference.

    Args:
        layers: the language model's; without them it is for a backend that has them in a file of its own.

    Raises:
        InputError: the checkpoint or a part of it is missing, damaged, or does not fit the others; there is no such
            device; on the CPU, there is too little memory.
    """
    from emova.checkpoint.reading_aloud import load_reading_model
    from emova.decoding.word_search import WordModel

    folder = find_checkpoint(name)
    check_files(folder)
    place = find_device(device)
    if place.type == "cpu":
        check_memory(folder, layers)

    with collector_paused():
        speech_tokenizer = load_speech_tokenizer(folder, device)
        voice = load_voice(folder, device)
        processor = load_processor(folder)
        model = load_model(folder, layers).to(place)  # type: ignore[arg-type]  # transformers' wrapper hides the method
        reading_model = load_reading_model(model, folder) if layers else None
        words = WordModel.load(folder / WORDS) if (folder / WORDS).is_file() else None
    processor.attach_speech_tokenizer(speech_tokenizer)
    assert processor.reply_format is not None, "a checkpoint's config names one"
    named = shown(name)
    parts = Parts(model, processor, speech_tokenizer, voice, processor.reply_format, named, reading_model, words)
    check_fit(parts, folder)
    return parts


def check_fit(parts: Parts, folder: Path) -> None:
    """See that the parts belong together. Raises: InputError."""
    from emova.speech.tokenizer.protocol import HearsPhones

    if parts.words is not None and isinstance(parts.speech_tokenizer, HearsPhones):
        parts.words.node_classes(parts.speech_tokenizer.inventory)
    tokens, config = len(parts.processor.tokenizer), parts.model.config
    pictures, voice = parts.processor.image_processor, parts.voice.detokenizer
    checks = (
        ("the tokenizer's size", tokens, "the model's", config.token_count),
        ("the pictures' tiles in pixels", pictures.tile_size, "the vision tower's", config.vision.image_size),
        ("the tokens a side of a tile", pictures.tile_side, "the projector's", config.projector.output_side),
        (
            "the vocabulary's speech units",
            parts.processor.token_ids.codebook_size,
            "the speech tokenizer's",
            parts.speech_tokenizer.codebook_size,
        ),
        ("the speech tokenizer's units", parts.speech_tokenizer.codebook_size, "the voice's", voice.codebook_size),
        ("the speech tokenizer's units a second", parts.speech_tokenizer.unit_rate, "the voice's", voice.unit_rate),
    )
    for what, number, other, expected in checks:
        if number != expected:
            raise InputError(f"{shown(folder)}: {what} ({number}) and {other} ({expected}) differ; {AGAIN}")
    check_learnt(config.unit_tokenizer, folder / "speech_tokenizer", folder)
    check_units(parts.speech_tokenizer, parts.voice, folder)


def check_learnt(units: str, speech_tokenizer: Path, name: str | Path) -> None:
    """See that a tokenizer makes the units that a model or a voice has learnt. Raises: InputError: it makes others.

    Args:
        units: their name; where it is empty nothing is known, and nothing is said.
    """
    from emova.speech.tokenizer.units import current, units_of

    if units and (made := units_of(speech_tokenizer)) != current(units):
        raise InputError(
            f"{shown(name)}: has learnt the units {units[:40]}, the speech tokenizer makes {made[:40]}; give the "
            "tokenizer that its data were tokenised with"
        )


def check_units(speech_tokenizer: SpeechTokenizer, voice: Voice, name: str | Path) -> None:
    """See that a voice says the units that a tokenizer hears: as many may stand for other sounds. Raises: InputError.

    Parts that were made for units of a release have an attribute ``unit_set`` with its name.
    """
    heard, said = (getattr(part, "unit_set", "") or "its own" for part in (speech_tokenizer, voice.detokenizer))
    if heard != said or speech_tokenizer.codebook_size != voice.detokenizer.codebook_size:
        raise InputError(
            f"{shown(name)}: the speech tokenizer hears units of another set ({heard}) than the voice says ({said}); "
            "put together parts of one release"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers reports on loading by log and progress bar; ours is one error or none."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def needed_memory(folder: Path, layers: bool = True) -> int:
    """Bytes that a checkpoint's weights take in float32, from the headers of its files alone.

    Args:
        layers: the language model's too.

    Raises:
        InputError: a file is missing or damaged.
    """
    from emova.checkpoint.importing.source import Tensors

    shapes = {
        (part, name): shape
        for part in (folder, folder / "speech_tokenizer", folder / "speech_detokenizer")
        for name, shape in Tensors.of(part).shapes.items()
    }
    return sum(4 * prod(shape) for (_, name), shape in shapes.items() if layers or not name.startswith(LAYERS))


def check_memory(folder: Path, layers: bool = True) -> None:
    """See that a checkpoint fits into this machine's memory, before one part of it is loaded. Raises: InputError."""
    try:
        needed = needed_memory(folder, layers)
    except InputError:  # whoever loads the part says what is wrong with it
        return
    there = available_memory()
    if needed > there:
        raise InputError(
            f"{shown(folder)}: needs {needed / 2**30:.1f} GiB of memory, {there / 2**30:.1f} are free; close other "
            f"programs, or run it in llama.cpp: emova export gguf --dtype q4_k_m, then --gguf FILE"
        )


def load_model(folder: Path, layers: bool = True, widened: bool = True) -> EmovaForConditionalGeneration:
    """The model of a checkpoint alone, in evaluation mode.

    Args:
        layers: the language model's; without them its embedding keeps 16 bits where they are all that it has.
        widened: as float32, whatever the file has.

    Raises:
        InputError: it is missing or damaged.
    """
    import torch
    from safetensors import SafetensorError

    from emova.model import EmovaConfig, EmovaForConditionalGeneration

    # transformers raises errors of many kinds here; their messages are long and hold paths.
    try:
        with quiet():
            config = EmovaConfig.from_pretrained(folder, local_files_only=True)
            if not layers:
                config.text_config.num_hidden_layers, config.text_config.layer_types = 0, []
            model, report = EmovaForConditionalGeneration.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32 if widened else "auto",
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
            )
    except InputError as error:
        raise InputError(f"{shown(folder)}: {error}") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError):
        raise InputError(f"{shown(folder)}: the model's weights or configuration are damaged; {AGAIN}") from None
    for problem, key in (("lack", "missing_keys"), ("have an unknown", "unexpected_keys")):
        names = sorted(map(str, report.get(key, ())))
        if not layers:
            names = [each for each in names if not each.startswith(LAYERS)]
        if names:
            raise InputError(f"{shown(folder)}: the model's weights {problem} tensor {shown(names[0])}; {AGAIN}")
    if report.get("mismatched_keys"):
        raise InputError(f"{shown(folder)}: the model's weights and its config.json differ in shape; {AGAIN}")
    if not layers:
        _lighten(model)
    return model.eval()


def _lighten(model: EmovaForConditionalGeneration) -> None:
    """The embedding in 16 bits where nothing is lost, and no head but where CTC reads by it: both are large."""
    import torch

    embedding = model.model.language_model.embed_tokens
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(embedding.weight.to(dtype).float(), embedding.weight):
            embedding.weight = torch.nn.Parameter(embedding.weight.detach().to(dtype), requires_grad=False)
            break
    if not model.config.ctc_layer:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(0, embedding.weight.shape[1]), requires_grad=False)


def load_processor(folder: Path) -> EmovaProcessor:
    """The processor of a checkpoint alone, without its speech tokenizer. Raises: InputError."""
    from emova.model import EmovaProcessor

    try:
        with quiet():
            return EmovaProcessor.from_pretrained(folder, local_files_only=True)
    except InputError as error:
        raise InputError(f"{shown(folder)}: {error}") from None
    except Exception:  # the tokenizers library raises bare Exceptions
        raise InputError(f"{shown(folder)}: the tokenizer's or processor's files are damaged; {AGAIN}") from None
