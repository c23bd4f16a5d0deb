"""From a YAML of shapes to a model and its processor; one code for nano, mini and the paper's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase

from emova.checkpoint.registry import build_reply_format
from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova.core.weights import load_state, read_folder
from emova.model.configuration_emova import EmovaConfig
from emova.model.image_processing_emova import IMAGENET_MEAN, IMAGENET_STD, EmovaImageProcessor
from emova.model.modeling_emova import EmovaForConditionalGeneration
from emova.model.processing_emova import EmovaProcessor
from emova.speech.style import StyleSet
from emova.vision.projectors import C_ABSTRACTOR, build_projector, make_projector_config, projector_from_dict
from emova.vision.protocol import ProjectorConfig
from emova.vision.towers import VisionConfig, build_tower


@dataclass(frozen=True)
class TextShape:
    """The LLaMA: a checkpoint to grow, or a shape to start from."""

    pretrained: str = ""
    """Folder or hub name of a causal language model of LLaMA's form (LLaMA, Qwen, Mistral, Gemma, GLM-4 and others of
    transformers); the fields below then count for nothing."""
    vocabulary: int = 0
    """Tokens of the pre-trained model's own tokenizer, for plans that are made without it."""
    hidden_size: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    ffn_width: int = 1024
    context: int = 2048
    """Positions."""
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    """transformers' fields, for example LLaMA-3.1's."""
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def llama(self) -> LlamaConfig:
        """The shape as transformers' configuration; the vocabulary is set later, from the tokenizer."""
        return LlamaConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.ffn_width,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta, **self.rope_scaling},
            rms_norm_eps=self.norm_eps,
            tie_word_embeddings=self.tie_embeddings,
        )


@dataclass(frozen=True)
class ProjectorShape:
    """The projector; its other sizes follow from the tower and the LLaMA."""

    width: int = 192
    """Of the C-Abstractor."""
    depth: int = 2
    """Of the C-Abstractor."""
    pooling: int = 2
    """Patches a side that become one token: 2 = a quarter of the tokens."""
    kind: str = C_ABSTRACTOR
    """``c_abstractor``, or one that is registered from outside (``docs/extend.md``)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the config class of a kind from outside."""


@dataclass(frozen=True)
class ImageShape:
    """How pictures are sliced and normalised."""

    max_tiles: int = 1
    """Most tiles, the thumbnail not counted; 1 never slices."""
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a model's shape; ``configs/model/*.yaml`` are instances."""

    text: TextShape = field(default_factory=TextShape)
    vision: VisionConfig = field(default_factory=VisionConfig)
    projector: ProjectorShape = field(default_factory=ProjectorShape)
    image: ImageShape = field(default_factory=ImageShape)
    vision_pretrained: str = ""
    """The tower's published weights by name (``emova_train.vision.pretrained``): a tag of open_clip, a model of timm,
    InternViT's folder or repository. Mean and deviation of ``image`` are then theirs."""
    projector_pretrained: str = ""
    """The projector's trained weights: the export of a stage or of a vision pre-training, or a safetensors file."""
    always_run_vision: bool = False
    """For ZeRO-3: run the tower in training even without a picture."""
    styles: StyleSet = field(default_factory=StyleSet)
    """The voices, emotions and pitches that replies may name."""
    reply_format: str = "json"
    """How replies are written unless another format is asked for."""


def projector_config(vision: VisionConfig, shape: ProjectorShape, hidden_size: int) -> ProjectorConfig:
    """The projector between this tower and a LLaMA of ``hidden_size``.

    Raises:
        InputError: the pooling does not divide the tower's patches, or the kind or an option is unknown.
    """
    side = vision.tower.side
    if side % shape.pooling:
        raise InputError(f"projector.pooling={shape.pooling}: the tower has {side} patches a side; give a divisor")
    own = {"width": shape.width, "depth": shape.depth} if shape.kind == C_ABSTRACTOR else shape.options
    sizes = {"input_width": vision.tower.width, "output_width": hidden_size, "input_side": side}
    try:
        return make_projector_config(shape.kind, {**own, **sizes, "output_side": side // shape.pooling})
    except TypeError:
        raise InputError(f"projector.options: {sorted(own)} are not the fields of a {shape.kind}") from None


def emova_config(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> EmovaConfig:
    """The model's configuration, with a LLaMA of the given shape (``text.pretrained`` is not read)."""
    made = EmovaConfig.from_parts(
        config.text.llama(),
        config.vision,
        projector_config(config.vision, config.projector, config.text.hidden_size),
        TokenIds.from_tokenizer(tokenizer),
        len(tokenizer),
        config.always_run_vision,
        config.styles,
    )
    made.reply_config = {"kind": config.reply_format}
    return made


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> EmovaForConditionalGeneration:
    """The model: random, or grown from ``text.pretrained``, whose tokenizer ``tokenizer`` must extend.

    Raises:
        InputError: the language model is of another form than a LLaMA's, or a kind is unknown.
    """
    if not config.text.pretrained:
        return EmovaForConditionalGeneration(emova_config(config, tokenizer))
    try:  # float32 whatever the file has: what is trained in 16 bits alone moves by its rounding
        llama = AutoModelForCausalLM.from_pretrained(config.text.pretrained, dtype=torch.float32)
    except (OSError, ValueError):
        raise InputError(
            f"{config.text.pretrained}: no such language model here, and it cannot be fetched; check the connection "
            "and its licence on the hub, or give a folder"
        ) from None
    try:
        model = EmovaForConditionalGeneration.from_parts(
            llama,
            config.vision,
            projector_config(config.vision, config.projector, llama.config.hidden_size),
            TokenIds.from_tokenizer(tokenizer),
            len(tokenizer),
            config.always_run_vision,
            config.styles,
            own_tokens(config.text.pretrained),
        )
    except ValueError as error:
        raise InputError(f"{config.text.pretrained}: {error}") from None
    model.config.reply_config = {"kind": config.reply_format}
    return model


def own_tokens(pretrained: str) -> int | None:
    """How many tokens the tokenizer beside a language model has; None where there is none."""
    try:
        return len(AutoTokenizer.from_pretrained(pretrained))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_processor(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> EmovaProcessor:
    """The processor that fits ``build_model``'s model. Raises: InputError: the reply format is unknown."""
    image = EmovaImageProcessor(
        tile_size=config.vision.image_size,
        max_tiles=config.image.max_tiles,
        tile_side=config.vision.tower.side // config.projector.pooling,
        image_mean=config.image.mean,
        image_std=config.image.std,
    )
    return EmovaProcessor(image, tokenizer, reply_format=build_reply_format(config.reply_format, {}, config.styles))


@dataclass(frozen=True)
class VisionExport:
    """What vision pre-training hands on: the shapes of ``vision_tower.*`` and ``projector.*``."""

    vision: VisionConfig
    projector: ProjectorConfig
    token_rms: float = 0.0
    """Root mean square of the visual tokens, as measured on pictures; 0: not measured."""


VISUAL_OVER_WORD = 1.5
"""How loud visual tokens start beside a language model's words: a token says what a place shows and where it is."""


class VisionParts(nn.Module):
    """A tower and a projector under the names they have in EmovaModel."""

    def __init__(self, export: VisionExport) -> None:
        super().__init__()
        self.vision_tower = build_tower(export.vision)
        self.projector = build_projector(export.projector)


def load_vision(model: EmovaForConditionalGeneration, folder: str | Path) -> None:
    """Start a model's tower and projector from a vision pre-training's export.

    Where the export tells how large its visual tokens are, they are scaled to the size of the model's words: much
    larger ones drown what the first layers add to them, much smaller ones are drowned.

    Raises:
        InputError: the folder is damaged, or holds another shape.
    """
    read, state = read_folder(folder)
    values: Mapping[str, Any] = dict(read)
    vision, projector = VisionConfig.from_dict(values["vision"]), projector_from_dict(values["projector"])
    export = VisionExport(vision, projector, values.get("token_rms", 0.0))
    if (export.vision, export.projector) != (model.config.vision, model.config.projector):
        raise InputError(f"{folder}: its vision parts have another shape than the model; train them with its config")
    parts = VisionParts(export)
    load_state(parts, state, folder)
    model.model.vision_tower.load_state_dict(parts.vision_tower.state_dict())
    model.model.projector.load_state_dict(parts.projector.state_dict())
    if export.token_rms:
        words = model.get_input_embeddings().weight
        assert isinstance(words, Tensor)
        word_rms = words.detach().float().square().mean().sqrt().item()
        model.model.projector.scale_output(VISUAL_OVER_WORD * word_rms / export.token_rms)
