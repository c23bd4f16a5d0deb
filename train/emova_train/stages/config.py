"""What a stage's YAML file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from emova.checkpoint.loading import find_checkpoint
from emova.core.errors import InputError
from emova_train.core.config import RunConfig
from emova_train.core.renamed import STAGE_KEYS
from emova_train.data.pack_reader import TOKENS
from emova_train.stages.data import DataConfig
from emova_train.stages.lora import LoraConfig
from emova_train.stages.losses.registry import LossesConfig
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.validation import SampleConfig


@dataclass(frozen=True)
class InitConfig:
    """What a stage starts from."""

    checkpoint: str = ""
    """An earlier stage's export, or a checkpoint such as emova-nano; ``model`` and ``tokenizer`` count for nothing."""
    model: str = "model/nano"
    """Shapes, a file or a shipped config; the LLaMA is pre-trained where ``text.pretrained`` names one."""
    tokenizer: str = "runs/tokenizer-nano"
    vision: str = ""
    """A vision pre-training's export for tower and projector."""
    internvit: str = ""
    """Published InternViT weights for the tower alone: a folder, or a name on the hub."""
    speech_tokenizer: str = ""
    """An S2U export whose phone decoder says which units sound alike; their embeddings start alike."""
    speech_tokenizer_before: str = ""
    """The S2U export of the units that ``checkpoint`` learnt, when ``speech_tokenizer`` is another."""

    @property
    def folder(self) -> Path:
        """Of ``checkpoint``. Raises: InputError: there is none."""
        try:
            found = find_checkpoint(self.checkpoint)
        except InputError:
            found = None
        if found is None or not (found / "config.json").is_file():
            raise InputError(f"{self.checkpoint}: no checkpoint there; run the stage before, or name its export")
        return found


@dataclass(frozen=True)
class RatesConfig:
    """Peak learning rate of each part; 0 freezes it."""

    projector: float = 0.0
    llm: float = 0.0
    vision: float = 0.0
    vision_share: float = 1.0
    """The share of the tower's blocks, from the deep end, that is trained; below 1 what comes before them is frozen."""


@dataclass(frozen=True)
class StageConfig:
    """A stage; the files are in ``configs/stages``."""

    RENAMED: ClassVar[Mapping[str, str]] = STAGE_KEYS

    run: RunConfig = field(default_factory=RunConfig)
    init: InitConfig = field(default_factory=InitConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    losses: LossesConfig = field(default_factory=LossesConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    allow_random: bool = False
    """Let a part be frozen whose weights are random."""
    attention: str = "auto"
    """``emova_packed``, ``flash_attention_2`` or ``sdpa``; auto: flash attention on a GPU that has it, else packed."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass: a third more work for a fraction of the memory."""
    tiles_at_once: int = 0
    """The tiles of a pass are filled up to a multiple of it (``emova_train.data.shape_padding``); 0 takes as many as
    there are."""
    liger: str = "auto"
    """Liger's fused kernels in the LLaMA: ``auto`` where they are installed on a GPU, ``always``, ``never``."""
    hidden_dropout: float = 0.0
    """The share of the language model's hidden states that is dropped in training (``emova_train.stages.dropout``)."""

    def __post_init__(self) -> None:
        if not 0 <= self.hidden_dropout < 1:
            raise InputError(f"hidden_dropout={self.hidden_dropout:g}: give a share from 0 up to below 1")
        if self.data.shards.shares == TOKENS and self.run.global_batch_size:
            raise InputError(
                "data.shards.shares=tokens: shares of the tokens fill packs; give run.global_batch_size=0 with it"
            )
        if self.liger not in ("auto", "always", "never"):
            raise InputError(f"liger={self.liger}: unknown; give auto, always or never")
