"""Checkpoints in the shape of released ones: the names are theirs, the weights are made by a rule."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emova.checkpoint.importing.source import Tensors

FACTS = Path(__file__).parents[1] / "fixtures" / "released"
GAINS = ("weight_g", "original0", "GAMMA", "gamma", "alpha", "running_var")

Shapes = dict[str, list[int]]


@cache
def keys() -> dict:
    """Names and shapes by part."""
    return json.loads(gzip.decompress((FACTS / "keys.json.gz").read_bytes()))


@cache
def golden() -> dict[str, Tensor]:
    """``PART/NAME`` to what the official code took and gave."""
    return load_file(FACTS / "golden.safetensors")


def of(part: str) -> dict[str, Tensor]:
    """The golden tensors of a part."""
    return {name.removeprefix(f"{part}/"): value for name, value in golden().items() if name.startswith(f"{part}/")}


def fill(name: str, shape: list[int]) -> Tensor:
    """The weight that the golden outputs were made with; it depends on the name and the shape alone."""
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in GAINS or (leaf == "weight" and len(shape) == 1):
        noise = 1.0 + 0.1 * np.clip(noise, -5.0, 5.0)
    elif len(shape) <= 1:
        noise = 0.1 * noise
    else:
        noise = noise * min(0.5, 1.0 / math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(np.asarray(noise, dtype=np.float32))


def fill_all(shapes: Shapes) -> dict[str, Tensor]:
    """All weights."""
    return {name: fill(name, shape) for name, shape in shapes.items()}


class InMemory(Tensors):
    """Tensors that come from no file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.name, self.prefix = "golden", ""
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._loaded = tensors


# --- EMOVA's speech tokenizer -----------------------------------------------------------------------------------------
SMALLER = {384: 16, 512: 64, 1536: 32, 768: 128, 2048: 32, 3072: 48, 32: 4, 48: 8}


def small_s2u_shapes() -> Shapes:
    """The released tokenizer with narrower layers, two in each transformer."""
    shapes: Shapes = {}
    for name, shape in keys()["golden_s2u"].items():
        if any(f"block_modules.6.layers.{layer}." in name for layer in range(2, 10)):
            continue
        fixed = name.endswith((".fb", ".window", "mask_emb", "weight_g")) or ".quantizer." in name
        shapes[name] = shape if fixed else [SMALLER.get(size, size) for size in shape]
    return shapes


def emova_tokenizer(s2u: Shapes | None = None) -> dict[str, Tensor]:
    """Every tensor of a released file: S2U (small unless given), the reduced U2S, the style table."""
    from emova.speech.tokenizer.emova_s2u.features import ClipLogMel, FeatureConfig

    features = ClipLogMel(FeatureConfig())
    state = fill_all(s2u or small_s2u_shapes()) | fill_all(keys()["golden_u2s"])
    style_size = state["decoder.emb_g.weight"].shape[1]
    return state | {
        "encoder.encoder.wav2spec.featurizer.window": features.window,
        "encoder.encoder.wav2spec.featurizer.fb": features.filters[None].contiguous(),
        "encoder.encoder.mask_emb": torch.zeros(128),
        "encoder.quantizer._levels_np": torch.tensor([8, 8, 8, 8]),
        "encoder.quantizer._basis": torch.tensor([1, 8, 64, 512]),
        "style_embedding.weight": fill("style_embedding.weight", [126, style_size]),
    }


TOKENIZER_CONFIG = {
    "model_type": "emova_speech_tokenizer",
    "s2u_unit_type": "40ms_multilingual_8888",
    "u2s_unit_type": "40ms_multilingual_8888_xujing_cosyvoice_FT",
}


def write_release(folder: Path, state: Mapping[str, Tensor], config: dict, shards: int = 1) -> Path:
    """A folder as it lies on a hub, in one file or in shards with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(state), folder / "model.safetensors")
        return folder
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        own = names[number::shards]
        save_file({name: state[name] for name in own}, folder / file)
        weight_map |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
