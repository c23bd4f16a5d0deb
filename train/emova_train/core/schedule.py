"""The learning rate from step to step."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from emova_train.core.config import LINEAR, RunConfig


def schedule(optimizer: torch.optim.Optimizer, run: RunConfig, steps: int) -> LRScheduler:
    """Along a line from nothing to the peak over ``run.warmup_ratio`` of ``steps``, then along a cosine or a line to
    ``run.final_lr_ratio`` of it."""
    warmup = math.ceil(run.warmup_ratio * steps)
    if run.schedule != LINEAR:
        return get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, num_warmup_steps=warmup, num_training_steps=steps, min_lr_rate=run.final_lr_ratio
        )

    def share(step: int) -> float:
        if step < warmup:
            return step / max(warmup, 1)
        left = max(0.0, (steps - step) / max(steps - warmup, 1))
        return run.final_lr_ratio + (1 - run.final_lr_ratio) * left

    return LambdaLR(optimizer, share)
