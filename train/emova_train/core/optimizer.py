"""The parameter groups that AdamW gets, and what is checked about them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from emova_train.core.config import RunConfig
from emova_train.core.protocols import ParameterGroup, ParameterGroups


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """The parameter's shape, also where ZeRO-3 has left this process a part of it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def decay_groups(module: nn.Module, weight_decay: float, **extra: Any) -> list[ParameterGroup]:
    """The trainable parameters as two AdamW groups: matrices decay, vectors and scalars do not.

    Args:
        extra: settings of both groups, such as ``lr`` or ``max_grad_norm``.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[ParameterGroup] = [
        {"params": [p for p in trainable if len(whole_shape(p)) >= 2], "weight_decay": weight_decay, **extra},
        {"params": [p for p in trainable if len(whole_shape(p)) < 2], "weight_decay": 0.0, **extra},
    ]
    return [group for group in groups if group["params"]]


def adamw(module: nn.Module, groups_of: ParameterGroups | None, run: RunConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of ``module``, in the groups of ``groups_of`` or in ``decay_groups``."""
    groups = groups_of(module) if groups_of else decay_groups(module, run.weight_decay)
    groups = [{"lr": run.learning_rate, "weight_decay": run.weight_decay, **group} for group in groups]
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    groups = [group for group in groups if group["params"]]
    assert groups, "nothing to train: every parameter is frozen"
    return torch.optim.AdamW(groups, lr=run.learning_rate, betas=run.betas, fused=True)
