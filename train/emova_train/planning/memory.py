"""What a process holds while it trains: weights, gradients, the optimizer's state, activations.

An estimate from shapes, for choosing a strategy and a batch; what the allocator and the libraries add (a tenth or so)
is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from emova_train.core.config import DDP, FSDP, RunConfig
from emova_train.core.precision import BF16

LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most (its ``stage3_max_live_parameters``)."""


@dataclass(frozen=True)
class Held:
    """Bytes of a process, on its device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def state(run: RunConfig, total: int, trained: int, processes: int, activations: float) -> Held:
    """What a process holds of a model of ``total`` parameters, ``trained`` of them with AdamW.

    Args:
        run: with its precision resolved.
    """
    parallel = run.parallel
    if parallel.strategy == DDP:
        return Held(4.0 * total, 4.0 * trained, 8.0 * trained, activations)
    if parallel.strategy == FSDP:
        gathered = 2.0 * min(total, LIVE)
        if parallel.offload:
            return Held(gathered, 0.0, 0.0, activations)  # the shares wait in the host's memory
        return Held(
            4.0 * total / processes + gathered, 4.0 * trained / processes, 8.0 * trained / processes, activations
        )
    each = 2.0 if run.precision == BF16 else 4.0  # DeepSpeed keeps float32 masters beside 16-bit weights
    masters = 12.0 if run.precision == BF16 else 8.0
    split_gradients = processes if parallel.zero_stage >= 2 else 1
    split_weights = processes if parallel.zero_stage >= 3 else 1
    weights = each * total / split_weights + (each * min(total, LIVE) if parallel.zero_stage >= 3 else 0.0)
    if parallel.offload == "all":
        weights = each * min(total, LIVE)
    optimizer = 0.0 if parallel.offload else masters * trained / processes
    return Held(weights, each * trained / split_gradients, optimizer, activations)


@dataclass(frozen=True)
class Stack:
    """Blocks of a transformer: how many keep their activations, and the widths of one.

    Attributes:
        kept: blocks whose activations the backward pass needs.
    """

    blocks: int
    kept: int
    width: int
    ffn: int
    gated: bool

    def activations(self, positions: float, recomputed: bool) -> float:
        """Bytes in 16 bits for ``positions``; ``recomputed`` keeps what goes into each block, and one block whole."""
        # Norm, queries, keys, values, attention's output, its projection; and what is inside the feed-forward part.
        block = 2.0 * positions * (6 * self.width + (4 if self.gated else 2) * self.ffn)
        if not self.kept:
            return block
        return 2.0 * positions * self.width * self.kept + block if recomputed else block * self.kept
