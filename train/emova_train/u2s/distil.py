"""Teach a detokenizer other speakers' units, from itself: ``emova train distil-units nano_distil``.

A detokenizer that was trained on the units of its canonical voice speaks those of unseen speakers worse: another voice,
or a tokenizer trained further, gives other units for the same words. Here its unit encoder learns that they mean the
same. The teacher is the detokenizer as it was, which hears the canonical voice's units in the tokenizer that it knows;
the student hears the same sentence as the new tokenizer hears it, in that voice, through rooms and noise, and in other
voices, and shall give the same prior. Flow, pitch and waveform head stay as they are, and with them the sound; no
recording's waveform is needed, so a step is cheap.

Another voice's sentence is as long as it is. Its units are laid along the canonical ones by dynamic time warping over
the tokenizer's phone posteriors (posteriorgram templates: Hazen et al. 2009). That is right to a unit or so; so the
student may be as much early or late, or it would learn to blur whatever moves.

Shapes: B sentences, U units, V units of another voice, N labels a unit, P phone classes, S style channels, F frames,
L lags, Z latent and C hidden channels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.speech.detokenizer.u2s import U2SDetokenizer
from emova.speech.detokenizer.unit_encoder import UnitEncoder
from emova.speech.style import StylePrototypes
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, print_result, run_module
from emova_train.data.recipe import UnitRow, read_rows
from emova_train.s2u.alignment import warp
from emova_train.u2s.data import shake_digits


@dataclass(frozen=True)
class UnitDistilConfig:
    """Everything a run needs; paths are relative to the working directory.

    Args:
        teacher: folder of the detokenizer as it was.
        start_from: where the student starts: an earlier run's export; empty for the teacher.
        styles: folder or file of its style prototypes.
        tokenizer_before: the tokenizer whose units the teacher knows.
        tokenizer: the one whose units shall be understood. Both phone decoders together lay voices along each other.
        wanted: units (files of ``emova train units``) of the canonical voice by ``tokenizer_before``.
        heard: units of some of these sentences by ``tokenizer``, the canonical voice's and others'.
        canonical: the voice whose units the teacher speaks.
        own: share of the sentences that the student hears in the teacher's units, so that it keeps them.
        digit_noise: share of a heard unit's digits that move to a neighbouring level.
        held_out: share of the sentences that are kept for validation.
        hidden: weight of the hidden frames, from which the pitch is predicted.
        lag: frames by which what is laid along may be early or late.
        smooth: frames over which that lag is chosen.
    """

    teacher: str = ""
    start_from: str = ""
    styles: str = ""
    tokenizer_before: str = ""
    tokenizer: str = ""
    wanted: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    canonical: str = "hibari/female"
    own: float = 0.25
    digit_noise: float = 0.02
    levels: tuple[int, ...] = (8, 8, 8, 8)
    held_out: float = 0.03
    hidden: float = 1.0
    lag: int = 4
    smooth: int = 13
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/u2s-distil", batch_size=32))


@dataclass(frozen=True)
class Sentence:
    """The teacher's units ``[U]`` of a sentence, and what the student may hear instead, by kind, each ``[U]``; those of
    the kinds in ``laid`` were laid along it."""

    wanted: np.ndarray
    heard: dict[str, list[np.ndarray]]
    laid: set[str]


def read_units(path: str) -> list[UnitRow]:
    """The rows of a file of units. Raises: InputError: it is missing or not such a file."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no units there; make them with `emova train units`")
    return list(read_rows(Path(path), UnitRow))


@torch.inference_mode()
def phone_table(tokenizer: S2UTokenizer) -> np.ndarray:
    """The phone posteriors that each unit stands for by itself: ``[codebook, N * P]``, of unit length."""
    codes_UC = tokenizer.quantizer.codes(torch.arange(tokenizer.codebook_size))
    frame_NP = tokenizer.phone_decoder(codes_UC[:, None]).frame  # each unit a sentence of its own
    flat = frame_NP.float().softmax(-1).flatten(1)
    return nn.functional.normalize(flat, dim=-1).numpy()


def sentences(config: UnitDistilConfig) -> list[Sentence]:
    """All sentences that the canonical voice said, with every unit sequence that stands for them.

    Raises:
        InputError: a file is missing, or none of its sentences is known.
    """
    before, after = (
        phone_table(S2UTokenizer.from_pretrained(folder)) for folder in (config.tokenizer_before, config.tokenizer)
    )
    by_teacher = [row for path in config.wanted for row in read_units(path) if row["voice"] == config.canonical]
    found = {row["text"]: Sentence(np.array(row["units"]), {}, set()) for row in by_teacher if row["units"]}
    for path in config.heard:
        rows = [row for row in read_units(path) if row["text"] in found and row["units"]]
        if not rows:
            raise InputError(f"{path}: none of its sentences is in {', '.join(config.wanted)}; give units of both")
        name = Path(path).stem
        for row in track(rows, description=f"laying {name} along", disable=not sys.stderr.isatty()):
            sentence, units = found[row["text"]], np.array(row["units"])
            own = row["voice"] == config.canonical
            kind = f"{name}_{'own' if own else row['voice'].split('/')[0]}"
            if len(units) != len(sentence.wanted) or not own:
                units = units[warp(1.0 - before[sentence.wanted] @ after[units].T)]
                sentence.laid.add(kind)
            sentence.heard.setdefault(kind, []).append(units)
    return [sentence for sentence in found.values() if sentence.heard]


class UnitPairs(Dataset[dict[str, Tensor]]):
    """A sentence, one of the ways it is heard, and one of the 24 styles; ``kind`` keeps to one of the ways."""

    def __init__(
        self, items: Sequence[Sentence], styles: StylePrototypes, config: UnitDistilConfig, kind: str = ""
    ) -> None:
        self.items = [item for item in items if not kind or kind in item.heard]
        self.styles = torch.stack([styles[style] for style in styles.styles])
        self.config, self.kind = config, kind
        self.lengths = [len(item.wanted) for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Drawn from numpy's global generator, which the training loop seeds for each batch."""
        item, config = self.items[index], self.config
        kinds = [self.kind] if self.kind else list(item.heard)
        kind = kinds[np.random.randint(len(kinds))]
        if not self.kind and np.random.random() < config.own:
            kind, heard = "", item.wanted
        else:
            heard = item.heard[kind][np.random.randint(len(item.heard[kind]))]
        if not self.kind:
            heard = shake_digits(heard, config.levels, config.digit_noise * np.random.random() * 2)
        style = index % len(self.styles) if self.kind else np.random.randint(len(self.styles))
        return {
            "wanted": torch.from_numpy(item.wanted),
            "heard": torch.from_numpy(heard),
            "style": self.styles[style],
            "laid": torch.tensor(kind in item.laid),
        }


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows padded to the longest, with a mask of their units."""
    lengths_B = torch.tensor([len(sample["wanted"]) for sample in samples])
    padded = {
        name: nn.utils.rnn.pad_sequence([sample[name] for sample in samples], batch_first=True)
        for name in ("wanted", "heard")
    }
    places_U = torch.arange(padded["wanted"].shape[1])
    mask_B1U = (places_U[None] < lengths_B[:, None]).float()[:, None]
    stacked = {name: torch.stack([sample[name] for sample in samples]) for name in ("style", "laid")}
    return {**padded, "mask": mask_B1U, **stacked}


class UnitDistillation(nn.Module):
    """The detokenizer, whose unit encoder learns, and the unit encoder of the teacher."""

    def __init__(self, detokenizer: U2SDetokenizer, teacher: UnitEncoder, config: UnitDistilConfig) -> None:
        super().__init__()
        self.hidden_weight, self.lag, self.smooth = config.hidden, config.lag, config.smooth
        self.detokenizer = detokenizer
        self.teacher = [teacher.eval().requires_grad_(False)]  # in a list: it is not learnt or saved
        detokenizer.requires_grad_(False)
        detokenizer.vits.unit_encoder.requires_grad_(True)

    def forward(self, wanted: Tensor, heard: Tensor, mask: Tensor, style: Tensor, laid: Tensor) -> dict[str, Tensor]:
        """How far the student's prior and its hidden frames are from the teacher's, against their size."""
        teacher, student = self.teacher[0].to(wanted.device), self.detokenizer.vits.unit_encoder
        with torch.no_grad():
            hidden_BCF, mean_BZF, log_scale_BZF = teacher(wanted, style, mask)
        made_BCF, made_BZF, made_log_scale_BZF = student(heard, style, mask)
        inside_BF = mask.squeeze(1).repeat_interleave(student.frames_per_unit, dim=-1)
        weight_BZF = (-2 * log_scale_BZF).exp()
        prior_LBF = self._gaps(made_BZF, mean_BZF, weight_BZF, inside_BF)
        hidden_LBF = self._gaps(made_BCF, hidden_BCF, torch.ones_like(hidden_BCF), inside_BF)
        spread_BF = (made_log_scale_BZF - log_scale_BZF).square().mean(dim=1)
        best_1BF = self._lags((prior_LBF + self.hidden_weight * hidden_LBF).detach(), laid)
        count = inside_BF.sum()
        terms = {
            "prior": (prior_LBF.gather(0, best_1BF)[0] * inside_BF).sum() / count,
            "hidden": (hidden_LBF.gather(0, best_1BF)[0] * inside_BF).sum() / count,
            "spread": (spread_BF * inside_BF).sum() / count,
        }
        loss = terms["prior"] + terms["spread"] + self.hidden_weight * terms["hidden"]
        return {"loss": loss, **terms, "samples": torch.tensor(float(len(wanted)))}

    def _gaps(self, made_BCF: Tensor, wanted_BCF: Tensor, weight_BCF: Tensor, inside_BF: Tensor) -> Tensor:
        """``[L, B, F]``: the weighted square of the difference to the teacher's frame at each lag, against the mean
        square of all frames; where the teacher has no such frame, to the one at no lag."""
        size = ((wanted_BCF.square() * weight_BCF).mean(dim=1) * inside_BF).sum() / inside_BF.sum()

        places_F = torch.arange(inside_BF.shape[1], device=inside_BF.device)

        def gap(lag: int) -> Tensor:
            there_BF = (places_F + lag).clamp(0, len(places_F) - 1).expand_as(inside_BF)
            known_BF = (there_BF == places_F + lag) & (inside_BF.gather(1, there_BF) > 0)
            at_BCF = torch.where(known_BF, there_BF, places_F)[:, None].expand_as(wanted_BCF)
            difference_BCF = made_BCF - wanted_BCF.gather(2, at_BCF)
            return (difference_BCF.square() * weight_BCF.gather(2, at_BCF)).mean(dim=1)

        return torch.stack([gap(lag) for lag in range(-self.lag, self.lag + 1)]) / size

    def _lags(self, gaps_LBF: Tensor, laid_B: Tensor) -> Tensor:
        """``[1, B, F]``: the index of the lag with the least gap around a frame; none where nothing was laid along."""
        around_LBF = nn.functional.avg_pool1d(gaps_LBF, self.smooth, 1, self.smooth // 2, count_include_pad=False)
        return torch.where(laid_B[:, None], around_LBF.argmin(dim=0), self.lag)[None]


def train(config: UnitDistilConfig) -> FitResult:
    """Run the training; the detokenizer goes to ``run.output_dir``/export at each validation and at the end.

    Raises:
        InputError: a file is missing or does not fit the others.
    """
    if not (config.teacher and config.tokenizer_before and config.tokenizer and config.wanted and config.heard):
        raise InputError(
            "teacher, tokenizer_before, tokenizer, wanted, heard: name them; see the shipped config u2s/nano_distil"
        )
    output = Path(config.run.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    torch.manual_seed(config.run.seed)
    styles = StylePrototypes.load(config.styles or config.teacher)
    items = sentences(config)
    count = max(1, round(config.held_out * len(items)))
    order = np.random.default_rng(config.run.seed).permutation(len(items))
    held_out = [items[int(index)] for index in order[:count]]
    learnt = [items[int(index)] for index in order[count:]]
    kinds = sorted({kind for item in items for kind in item.heard})
    print(f"{len(learnt)} sentences, {count} held out; heard as {', '.join(kinds)}", file=sys.stderr)
    teacher = U2SDetokenizer.from_pretrained(config.teacher)
    student = U2SDetokenizer.from_pretrained(config.start_from or config.teacher)
    if student.config != teacher.config:
        raise InputError(f"{config.start_from}: its sizes differ from those of {config.teacher}")
    module = UnitDistillation(student, teacher.vits.unit_encoder, config)

    def validate(model: nn.Module, step: int) -> dict[str, float]:
        """The distance by kind, before the average of all."""
        module.detokenizer.save_pretrained(output / "export")
        found = {}
        for kind in kinds:
            pairs = UnitPairs(held_out, styles, config, kind)
            if len(pairs):
                found[f"prior_{kind}"] = float(module(**collate([pairs[i] for i in range(len(pairs))]))["prior"])
        return found

    return fit(
        module, UnitPairs(learnt, styles, config), collate, config.run,
        eval_set=UnitPairs(held_out, styles, config),
        parameter_groups=lambda model: decay_groups(model, config.run.weight_decay), on_validate=validate,
    )  # fmt: skip


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train distil-units``."""
    add_config(parser, "nano_distil")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    result = train(load_config(UnitDistilConfig, arguments.config, arguments.overrides, kind="u2s"))
    print_result(result)
    return 0


def main() -> int:
    return run_module(register, "emova_train.u2s.distil", "Teach the detokenizer the units of other speakers.")


if __name__ == "__main__":
    sys.exit(main())
