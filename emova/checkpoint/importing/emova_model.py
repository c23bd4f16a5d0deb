"""The EMOVA release's language model with its vision tower and projector, as a checkpoint of ours.

Any causal language model that transformers' Auto classes know can be the backbone; its tensors are taken as they are,
one shard at a time. The release's own form has them below ``model.``; of other forms the ends of the names are
recognised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor

from emova.checkpoint.importing.mapping import PARTIAL, Report, count, shape_of
from emova.checkpoint.importing.shards import moved, write_shards
from emova.checkpoint.importing.source import AGAIN, Shape, Tensors
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.tokens import (
    ALIASES,
    ASSISTANT,
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    END_OF_TURN,
    FRAME,
    IMAGE,
    IMAGE_END,
    IMAGE_ROW,
    IMAGE_START,
    PAD,
    SPEECH_END,
    SPEECH_START,
    SYSTEM,
    UNIT_PATTERN,
    USER,
    TokenIds,
    unit_token,
)
from emova.core.writing import write_bytes, write_text
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaImageProcessor, EmovaProcessor
from emova.reply.released import FRAME as RELEASED_FRAME
from emova.reply.released import ReleasedReply
from emova.speech.style import RELEASED_STYLES
from emova.speech.tokenizer.emova_s2u.tokenizer import UNIT_SET
from emova.vision.mlp import MLPConfig
from emova.vision.native_resolution import MEAN, STD, NativeConfig
from emova.vision.qwen2_vit import Qwen2ViTConfig
from emova.vision.towers import VisionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

LANGUAGE_MODEL, TOWER, PROJECTOR = "language model", "vision tower", "projector"
UNITS = 4096
NAMES = {
    PAD: "<|endoftext|>",
    BEGIN_OF_TEXT: "<|im_start|>",
    END_OF_TEXT: "<|endoftext|>",
    SYSTEM: "<|im_start|>",
    USER: "<|im_start|>",
    ASSISTANT: "<|im_start|>",
    END_OF_TURN: "<|im_end|>",
    IMAGE: "<|image_pad|>",
    IMAGE_START: "<|vision_start|>",
    IMAGE_END: "<|vision_end|>",
    IMAGE_ROW: "<|vision_pad|>",
    SPEECH_START: "<|im_start|>",
    SPEECH_END: "<|im_end|>",
}
"""What stands for our control tokens in the tokenizer of Qwen2.5; pictures' places are never read, only counted."""
_OURS = (
    (r"(?:.*\.)?((?:patch_embed|blocks|merger)\..+)", r"model.vision_tower.visual.\1", TOWER),
    (r"(?:.*\.)?mm_projector\.0\.(weight|bias)", r"model.projector.enter.\1", PROJECTOR),
    (r"(?:.*\.)?mm_projector\.2\.(weight|bias)", r"model.projector.leave.\1", PROJECTOR),
    (r"(?:.*\.)?(embed_tokens\.weight|layers\.\d+\..+)", r"model.language_model.\1", LANGUAGE_MODEL),
    (r"(?:.*\.)?norm\.weight", "model.language_model.norm.weight", LANGUAGE_MODEL),
    (r"(?:.*\.)?lm_head\.weight", "lm_head.weight", LANGUAGE_MODEL),
)
_UNUSED = ((r".*rotary_emb\.inv_freq", "constants of the positions"),)
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Vocabulary:
    """The release's tokens with units one after another, and which row each new row is of (-1: of none).

    Attributes:
        rows: ``[V]``, V rows in the new tables.
    """

    tokenizer: PreTrainedTokenizerBase
    rows: Tensor


def ours(official: str) -> tuple[str, str] | None:
    """Our name of a tensor, and its part; None if it is none that is known."""
    for pattern, replacement, part in _OURS:
        match = re.fullmatch(pattern, official)
        if match is not None:
            return match.expand(replacement), part
    return None


# --- the configuration ------------------------------------------------------------------------------------------------
def text_config(said: Mapping[str, object], name: str) -> PreTrainedConfig:
    """transformers' configuration of the backbone out of the release's. Raises: InputError: its kind is unknown."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    inner = said.get("text_config") if isinstance(said.get("text_config"), dict) else said
    assert isinstance(inner, Mapping)
    kind = str(inner.get("model_type", "")).removeprefix("emova_")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{name}: model_type is {str(inner.get('model_type'))[:40]!r}, no language model that is known"
        )
    config_class = CONFIG_MAPPING[kind]
    known = set(config_class().to_dict()) | {"rope_theta", "rope_scaling"}
    fields = {key: value for key, value in inner.items() if key in known and key not in ("model_type", "architectures")}
    longest = said.get("tokenizer_model_max_length")
    if type(longest) is int and longest > 0:
        fields["max_position_embeddings"] = min(longest, int(fields.get("max_position_embeddings", longest)))
    try:
        return config_class(**fields)
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError):
        raise InputError(f"{name}: config.json gives no {kind} that transformers can build; {AGAIN}") from None


def vision_config(tensors: Tensors, said: Mapping[str, object]) -> Qwen2ViTConfig:
    """The tower by its tensors' shapes; heads of 80 channels, or what ``config.json`` says."""
    patch = shape_of(tensors, r"(?:.*\.)?patch_embed\.proj\.weight")
    if len(patch) != 5 or patch[1:] != (3, 2, 14, 14):
        raise InputError(f"{tensors.name}: the vision tower's patches are {list(patch[1:])}, not [3, 2, 14, 14]")
    inner = said.get("vision_config") if isinstance(said.get("vision_config"), dict) else {}
    assert isinstance(inner, Mapping)
    heads = inner.get("num_heads", max(1, patch[0] // 80))
    return Qwen2ViTConfig(
        depth=count(tensors, r"(?:.*\.)?blocks\.(\d+)\."),
        inner_width=patch[0],
        heads=heads if type(heads) is int and heads > 0 and patch[0] % heads == 0 else max(1, patch[0] // 80),
        mlp_ratio=shape_of(tensors, r"(?:.*\.)?blocks\.0\.mlp\.fc1\.weight")[0] // patch[0],
        width=shape_of(tensors, r"(?:.*\.)?merger\.mlp\.2\.weight")[0],
        min_pixels=NativeConfig.min_pixels,
        max_pixels=NativeConfig.max_pixels,
    )


# --- the vocabulary ---------------------------------------------------------------------------------------------------
def vocabulary(folder: Path, old_rows: int) -> Vocabulary:
    """The tokenizer, its units one after another, and how the rows of its tables move.

    The release added its units in no order; here their ids follow from the first one's.

    Args:
        old_rows: of the release's embedding.

    Raises:
        InputError: the tokenizer cannot be read, or lacks a token.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from emova.checkpoint.loading import quiet
    from emova.model.configuration_emova import padded_size

    try:
        with quiet():  # a model_type that transformers has not is no news here
            theirs = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_fast=True
            )
        backend = json.loads(theirs.backend_tokenizer.to_str())
    except Exception:  # the tokenizers library raises bare Exceptions
        raise InputError(f"{shown(folder)}: the tokenizer's files are missing or damaged; {AGAIN}") from None
    known = theirs.get_vocab()
    missing = [name for name in {*NAMES.values(), *map(unit_token, range(UNITS))} if name not in known]
    if missing:
        raise InputError(f"{shown(folder)}: the tokenizer lacks {sorted(missing)[0]}; it is of another release")
    old = [known[unit_token(unit)] for unit in range(UNITS)]
    first = min(old)
    if sorted(old) != list(range(first, first + UNITS)):
        raise InputError(f"{shown(folder)}: other tokens stand between the units; it is of another release")
    size = len(theirs)
    if old_rows < size:
        raise InputError(f"{shown(folder)}: {size} tokens, and {old_rows} rows of the embedding; {AGAIN}")
    for token in backend["added_tokens"]:
        match = re.fullmatch(UNIT_PATTERN, token["content"])
        if match is not None and int(match[1]) < UNITS:
            # Special, so that what a user types never becomes a unit; the release has them as ordinary tokens.
            token["id"], token["special"] = first + int(match[1]), True
    backend["added_tokens"].sort(key=lambda token: token["id"])
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        pad_token=NAMES[PAD],
        eos_token=NAMES[END_OF_TURN],
        **{ALIASES: NAMES, FRAME: RELEASED_FRAME},
    )
    rows = torch.full((padded_size(size),), -1)
    rows[:size] = torch.arange(size)
    rows[first : first + UNITS] = torch.tensor(old)
    return Vocabulary(made, rows)


# --- writing ----------------------------------------------------------------------------------------------------------
def write_model(
    source: Path, tensors: Tensors, said: Mapping[str, object], folder: Path, report: Report
) -> EmovaConfig:
    """The model's and the processor's files into ``folder``, in the numbers of the release.

    Raises:
        InputError: something is missing, unknown, or of another shape.
    """
    text = text_config(said, tensors.name)
    vision = vision_config(tensors, said)
    projector = MLPConfig(vision.width, text.hidden_size)  # type: ignore[attr-defined]  # every backbone's has it
    names = _assigned(tensors, report)
    embedding = next((official for official, own in names.items() if own == _EMBEDDINGS[0]), None)
    if embedding is None:
        raise InputError(f"{tensors.name}: lacks tensor embed_tokens.weight; {PARTIAL}")
    words = vocabulary(source, tensors.shapes[embedding][0])
    config = EmovaConfig.from_parts(
        text,
        VisionConfig(kind="qwen2_vit", options=asdict(vision)),
        projector,  # type: ignore[arg-type]  # a frozen dataclass where a protocol has properties
        TokenIds.from_tokenizer(words.tokenizer),
        len(words.tokenizer),
        styles=RELEASED_STYLES,
    )
    config.reply_config = {**config.reply_config, "kind": "emova_release"}
    config.unit_tokenizer = UNIT_SET
    with torch.device("meta"):
        wanted = {
            name: tuple(tensor.shape) for name, tensor in EmovaForConditionalGeneration(config).state_dict().items()
        }
    _check(tensors, names, wanted, len(words.rows), bool(config.tie_word_embeddings))
    config.architectures = ["EmovaForConditionalGeneration"]
    config.save_pretrained(folder)
    write_shards(_read(tensors, names, wanted, words.rows), folder)
    image = EmovaImageProcessor(
        tile_size=0, tile_side=1, image_mean=MEAN, image_std=STD, min_pixels=vision.min_pixels,
        max_pixels=vision.max_pixels,
    )  # fmt: skip
    EmovaProcessor(image, words.tokenizer, reply_format=ReleasedReply(RELEASED_STYLES)).save_pretrained(folder)
    return config


_THEIRS = (
    (r"model\.vision_tower\.visual\.(.+)", r"model.vision_tower.vision_tower.\1"),
    (r"model\.projector\.enter\.(.+)", r"model.mm_projector.0.\1"),
    (r"model\.projector\.leave\.(.+)", r"model.mm_projector.2.\1"),
    (r"model\.language_model\.(.+)", r"model.\1"),
    (r"(lm_head\.weight)", r"\1"),
)


def theirs(own: str) -> str:
    """The release's name of a tensor of ours."""
    for pattern, replacement in _THEIRS:
        match = re.fullmatch(pattern, own)
        if match is not None:
            return match.expand(replacement)
    raise AssertionError(f"{own} is no tensor of such a model")


def write_release(source: Path, tensors: Tensors, config: EmovaConfig, folder: Path) -> None:
    """A model of ours by the release's names, shard by shard; its units keep our order, which is one of theirs.

    Args:
        source: the checkpoint's folder; its tokenizer goes along.
    """
    vision = Qwen2ViTConfig(**config.vision.options)
    kind = str(config.text_config.model_type)
    said = {
        **config.text_config.to_dict(),
        "model_type": f"emova_{kind}",
        "mm_vision_tower": "qwen2vit600m",
        "mm_hidden_size": vision.width,
        "vision_config": {"num_heads": vision.heads},
        "tokenizer_model_max_length": config.text_config.max_position_embeddings,
    }
    write_text(folder / "config.json", json.dumps(said, indent=2, default=str) + "\n")
    write_shards(((theirs(own), tensors[own]) for own in tensors), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        write_bytes(folder / name, (source / name).read_bytes())


def _assigned(tensors: Tensors, report: Report) -> dict[str, str]:
    """Our name of each tensor that is taken. Raises: InputError: one is unknown, or two are the same."""
    names: dict[str, str] = {}
    for official in tensors:
        why = next((why for pattern, why in _UNUSED if re.fullmatch(pattern, official)), None)
        found = ours(official)
        if why is not None:
            report.unused[official] = why
        elif found is None:
            raise InputError(
                f"{tensors.name}: tensor {shown(official)} is none that is known; it is of another or a later release"
            )
        elif found[0] in names.values():
            raise InputError(f"{tensors.name}: two tensors would be {found[0]}; it is of another or a later release")
        else:
            names[official] = found[0]
            report.mapped[found[1]] = report.mapped.get(found[1], 0) + 1
    return names


def _check(tensors: Tensors, names: Mapping[str, str], wanted: Mapping[str, Shape], rows: int, tied: bool) -> None:
    """See that every tensor of ours has one of the right shape, before any is read. Raises: InputError."""
    official = {own: name for name, own in names.items()}
    for own, shape in wanted.items():
        if own not in official:
            if tied and own == "lm_head.weight":
                continue
            raise InputError(f"{tensors.name}: lacks a tensor for {own}; {PARTIAL}")
        there = tensors.shapes[official[own]]
        if own in _EMBEDDINGS:
            assert shape[0] == rows
            there = (rows, *there[1:])
        if there != shape:
            raise InputError(
                f"{tensors.name}: tensor {official[own]} has shape {list(there)}, not {list(shape)}; it is of another "
                "release"
            )
    extra = next((name for name, own in names.items() if own not in wanted), None)
    if extra is not None:
        raise InputError(f"{tensors.name}: tensor {shown(extra)} is more than config.json says; {PARTIAL}")


def _read(
    tensors: Tensors, names: Mapping[str, str], wanted: Mapping[str, Shape], rows: Tensor
) -> Iterator[tuple[str, Tensor]]:
    for official, own in names.items():
        value = tensors[official]
        if own in _EMBEDDINGS:
            value = moved(value, rows)
        if not torch.isfinite(value).all():
            raise InputError(f"{tensors.name}: tensor {official} holds what is no number; {AGAIN}")
        assert tuple(value.shape) == wanted[own]
        yield own, value.contiguous()
