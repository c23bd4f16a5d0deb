"""Start a vision tower from published InternViT weights, whose names differ from timm's (InternVL; EMOVA section 3.1).

Reads safetensors only: a folder, or a repository's name on the hub such as OpenGVLab/InternViT-6B-448px-V1-5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emova.core.errors import InputError
from emova.vision.protocol import VisionTower

# Published name -> ours; what stands in brackets is kept.
_NAMES = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.(\d+)\.(ls[12])", r"blocks.\1.\2.gamma"),
    (r"encoder\.layers\.(\d+)\.(attn|mlp|norm[12])\.(.+)", r"blocks.\1.\2.\3"),
)


def our_name(name: str) -> str | None:
    """The tower's name for a published one; None for what is no part of the tower."""
    name = name.removeprefix("vision_model.")
    for pattern, replacement in _NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def load_internvit(tower: VisionTower, source: str) -> None:
    """Copy published weights into ``tower``; the whole of it must be there, in its shapes.

    Raises:
        InputError: there are none in ``source``, or they are another model's.
    """
    own = dict(tower.named_parameters())
    waiting = set(own)
    with torch.no_grad():
        for name, tensor in _tensors(source):
            if name not in own:
                raise InputError(f"{source}: has {name}, which the tower lacks; give its depth in the model's config")
            if own[name].numel() != tensor.numel() or own[name].shape[-1] != tensor.shape[-1]:
                shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
                raise InputError(f"{source}: {name} is {shapes}; give the tower's shape in the model's config")
            own[name].copy_(tensor.reshape(own[name].shape))
            waiting.discard(name)
    if waiting:
        raise InputError(f"{source}: {len(waiting)} of the tower's tensors are missing, {min(waiting)} among them")


def _tensors(source: str) -> Iterator[tuple[str, Tensor]]:
    """The tower's tensors in ``source`` under our names, one at a time."""
    files = sorted(_folder(source).glob("*.safetensors"))
    if not files:
        raise InputError(f"{source}: no safetensors there; give a folder with InternViT's weights")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no dictionary)
                    ours = our_name(name)
                    if ours is not None:
                        yield ours, file.get_tensor(name)
        except SafetensorError:
            raise InputError(f"{path}: damaged; download it again") from None


def _folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: no such folder, and not on the hub ({reason})") from None
