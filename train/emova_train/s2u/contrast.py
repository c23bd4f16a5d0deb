"""SPIRAL's pre-training objective on our encoder (Huang et al. 2022, arXiv 2201.10207): a student that hears perturbed
speech learns to give what a teacher, the moving average of itself, gives for the clean speech.

What of the paper stands where:

- teacher and student of the same encoder and projection, the teacher an exponential moving average whose momentum
  rises to 1 by a cosine: ``Pretraining.follow``;
- a predictor of convolutions with batch normalisation on the student's side alone: ``Predictor``;
- the in-utterance contrastive loss, cosine similarity over a temperature, distractors from the same utterance:
  ``contrast``;
- position randomisation, padding of random length at both ends of the teacher's input, so that a position cannot tell
  which frame is meant: ``Pretraining._teach``;
- the student's input masked in time and frequency (SpecAugment): ``masked``; and dropout in both as computation noise:
  ``Pretraining``;
- multi-condition pre-training: ``emova_train.s2u.conditions``.

Values where the paper's text leaves them open are those of the authors' published configuration for their base model
(Speech-Backbones, SPIRAL, ``spiral_base_pretrain_ls960_noise``). What differs: attention is block-causal, positions are
sinusoidal and start anywhere, and padding and masks are noise about the recording's mean rather than a fixed vector.

Shapes: B recordings, T samples, M mel bins, F mel frames, U units of time (25 a second), D width, P projected width,
K distractors, N units that count.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova.speech.tokenizer.spiral import Block, keep
from emova_train.distributed.world import World
from emova_train.s2u.augment import warp_mels

_NOISE = 0.2
"""Standard deviation of what stands for hidden frames, in the mel's normalised units."""


class CollapseError(InputError):
    """The teacher's targets have become all alike; the last complete checkpoint is untouched."""


@dataclass(frozen=True)
class ContrastConfig:
    """The objective.

    Attributes:
        width: of the projection in which student and teacher are compared.
        predictor_kernel, predictor_layers: the predictor's convolutions.
        temperature: of the cosine similarities.
        distractors: frames of the same recording for each frame.
        momentum: of the teacher at the first step; it rises to 1 at the last.
        max_shift: units of padding before and after the teacher's input, at most.
        mask_share, mask_frames: about the share of the student's mel frames that are hidden, and frames a stretch.
        band_share, band_bins: the same of its mel bins.
        dropout: computation noise, in student and teacher.
    """

    width: int = 256
    predictor_kernel: int = 5
    predictor_layers: int = 2
    temperature: float = 0.3
    distractors: int = 100
    momentum: float = 0.995
    max_shift: int = 16
    mask_share: float = 0.5
    mask_frames: int = 20
    band_share: float = 0.4
    band_bins: int = 12
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "predictor_kernel", "distractors", "mask_frames", "band_bins"):
            if getattr(self, name) < 1:
                raise InputError(f"contrast.{name}={getattr(self, name)}: must be at least 1")
        for name in ("momentum", "mask_share", "band_share", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"contrast.{name}={getattr(self, name):g}: must be 0 or more and below 1")
        if self.temperature <= 0 or self.max_shift < 0 or self.predictor_layers < 0:
            raise InputError("contrast: temperature must be above 0; max_shift and predictor_layers not below")


@dataclass(frozen=True)
class CollapseConfig:
    """When the targets count as collapsed.

    Attributes:
        min_variance: of the targets about their recording's mean, where they have length 1 (0: all alike, 1: spread).
        min_perplexity: directions that they spread over, as the perplexity of their covariance's spectrum.
        grace: passes at the beginning that are not judged.
        patience: passes in a row below either, after which the run is given up.
    """

    min_variance: float = 0.02
    min_perplexity: float = 2.0
    grace: int = 500
    patience: int = 50


@dataclass(frozen=True)
class Spread:
    """How the targets of a batch are spread, see ``CollapseConfig``."""

    variance: Tensor
    perplexity: Tensor


class Predictor(nn.Module):
    """Convolutions over time with batch normalisation over the units that count, then a linear map: ``[B, U, P]``."""

    def __init__(self, width: int, kernel: int, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, kernel, padding="same") for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        self.out = nn.Linear(width, width)

    def forward(self, frames_BUP: Tensor, units_B: Tensor, inside_BU: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            made_BUP = convolution(keep(frames_BUP, units_B).transpose(1, 2)).transpose(1, 2)
            normal_NP = norm(made_BUP[inside_BU].float()).to(made_BUP.dtype)
            frames_BUP = torch.zeros_like(made_BUP).masked_scatter(inside_BU[:, :, None], normal_NP).relu()
        return self.out(frames_BUP)


def stretches(lengths_B: Tensor, longest: int, share: float, size: int) -> Tensor:
    """``[B, longest]`` true on random stretches of ``size`` places within each row's length, about ``share`` of them.

    Stretches may lie over each other, as in wav2vec 2.0 and SPIRAL.
    """
    count = max(1, round(share * longest / size)) if share else 0
    drawn_B = (share * lengths_B / size).round().clamp(min=1) if share else torch.zeros_like(lengths_B)
    first_BS = (torch.rand(len(lengths_B), count, device=lengths_B.device) * (lengths_B[:, None] - size + 1)).floor()
    used_BS = torch.arange(count, device=lengths_B.device)[None] < drawn_B[:, None]
    places = torch.arange(longest, device=lengths_B.device)
    distance_BSL = places - first_BS.clamp(min=0)[:, :, None]
    return ((distance_BSL >= 0) & (distance_BSL < size) & used_BS[:, :, None]).any(1)


def masked(mel_BMF: Tensor, frames_B: Tensor, config: ContrastConfig) -> Tensor:
    """``[B, M, F]`` with stretches of time and bands hidden behind noise about the recording's mean (SpecAugment)."""
    rows, bins, frames = mel_BMF.shape
    noise_BMF = mel_BMF.mean((1, 2), keepdim=True) + _NOISE * torch.randn_like(mel_BMF)
    hidden_BF = stretches(frames_B, frames, config.mask_share, config.mask_frames)
    hidden_BM = stretches(frames_B.new_full((rows,), bins), bins, config.band_share, config.band_bins)
    return torch.where(hidden_BF[:, None] | hidden_BM[:, :, None], noise_BMF, mel_BMF)


def contrast(
    made_BUP: Tensor, wanted_BUP: Tensor, units_B: Tensor, distractors: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """The in-utterance contrastive loss, and the share of units whose target is told from all distractors.

    Args:
        made_BUP: the student's predictions.
        wanted_BUP: the teacher's targets.
        units_B: how many of each row count; a row of one has no distractors and does not count.
    """
    similar_BUU = functional.normalize(made_BUP.float(), dim=-1) @ functional.normalize(
        wanted_BUP.float(), dim=-1
    ).transpose(1, 2)
    rows, units, _ = similar_BUU.shape
    index_U = torch.arange(units, device=units_B.device)
    drawn_BUK = torch.rand(rows, units, distractors, device=units_B.device) * (units_B - 1)[:, None, None]
    other_BUK = drawn_BUK.floor().long()
    other_BUK = (other_BUK + (other_BUK >= index_U[None, :, None])).clamp(max=units - 1)
    right_BU1 = similar_BUU.diagonal(dim1=1, dim2=2)[:, :, None]
    logits_BUK = torch.cat([right_BU1, similar_BUU.gather(2, other_BUK)], dim=-1) / temperature
    counts_BU = (index_U[None] < units_B[:, None]) & (units_B > 1)[:, None]
    logits_NK = logits_BUK[counts_BU]
    loss = functional.cross_entropy(logits_NK, logits_NK.new_zeros(len(logits_NK), dtype=torch.long))
    return loss, (logits_NK.argmax(-1) == 0).float().mean()


@torch.no_grad()
def spread(wanted_BUP: Tensor, inside_BU: Tensor) -> Spread:
    """How targets ``[B, U, P]`` of length 1 lie about their recordings' means."""
    unit_BUP = functional.normalize(wanted_BUP.float(), dim=-1) * inside_BU[:, :, None]
    mean_BP = unit_BUP.sum(1) / inside_BU.sum(1)[:, None]
    centred_NP = (unit_BUP - mean_BP[:, None])[inside_BU]
    covariance_PP = centred_NP.T @ centred_NP / len(centred_NP)
    spectrum_P = torch.linalg.eigvalsh(covariance_PP.cpu()).clamp(min=0)
    total = spectrum_P.sum()
    share_P = spectrum_P / total.clamp(min=1e-12)
    return Spread(total, torch.special.entr(share_P).sum().exp())


class Pretraining(nn.Module):
    """Student, teacher, projections and predictor.

    Args:
        model: whose encoder is trained; ``student`` is its encoder itself.
        accumulation: passes a step, after which the teacher follows.
        steps: of the run.
        world: the processes that train together; they give up together.
    """

    passes: Tensor  # forward passes in training so far
    low: Tensor  # of them in a row whose targets were collapsed

    def __init__(
        self, model: S2UTokenizer, config: ContrastConfig, collapse: CollapseConfig, accumulation: int, steps: int,
        world: World,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings, self.collapse = config, collapse
        self.accumulation, self.steps, self.world = accumulation, steps, world
        self.mel = model.mel
        self.unit_samples, self.stride = model.unit_samples, model.encoder.stride
        self.student = model.encoder
        self.project = nn.Linear(model.encoder.width, config.width)
        self.predict = Predictor(config.width, config.predictor_kernel, config.predictor_layers)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.teacher_project = deepcopy(self.project).requires_grad_(False)
        for block in [*self.student.modules(), *self.teacher.modules()]:
            if isinstance(block, Block):
                block.dropout = config.dropout
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("low", torch.zeros((), dtype=torch.long))

    def momentum(self, step: int) -> float:
        """Of the teacher after ``step`` steps: a cosine from the configured one to 1."""
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.steps))))
        return 1 - (1 - self.settings.momentum) * left

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """The teacher moves towards the student."""
        weight = 1 - self.momentum(step)
        pairs = ((self.teacher, self.student), (self.teacher_project, self.project))
        for behind, ahead in pairs:
            for kept, new in zip(behind.parameters(), ahead.parameters(), strict=True):
                kept.lerp_(new.to(kept.dtype), weight)

    @torch.no_grad()
    def _teach(self, mel_BMF: Tensor, units_B: Tensor, start_B: Tensor) -> Tensor:
        """The targets of clean mels: as many frames of noise before and after as are drawn, and cut off again."""
        before, after = torch.randint(0, self.settings.max_shift + 1, (2,)).tolist() if self.training else (0, 0)
        rows, bins, frames = mel_BMF.shape
        padded_BMF = mel_BMF.mean((1, 2), keepdim=True) + _NOISE * torch.randn(
            rows, bins, frames + (before + after) * self.stride, device=mel_BMF.device
        )
        # Behind each row's own end is noise too, so that an end tells no position.
        at = torch.arange(padded_BMF.shape[2], device=mel_BMF.device)[None] - before * self.stride
        own_BF = (at >= 0) & (at < units_B[:, None] * self.stride)
        shifted_BMF = functional.pad(mel_BMF, (before * self.stride, after * self.stride))
        padded_BMF = torch.where(own_BF[:, None], shifted_BMF, padded_BMF)
        hidden_BUD = self.teacher(padded_BMF, (units_B + before + after) * self.stride, start_B)
        return self.teacher_project(hidden_BUD[:, before : before + frames // self.stride])

    def forward(self, samples: Tensor, lengths: Tensor, start: Tensor, warp: Tensor) -> dict[str, Tensor]:
        """The loss and the spread of the targets of a batch of ``Views``, clean and changed.

        Raises:
            CollapseError: the targets were collapsed ``patience`` passes in a row.
        """
        if self.training:
            step, within = divmod(int(self.passes), self.accumulation)
            if step and not within:
                self.follow(step)
        clips = len(warp)
        units_B = lengths[:clips] // self.unit_samples
        with torch.no_grad():
            clean_BMF, changed_BMF = self.mel(samples).split(clips)
            changed_BMF = warp_mels(changed_BMF, self.mel.config, warp, 0)
            changed_BMF = masked(changed_BMF, units_B * self.stride, self.settings)
        wanted_BUP = self._teach(clean_BMF, units_B, start[:clips])
        inside_BU = torch.arange(wanted_BUP.shape[1], device=units_B.device)[None] < units_B[:, None]
        projected_BUP = self.project(self.student(changed_BMF, units_B * self.stride, start[clips:]))
        made_BUP = self.predict(projected_BUP, units_B, inside_BU)
        loss, right = contrast(made_BUP, wanted_BUP, units_B, self.settings.distractors, self.settings.temperature)
        found = spread(wanted_BUP, inside_BU)
        if self.training:
            self.passes += 1
            self._judge(found)
        return {
            "loss": loss, "accuracy": right, "target_variance": found.variance, "target_perplexity": found.perplexity,
            "seconds": lengths[:clips].sum() / self.mel.config.sample_rate,
        }  # fmt: skip

    def _judge(self, found: Spread) -> None:
        limits = self.collapse
        fallen = float(found.variance) < limits.min_variance or float(found.perplexity) < limits.min_perplexity
        if int(self.passes) <= limits.grace or not fallen:
            self.low.zero_()
        else:
            self.low += 1
        if self.world.any(int(self.low) >= limits.patience):
            raise CollapseError(
                f"the teacher has collapsed: for {limits.patience} passes its targets had a variance of "
                f"{float(found.variance):.2g} and spread over {float(found.perplexity):.1f} directions; the last "
                "checkpoint is untouched: lower run.learning_rate, raise contrast.max_shift or contrast.momentum"
            )
