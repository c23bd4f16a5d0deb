"""How reading aloud is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from emova.core.errors import InputError

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class GuideConfig:
    """Attention that is shown which word is being said (Tachibana et al. 2018 guide it to a diagonal; here the
    synthesizer's own alignment says where)."""

    weight: float = 0.5
    heads: dict[str, int] = field(default_factory=lambda: {"2": 2, "3": 2})
    """How many of a layer's first heads, by the layer's number from 0."""
    enough: float = 0.25
    """Its loss below which it is learnt; the weight then falls to a tenth."""


@dataclass(frozen=True)
class ReadingConfig:
    """One run; see ``configs/reading``."""

    output_dir: str = "runs/reading"
    checkpoint: str = "emova/checkpoints/emova-nano"
    shards: str = "data/nano/aloud"
    seed: int = 0
    length: int = 256
    """Positions of a row."""
    rows: int = 8
    """Rows of a step."""
    max_steps: int = 100_000
    rate: float = 1.0e-3
    warmup: int = 50
    decay_from: int = 0
    """The step from which the rate falls to nothing, linearly, up to ``decay_to``; 0 = never."""
    decay_to: int = 0
    digits: tuple[int, ...] = ()
    """Levels of the quantizer: units that share a digit of their index learn together; none if empty."""
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    average: float = 0.99
    """Of the running mean of the weights, a step."""
    guide: GuideConfig = field(default_factory=GuideConfig)
    save_minutes: float = 5.0
    log_every: int = 20
    eval_every: int = 100
    eval_sentences: int = 128
    """Of the first shard, which is never trained on."""
    threads: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer={self.optimizer}: unknown; give one of {', '.join(OPTIMIZERS)}")
        if self.decay_from and self.decay_to <= self.decay_from:
            raise InputError(f"decay_to={self.decay_to}: must lie behind decay_from={self.decay_from}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rate = self.rate * min(1.0, (step + 1) / max(self.warmup, 1))
        if self.decay_from and step >= self.decay_from:
            rate *= max(0.0, (self.decay_to - step) / (self.decay_to - self.decay_from))
        return rate
