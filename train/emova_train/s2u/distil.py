"""Teach S2U's first stage to stream: ``emova train distil nano_distil``.

Whisper's encoder understands unseen speakers, since it learnt from 680,000 hours of others, but it hears a whole
recording at once, from its beginning. Here a copy that sees one block ahead, at any place of a long recording, through
rooms, noise and other vocal tracts, learns to give what Whisper itself gives for the clean whole: the teacher and
student of SPIRAL (EMOVA A.1), with a teacher that is trained already. No text is needed, so any speech will do.

Shapes: B rows, T samples, M mel bins, F mel frames, H frames of the stage, D width.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.weights import save_folder
from emova.speech.features import LogMel, MelConfig
from emova.speech.tokenizer.s2u import S2UConfig
from emova.speech.tokenizer.spiral import SpiralEncoder, SpiralStage
from emova.speech.tokenizer.whisper_init import fill_from_whisper
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, print_result, run_module
from emova_train.s2u.augment import warp_mels
from emova_train.s2u.data import ClipStore, SourceConfig, TwoViews, Views, unwrap

WHOLE = 1 << 20
"""Frames of a block that holds every recording."""
RANGE_LOG10 = 8.0
"""Whisper's own clamp of the mel below the loudest frame, in decades."""


@dataclass(frozen=True)
class DistilConfig:
    """Everything a run needs; paths are relative to the working directory."""

    model: S2UConfig = field(default_factory=S2UConfig)  # its first stage and blocks are what learns
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/s2u-distil", batch_size=1))
    train: list[SourceConfig] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)  # patterns of shards
    cache: str = "data/cache/s2u"  # decoded waveforms
    whisper: str = ""  # CTranslate2 Whisper model (model.bin, or a wheel that holds it)
    batch_seconds: float = 20.0
    max_seconds: float = 16.0  # longer clips are left out
    clean: float = 0.3  # the share of the clips that are heard as they are
    max_warp: float = 0.1  # vocal tract factor exp(+-this)
    max_speed: float = 0.1  # teacher and student hear all exp(+-this) times as fast
    max_mask: int = 8  # mel bins; two bands up to this wide are hidden
    max_start: int = 3000  # frames of the stage: recordings up to this long are known


def whisper_mel(mel_BMF: Tensor, config: MelConfig, frames_B: Tensor) -> Tensor:
    """Our mel as Whisper normalises it: clamped below each row's loudest frame."""
    log_BMF = mel_BMF / config.scale - config.shift
    inside_BF = torch.arange(log_BMF.shape[2], device=log_BMF.device)[None] < frames_B[:, None]
    loudest_B = log_BMF.amax(1).masked_fill(~inside_BF, -torch.inf).amax(1)
    return (torch.maximum(log_BMF, loudest_B[:, None, None] - RANGE_LOG10) + 4.0) / 4.0


class Distillation(nn.Module):
    """Whisper's encoder and the stage that follows it.

    Args:
        stage: learns.
        teacher: the same weights at first, over whole recordings.
    """

    def __init__(self, stage: SpiralStage, teacher: SpiralStage, config: DistilConfig) -> None:
        super().__init__()
        self.stage, self.settings = stage, config
        self.teacher = [teacher.eval().requires_grad_(False)]  # in a list: it is not learnt or saved
        self.mel = LogMel(config.model.mel)

    def forward(self, samples: Tensor, lengths: Tensor, start: Tensor, warp: Tensor) -> dict[str, Tensor]:
        """The mean square of the difference, in the teacher's normalised features."""
        config, clips = self.settings, len(warp)
        clean_BT, augmented_BT = samples.split(clips)
        frames_B = lengths[:clips] // config.model.mel.hop_length
        with torch.no_grad():
            clean_BMF = self.mel(clean_BT)
            wanted_BHD, heard_B = self.teacher[0].to(samples.device)(
                whisper_mel(clean_BMF, config.model.mel, frames_B).transpose(1, 2), frames_B
            )
            augmented_BMF = warp_mels(self.mel(augmented_BT), config.model.mel, warp, config.max_mask)
            as_it_is_B = torch.rand(clips, device=samples.device) < (config.clean if self.training else 1.0)
            mel_BMF = torch.where(as_it_is_B[:, None, None], clean_BMF, augmented_BMF)
        made_BHD, _ = self.stage(mel_BMF.transpose(1, 2), frames_B, start[:clips])
        inside_BH = torch.arange(made_BHD.shape[1], device=heard_B.device)[None] < heard_B[:, None]
        gap_N = (made_BHD - wanted_BHD)[inside_BH].square().mean(-1)
        size = wanted_BHD[inside_BH].var(0).mean()
        return {"loss": gap_N.mean() / size, "seconds": lengths[:clips].sum() / config.model.mel.sample_rate}


def train(config: DistilConfig) -> FitResult:
    """Run the training; the stage goes to ``run.output_dir``/export, which ``whisper`` of ``S2UTrainConfig`` may name.

    Raises:
        InputError: shards or the Whisper model are missing.
    """
    if not config.train or not config.whisper:
        raise InputError("train and whisper: name shards and a Whisper model; see the shipped config s2u/nano_distil")
    output = Path(config.run.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    torch.manual_seed(config.run.seed)
    model = config.model
    stage = SpiralEncoder(model.mel.n_mels, model.stages, model.block_units, model.left_blocks).stages[0]
    assert isinstance(stage, SpiralStage)
    teacher = SpiralStage(model.mel.n_mels, model.stages[0], WHOLE, 0)
    fill_from_whisper(stage, config.whisper)
    teacher.load_state_dict(stage.state_dict())
    store = ClipStore([source.pattern for source in config.train], config.cache, config.max_seconds)
    batches = _views(store, config, [source.repeat for source in config.train], config.run.max_steps, training=True)
    held_out = None
    if config.validation:
        others = ClipStore(config.validation, config.cache, config.max_seconds)
        held_out = _views(others, config, [1.0] * len(config.validation), 16, training=False)
    result = fit(
        Distillation(stage, teacher, config), batches, unwrap, config.run, eval_set=held_out,
        parameter_groups=lambda module: decay_groups(module, config.run.weight_decay),
    )  # fmt: skip
    save_folder(output / "export", model, stage.state_dict())
    return result


def _views(store: ClipStore, config: DistilConfig, repeats: list[float], count: int, training: bool) -> TwoViews:
    return TwoViews(
        store, repeats, count * (config.run.gradient_accumulation if training else 1), config.batch_seconds,
        config.run.seed, Views(
            max_start=config.max_start, max_warp=config.max_warp, max_speed=config.max_speed if training else 0.0,
            heard_only=True,
        ),
    )  # fmt: skip


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train distil``."""
    add_config(parser, "nano_distil")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    result = train(load_config(DistilConfig, arguments.config, arguments.overrides, kind="s2u"))
    print_result(result)
    return 0


def main() -> int:
    return run_module(register, "emova_train.s2u.distil", "Teach the tokenizer's first stage to stream.")


if __name__ == "__main__":
    sys.exit(main())
