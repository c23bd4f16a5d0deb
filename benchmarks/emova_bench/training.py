"""A step of training, as ``emova train`` takes it, against a plain PyTorch loop on the same model, batches and
precision: a stage of the language model, in rows of equal length and in rows of mixed ones (the plain loop pads them,
ours packs them), and the codec's voice. What the tokens are has no influence and is drawn at random."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.checkpoint.loading import find_checkpoint
from emova.cli.main import run_program
from emova.model import EmovaForConditionalGeneration
from emova_bench.common import arguments, median, parse, report
from emova_train.core.config import RunConfig
from emova_train.core.loop import fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.precision import autocast
from emova_train.core.protocols import Batch, ParameterGroups
from emova_train.data.examples import ANSWER, NOTHING, Example
from emova_train.data.packing import collate
from emova_train.stages.attention import PACKED_ATTENTION
from emova_train.stages.config import RatesConfig
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.program import StageModule
from emova_train.stages.start import freeze

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IGNORED = -100
Step = Callable[[], float]


class Timed(nn.Module):
    """A part that is trained, and when each of its passes began."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.began: list[float] = []
        self.unused_parameters = bool(getattr(module, "unused_parameters", False))
        weight = getattr(module, "loss_weight", None)
        if weight is not None:
            self.loss_weight = weight

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        self.began.append(time.perf_counter())
        made: dict[str, Tensor] = self.module(**batch)
        return made


def by_fit(module: nn.Module, batches: Sequence[Batch], groups: ParameterGroups | None) -> list[float]:
    """Seconds of each step but the first and the last, as ``emova train`` takes them."""
    timed = Timed(module)
    with tempfile.TemporaryDirectory() as folder:
        run = RunConfig(
            output_dir=folder, max_steps=len(batches), batch_size=1, learning_rate=1e-5, save_every=10**6,
            eval_every=10**6, log_every=10**6, resume=False,
        )  # fmt: skip
        fit(timed, batches, lambda samples: samples[0], run, parameter_groups=groups)
    return np.diff(timed.began)[1:].tolist()


def by_hand(
    module: nn.Module, batches: Sequence[Batch], loss_of: Callable[[Batch], Tensor], groups: ParameterGroups | None
) -> list[float]:
    """The same by a plain loop: forward, backward, clipping, AdamW."""
    own = groups(module) if groups else decay_groups(module, 0.01)
    optimizer = torch.optim.AdamW([{k: v for k, v in g.items() if k != "max_grad_norm"} for g in own], lr=1e-5)
    began = []
    for batch in batches:
        began.append(time.perf_counter())
        with autocast():
            loss = loss_of(batch)
        loss.backward()
        for group in own if groups else [{"params": list(module.parameters())}]:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return np.diff(began)[1:].tolist()


def examples(rng: np.random.Generator, lengths: Sequence[int], vocabulary: int) -> list[Example]:
    """Conversations of these lengths, of which the second half is learnt."""
    made = []
    for length in lengths:
        kinds = np.full(length, NOTHING, dtype=np.int8)
        kinds[length // 2 :] = ANSWER
        made.append(Example(rng.integers(0, vocabulary, length), kinds, None, (), "drawn"))
    return made


def padded(rows: Sequence[Example]) -> dict[str, Tensor]:
    """The rows as a plain loop takes them: filled up to the longest."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        tokens = torch.from_numpy(row.ids)
        ids[index, : len(row)], mask[index, : len(row)] = tokens, 1
        labels[index, : len(row)] = torch.where(torch.from_numpy(row.kinds) >= 0, tokens, IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def stage(checkpoint: Path, rows: Sequence[Sequence[Example]]) -> tuple[list[float], list[float]]:
    """Seconds of a plain step and of ours over the same conversations."""

    def model(attention: str) -> EmovaForConditionalGeneration:
        made = EmovaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        freeze(made.train(), RatesConfig(llm=1e-5))
        made.set_attn_implementation(attention)
        return made

    plain = model("sdpa")

    def loss_of(batch: Batch) -> Tensor:
        logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    theirs = by_hand(plain, [padded(each) for each in rows], loss_of, None)
    weights = LossWeights()
    ours = by_fit(StageModule(model(PACKED_ATTENTION)), [collate([each], weights) for each in rows], None)
    return theirs, ours


def codec(rng: np.random.Generator, steps: int, rows: int) -> tuple[list[float], list[float]]:
    """Seconds of a step of the voice's training, adversarial from the start, by a plain loop and by ours."""
    from emova_train.u2s.config import U2SRecipe
    from emova_train.u2s.data import FRAMES_PER_UNIT, UNIT_SAMPLES, cut
    from emova_train.u2s.data import collate as stacked
    from emova_train.u2s.program import U2STraining, parameter_groups

    recipe = U2SRecipe()
    recipe = type(recipe)(**{**vars(recipe), "losses": type(recipe.losses)(adversarial_start=0)})
    count = recipe.data.window_units

    def window() -> dict[str, Tensor]:
        samples = rng.normal(0, 0.1, count * UNIT_SAMPLES).astype(np.float32)
        units = rng.integers(0, recipe.model.vits.units.codebook_size, count)
        f0 = np.full(count * FRAMES_PER_UNIT, 180.0, dtype=np.float32)
        return cut(recipe.data, 0, units, count, samples, f0, samples[: 50 * UNIT_SAMPLES])

    batches = [stacked([window() for _ in range(rows)]) for _ in range(steps)]

    def groups_of(module: nn.Module) -> list[dict[str, object]]:
        inner = module.module if isinstance(module, Timed) else module
        assert isinstance(inner, U2STraining)
        return parameter_groups(recipe, inner)

    plain = U2STraining(recipe).train()
    return by_hand(plain, batches, lambda batch: plain(**batch)["loss"], groups_of), by_fit(
        U2STraining(recipe), batches, groups_of
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("training", __doc__ or "")
    parser.add_argument("--steps", type=int, default=8, help="of each loop in a round")
    parser.add_argument("--tokens", type=int, default=1024, help="of a row of the stage")
    parser.add_argument("--windows", type=int, default=4, help="of speech in a batch of the codec")
    options = parse(parser, given, steps=4, tokens=64, windows=1)
    checkpoint, rng = find_checkpoint(options.checkpoint), np.random.default_rng(0)
    vocabulary = 256
    taken: dict[str, tuple[list[float], list[float]]] = {}
    sizes: dict[str, float] = {}

    def measure(name: str, tokens: float, seconds: Callable[[], tuple[list[float], list[float]]]) -> None:
        theirs, ours = taken.setdefault(name, ([], []))
        plain, own = seconds()
        theirs += plain
        ours += own
        sizes[name] = tokens

    count = max(1, options.tokens // 128)
    equal = [examples(rng, [options.tokens // count] * count, vocabulary) for _ in range(options.steps)]
    # As conversations are: many short ones, a few long ones.
    drawn = np.clip(rng.lognormal(0.0, 0.8, count), 0.1, 6.0)
    lengths = np.maximum(4, drawn / drawn.sum() * options.tokens).astype(int).tolist()
    mixed = [examples(rng, lengths, vocabulary) for _ in range(options.steps)]
    for _ in range(options.repeats):
        measure("stage, equal lengths", sum(map(len, equal[0])), lambda: stage(checkpoint, equal))
        measure("stage, mixed lengths, packed", sum(map(len, mixed[0])), lambda: stage(checkpoint, mixed))
        measure("codec: units to speech", options.windows, lambda: codec(rng, options.steps, options.windows))
    goals: Mapping[str, float] = {"stage, mixed lengths, packed": 1.5}
    rows = [
        {
            "step": name,
            "of": sizes[name],
            "plain loop, s": median(theirs),
            "ours, s": median(ours),
            "x plain loop": median(theirs) / median(ours),
            "goal": goals.get(name, 1.0),
        }
        for name, (theirs, ours) in taken.items()
    ]

    def draw(axes: Axes) -> None:
        axes.barh(list(taken), [median(theirs) / median(ours) for theirs, ours in taken.values()])
        axes.axvline(1, linestyle=":", color="black")
        axes.set_xlabel("x as fast as a plain loop")

    filled = sum(lengths) / (len(lengths) * max(lengths))
    report("training", options, rows, draw, precision=str(autocast().fast_dtype), filled_when_padded=filled)


if __name__ == "__main__":
    run_program(main)
