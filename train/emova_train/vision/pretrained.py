"""Start a vision tower from weights by name: InternViT's repositories, timm's models, open_clip's tags, a checkpoint's.

What the weights expect of a picture (mean, deviation, size) comes with them and goes into the processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import emova.core.compat  # noqa: F401  (torchvision must import before timm and open_clip)
from emova.vision.protocol import VisionTower

# isort: split
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emova.checkpoint.loading import find_checkpoint, read_config
from emova.core.errors import InputError
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaProcessor
from emova.vision.towers import INTERNVIT, OPEN_CLIP, VisionConfig
from emova_train.vision.internvit_weights import load_internvit

TIMM = "timm/"


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each colour that the weights were trained with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_pretrained(tower: VisionTower, config: VisionConfig, name: str) -> Normalisation | None:
    """Copy the weights called ``name`` into ``tower``, all of them, in float32.

    Args:
        name: of an ``open_clip`` tower a tag of its model (or a file); of an ``internvit`` one a model of timm, such as
            vit_intern300m_patch14_448.ogvl_dist, a safetensors file with timm's names, or InternViT's folder or
            repository; of any a checkpoint of emova with such a tower, such as emova-nano or a stage's export.

    Returns:
        what goes into the processor; None where nothing says it.

    Raises:
        InputError: they cannot be had, or are another model's.
    """
    if (known := _checkpoint(name)) is not None:
        return _from_checkpoint(tower, config, known)
    if config.kind == OPEN_CLIP:
        return _open_clip(tower, config, name)
    if config.kind != INTERNVIT:
        raise InputError(f"vision_pretrained={name}: a tower of the kind {config.kind} loads its weights by itself")
    if Path(name).suffix == ".safetensors":
        try:
            _fill(tower, load_file(name), name)
        except (OSError, SafetensorError):
            raise InputError(f"{name}: missing or damaged; give a safetensors file with timm's names") from None
        return None
    import timm

    model = name.removeprefix(TIMM)
    if not timm.is_model(model.split(".")[0]):
        load_internvit(tower, name)
        return None
    with _reached(name):
        made = timm.create_model(model, pretrained=True, num_classes=0)
    _fill(tower, made.state_dict(), name)
    facts = timm.get_pretrained_cfg(model)
    return Normalisation(tuple(facts.mean), tuple(facts.std)) if facts is not None else None


def _checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint of emova's that is called so."""
    try:
        folder = find_checkpoint(name)
        return folder if read_config(folder).get("model_type") == EmovaConfig.model_type else None
    except InputError:
        return None


def _from_checkpoint(tower: VisionTower, config: VisionConfig, folder: Path) -> Normalisation:
    model = EmovaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if model.config.vision != config:
        raise InputError(
            f"vision_pretrained={folder.name}: its tower has another shape; give that in the model's config"
        )
    _fill(tower, model.model.vision_tower.state_dict(), folder.name)
    image = EmovaProcessor.from_pretrained(folder, local_files_only=True).image_processor
    return Normalisation(tuple(image.image_mean), tuple(image.image_std))


def _open_clip(tower: VisionTower, config: VisionConfig, tag: str) -> Normalisation:
    import open_clip

    from emova.vision.open_clip import OpenClipTower

    assert isinstance(tower, OpenClipTower)
    model = config.open_clip.model
    known = open_clip.list_pretrained_tags_by_model(model) if model else []
    if not model or not (tag in known or Path(tag).is_file()):
        given = ", ".join(known[:8]) or "none"
        raise InputError(f"vision_pretrained={tag}: no such tag or file; open_clip's {model or 'nameless'} has {given}")
    facts = open_clip.get_pretrained_cfg(model, tag) if tag in known else {}
    if bool(facts.get("quick_gelu", config.open_clip.quick_gelu)) != config.open_clip.quick_gelu:
        raise InputError(f"vision_pretrained={tag}: its weights have QuickGELU; give open_clip.model={model}-quickgelu")
    with _reached(f"{model} {tag}"):
        made = open_clip.create_model(model, pretrained=tag, precision="fp32", device="cpu")
    state = {name: tensor for name, tensor in made.visual.state_dict().items() if name != "proj"}
    _fill(tower.visual, state, f"{model} {tag}")
    wanted = open_clip.get_model_preprocess_cfg(made)
    size = wanted["size"] if isinstance(wanted["size"], int) else wanted["size"][0]
    if size != config.image_size:
        raise InputError(f"vision_pretrained={tag}: its pictures have {size} pixels a side, not {config.image_size}")
    return Normalisation(tuple(wanted["mean"]), tuple(wanted["std"]))


def _fill(module: VisionTower | nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    own = module.state_dict()
    if strange := sorted(set(own) ^ set(state)):
        raise InputError(f"{name}: other tensors than the tower's, {strange[0]} among them; give the model's own shape")
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[key].shape)}"
            raise InputError(f"{name}: {key} is {shapes}; give the tower's shape in the model's config")
    module.load_state_dict(state)  # copied into what is there, which is float32


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """One line for a hub that cannot be reached, or a file that is none."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError):
        raise InputError(f"{name}: its weights cannot be fetched; check the connection, or give a file") from None
    except (RuntimeError, SafetensorError, KeyError):
        raise InputError(f"{name}: its weights are damaged, or another model's") from None
