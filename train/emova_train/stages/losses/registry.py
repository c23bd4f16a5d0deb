"""The losses beside that of the tokens: one is named in ``LossesConfig`` and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.stages.losses.auxiliary import AuxiliaryConfig, AuxiliaryLoss
from emova_train.stages.losses.ctc import CTCConfig
from emova_train.stages.losses.grounding import GroundingConfig


@dataclass(frozen=True)
class LossesConfig:
    """The losses beside that of the tokens, each with its weight over it."""

    ctc: CTCConfig = field(default_factory=CTCConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)


def build_losses(
    config: LossesConfig, model: EmovaForConditionalGeneration, processor: EmovaProcessor
) -> list[AuxiliaryLoss]:
    """Those that have a weight, for a model.

    Raises:
        InputError: the model lacks a layer that one is taken of.
    """
    chosen: list[AuxiliaryConfig] = [getattr(config, each.name) for each in fields(config)]
    return [each.build(model, processor) for each in chosen if each.weight > 0]
