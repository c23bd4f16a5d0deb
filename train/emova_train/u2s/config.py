"""What the YAML file of a detokenizer's training says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from emova.speech.detokenizer.u2s import U2SConfig
from emova.speech.detokenizer.vits import PosteriorEncoderConfig
from emova_train.core.config import RunConfig
from emova_train.core.renamed import U2S_KEYS
from emova_train.data.clip_reader import StreamConfig
from emova_train.u2s.discriminators import DiscriminatorConfig


@dataclass(frozen=True)
class U2SDataConfig:
    """Shards by glob patterns, the cache, and how a window is cut."""

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    cache: str = "data/cache/u2s"
    tokenizer: str = ""  # the speech tokenizer that makes the units: its folder, or a checkpoint such as emova-nano
    other_tokenizers: list[str] = field(default_factory=list)  # whose units shall be spoken too: earlier versions
    augmented: bool = False  # also units heard through noise, rooms and other vocal tracts; each window draws a kind
    processes: int = 2
    stream: StreamConfig = field(default_factory=StreamConfig)  # read tokenised sets as they are needed, without cache
    window_units: int = 20  # decided by the losses of prior, posterior and pitch
    context_left: int = 10  # units before the window that the unit encoder hears
    context_right: int = 6
    reference_seconds: float = 2.5  # of another utterance in the same style
    neutral_units: float = 0.5  # share of windows whose units come from the neutral rendering of the sentence
    digit_noise: float = 0.03  # share of a unit's digits that move to a neighbouring level: units from another voice
    levels: tuple[int, ...] = (8, 8, 8, 8)  # of the digits, least significant first; empty for no such noise
    validation_windows: int = 64


@dataclass(frozen=True)
class U2SLossConfig:
    """Weights, and which part of a window becomes sound."""

    mel: float = 10.0
    magnitude: float = 3.0
    kl: float = 3.0
    f0: float = 5.0
    voicing: float = 1.0
    adversarial: float = 1.0
    feature: float = 2.0
    adversarial_start: int = 1000  # steps without the discriminators
    adversarial_ramp: int = 300  # steps over which their weight then grows
    adversarial_rows: int = 8  # of a batch that the discriminators hear; those from the prior come first
    prior_path: float = 0.5  # share of rows decoded from the prior
    prior_path_early: float = 0.75  # the same, before `adversarial_start`
    sizes: tuple[int, ...] = (480, 960, 1920)
    mels: tuple[int, ...] = (48, 80, 128)
    wave_units: int = 14  # units of the window that the spectral losses hear
    wave_context: tuple[int, int] = (3, 1)  # units before and after them that the head sees


@dataclass(frozen=True)
class U2SRecipe:
    """Everything a run needs; paths are relative to the working directory."""

    RENAMED: ClassVar[Mapping[str, str]] = U2S_KEYS

    model: U2SConfig = field(default_factory=U2SConfig)
    posterior: PosteriorEncoderConfig = field(default_factory=PosteriorEncoderConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: U2SLossConfig = field(default_factory=U2SLossConfig)
    data: U2SDataConfig = field(default_factory=U2SDataConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/u2s"))
    discriminator_rate: float = 1.0  # its learning rate over the generator's
    initial: str = ""  # an exported detokenizer, or a checkpoint, to start from
    keep_styles: bool = False  # its style encoder stays as it is, so that the prototypes chosen with it stay valid
    samples: int = 6  # utterances written as sound at each validation
