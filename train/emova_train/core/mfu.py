"""Model FLOPs utilisation: the arithmetic that a step needs, over what the machine could do in its time.

Only what the mathematics asks for is counted (no recomputation); a product of matrices counts two operations for each
multiplication. A part's backward pass counts what is done: gradients of its weights where it is trained, gradients of
its input where something before it is.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from emova.vision.c_abstractor import CAbstractor
from emova_train.core.precision import computes_bf16

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration

# Dense bfloat16 products a second, as the makers state them; the first name found in the device's counts.
PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "A10": 125e12, "A6000": 155e12, "4090": 165e12, "3090": 71e12, "V100": 125e12,
    "T4": 65e12, "MI300X": 1307e12, "MI250X": 383e12,
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def peak_flops() -> float:
    """Operations a second of this process's device: the maker's figure for a GPU, a measured product for the rest."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for known, peak in PEAKS.items():
            if known in name:
                return peak
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4096 if device == "cuda" else 768
    dtype = torch.bfloat16 if computes_bf16() else torch.float32
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


@dataclass(frozen=True)
class PartCost:
    """A part's multiplications for each of its positions (tiles for the projector); ``passes`` 1 (forward) to 3."""

    products: int
    passes: float


@dataclass(frozen=True)
class StepCost:
    """What a position costs in each part of a model; see ``step_cost``."""

    llm: PartCost
    head: PartCost
    tower: PartCost
    projector: PartCost
    llm_attention: int
    """Layers times width of the language model."""
    tower_attention: int
    patches: int
    """Positions of the tower a tile."""

    def flops(self, batch: Mapping[str, Tensor], asked: int = 0) -> float:
        """Operations of a forward and backward pass over a batch of ``emova_train.data.packing.collate``.

        Args:
            asked: positions that auxiliary losses put through the vocabulary head too.
        """
        bounds = batch["cu_seq_lens"].double()
        squares = float(((bounds[1:] - bounds[:-1]) ** 2).sum())
        positions, kept = batch["input_ids"].shape[1], len(batch["keep"]) + asked
        tiles = len(batch["pixel_values"]) if "pixel_values" in batch else 0
        patches = tiles * self.patches
        # Attention: two products of every position with all (in the language model: half of) the others.
        llm = 2 * self.llm.products * positions + 2 * self.llm_attention * squares
        tower = 2 * self.tower.products * patches + 4 * self.tower_attention * patches * self.patches
        return (
            self.llm.passes * llm
            + self.head.passes * 2 * self.head.products * kept
            + self.tower.passes * tower
            + self.projector.passes * 2 * self.projector.products * tiles
        )


def step_cost(model: EmovaForConditionalGeneration) -> StepCost:
    """The cost of an EmovaForConditionalGeneration as it is frozen now."""
    inner, text = model.model, model.config.text_config
    layers, blocks = inner.language_model.layers, nn.ModuleList(inner.vision_tower.layers)
    projector, shape = inner.projector, inner.projector.config
    patches, tokens = shape.input_side**2, shape.output_side**2
    if isinstance(projector, CAbstractor):
        projected = _matrices(projector.stage_in) * patches
        projected += (_matrices(projector.stage_out) + _matrices(projector.readout)) * tokens
    else:  # of other kinds each token passes through all matrices
        projected = _matrices(projector) * tokens
    width = next((_shape(parameter)[1] for parameter in blocks.parameters() if len(_shape(parameter)) == 2), 0)
    trains = {part: _trained(module) for part, module in (("llm", layers), ("projector", projector), ("tower", blocks))}
    before_projector = trains["tower"] > 0
    before_llm = before_projector or trains["projector"] > 0 or inner.get_input_embeddings().weight.requires_grad
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return StepCost(
        llm=PartCost(_matrices(layers), 1 + float(before_llm or trains["llm"] > 0) + trains["llm"]),
        head=PartCost(model.config.token_count * text.hidden_size, 2 + float(model.lm_head.weight.requires_grad)),
        tower=PartCost(_matrices(blocks), 1 + 2 * trains["tower"]),
        projector=PartCost(projected, 1 + float(before_projector) + trains["projector"]),
        llm_attention=text.num_hidden_layers * text.num_attention_heads * head_width,
        tower_attention=len(blocks) * width,
        patches=patches,
    )


def _shape(parameter: nn.Parameter) -> torch.Size:
    """The whole shape, also where ZeRO-3 has left this process a part of it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _matrices(module: nn.Module) -> int:
    return sum(_shape(parameter).numel() for parameter in module.parameters() if len(_shape(parameter)) >= 2)


def _trained(module: nn.Module) -> float:
    """The share of the parameters that is trained."""
    own = [parameter for parameter in module.parameters() if len(_shape(parameter)) >= 2]
    whole = sum(_shape(p).numel() for p in own)
    return sum(_shape(p).numel() for p in own if p.requires_grad) / max(1, whole)


def add_mfu(values: dict[str, float], processes: int = 1) -> None:
    """Turn ``flops_per_s`` of all ``processes``, where a part gives it, into ``mfu``."""
    if "flops_per_s" in values:
        values["mfu"] = values.pop("flops_per_s") / (processes * peak_flops())
