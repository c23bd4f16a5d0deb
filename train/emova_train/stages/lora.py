"""Low-rank adapters in the language model (LoRA, by peft), merged into its weights when a stage is exported."""

from __future__ import annotations

from dataclasses import dataclass

import emova.core.compat  # noqa: F401  (before peft imports transformers)

# isort: split
from torch import nn

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters in place of the language model's own weights; they learn with ``rates.llm``."""

    rank: int = 0
    """0 = no adapters."""
    alpha: float = 0.0
    """The adapters' scale is alpha / rank; 0 takes twice the rank."""
    dropout: float = 0.0
    projections: tuple[str, ...] = ALL_PROJECTIONS
    """The linear layers that get one."""
    embeddings: bool = True
    """Train the embeddings and the vocabulary head whole: the units are new to a language model."""

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 <= self.dropout < 1:
            raise InputError("lora: rank must be 0 or more and dropout between 0 and 1")
        unknown = set(self.projections) - set(ALL_PROJECTIONS)
        if unknown or not self.projections:
            raise InputError(f"lora.projections: {', '.join(sorted(unknown)) or 'none'}; name {ALL_PROJECTIONS}")


def add_adapters(model: EmovaForConditionalGeneration, config: LoraConfig) -> None:
    """Give the language model's projections adapters, which change nothing until they are trained.

    Raises:
        InputError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise InputError("lora.rank needs peft: pip install 'emova[scale]'") from None
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,  # type: ignore[arg-type]  # peft divides by the rank
        lora_dropout=config.dropout,
        target_modules=list(config.projections),
    )
    peft.inject_adapter_in_model(settings, model.model.language_model)


def learns(name: str, config: LoraConfig) -> bool:
    """Whether the language model's parameter ``name`` is trained beside or in the adapters."""
    whole = config.embeddings and ("embed_tokens" in name or "lm_head" in name)
    return not config.rank or ".lora_" in name or whole


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights that they stand beside, and take them out."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())
