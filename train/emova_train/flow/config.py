"""What the YAML file of a flow decoder's training says."""

from __future__ import annotations

from dataclasses import dataclass, field

from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig
from emova_train.core.config import RunConfig
from emova_train.u2s.config import U2SDataConfig
from emova_train.u2s.discriminators import DiscriminatorConfig

FLOW, VOCODER = "flow", "vocoder"


@dataclass(frozen=True)
class FlowLossConfig:
    """Weights, and what a step sees.

    Attributes:
        prior: weight of the units' own frames' distance to the real ones (Matcha-TTS, Mehta et al. 2024, §2.2), which
            lets few steps of the flow do.
        style_pitch: weight of what a style vector must tell of the speech that it is for, the middle and spread of
            its F0 in octaves. Without it the vectors of one emotion's three pitches became one (docs/experiments/17).
        dropped: share of rows without a condition (classifier-free guidance, Ho and Salimans 2022).
        prompted, prompt_share: share of rows whose first frames are given, and at most how many of them; where
            utterances are cut at blocks, the blocks before the last are given instead.
        mel, magnitude, pitch, adversarial, feature: of the vocoder, as U2S has them.
        adversarial_start, adversarial_ramp: steps without the discriminators, and over which their weight grows.
        sound_frames: frames of a row that the vocoder makes sound of; ``edge`` of them at each end are not compared.
        sound_rows: rows of a batch whose sound is made.
        mel_noise: spread of what is added to the frames that the vocoder hears, since the flow's are not exact.
    """

    prior: float = 0.5
    style_pitch: float = 1.0
    dropped: float = 0.2
    prompted: float = 0.5
    prompt_share: float = 0.3
    mel: float = 10.0
    magnitude: float = 3.0
    pitch: float = 1.0
    adversarial: float = 1.0
    feature: float = 2.0
    adversarial_start: int = 1000
    adversarial_ramp: int = 300
    sound_frames: int = 64
    edge: int = 8
    sound_rows: int = 8
    mel_noise: float = 0.05
    sizes: tuple[int, ...] = (480, 960, 1920)
    mels: tuple[int, ...] = (48, 80, 128)

    def __post_init__(self) -> None:
        if self.sound_frames <= 2 * self.edge or self.edge < 0:
            raise InputError(f"losses.sound_frames={self.sound_frames}: give more than two edges of {self.edge}")


@dataclass(frozen=True)
class FlowRecipe:
    """Everything a run needs; paths are relative to the working directory.

    Attributes:
        data: as U2S's; ``window_units`` are the most units of a row, in those of the tokenizer.
        cut_at_blocks: the second stage (§3.2): utterances end at whole blocks (``model.chunks``), and what a row sees
            is what a chunk sees in a stream.
        parts: what is learnt, ``flow`` (with the units' and the styles' encoders), ``vocoder`` or both; the rest stays.
        discriminator_rate: its learning rate over the others'.
        initial: an exported decoder, or a checkpoint, to start from.
        samples: utterances written as sound at each validation.
    """

    model: FlowHiFTConfig = field(default_factory=FlowHiFTConfig)
    losses: FlowLossConfig = field(default_factory=FlowLossConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: U2SDataConfig = field(default_factory=lambda: U2SDataConfig(window_units=25, digit_noise=0.0))
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/flow"))
    cut_at_blocks: bool = False
    parts: list[str] = field(default_factory=lambda: [FLOW, VOCODER])
    discriminator_rate: float = 1.0
    initial: str = ""
    samples: int = 4

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) - {FLOW, VOCODER}:
            raise InputError(f"parts={self.parts}: give {FLOW}, {VOCODER} or both")
        if self.cut_at_blocks and not (self.model.chunks and self.model.context):
            raise InputError("cut_at_blocks: give model.chunks and model.context, which say what a chunk sees")
