"""Average a model's weights from before and after a training: ``emova train average BEFORE AFTER --out FOLDER``.

What a short training on something new has worn away of the old comes back half-way, and most of what is new stays, as
long as both lie in one valley of the loss (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv
2109.01903). Only the language model is averaged: vision parts may be others than before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import emova.core.compat  # noqa: F401

# isort: split
import torch

from emova.core.errors import InputError
from emova.core.weights import read_state
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.core.program import run_module

AVERAGED = ("model.language_model.", "lm_head.")


def average(before: Path, after: Path, out: Path, share: float = 0.5) -> None:
    """Write ``after`` with the language model's weights moved towards those of ``before``.

    Args:
        before, after: exports of stages, or checkpoints.
        out: the folder to write.
        share: of ``after``; 1 leaves it as it is.

    Raises:
        InputError: a folder holds no model, the language models have other shapes, or the share is none.
    """
    if not 0 <= share <= 1:
        raise InputError(f"--share {share:g}: give a number from 0 to 1")
    for folder in (before, after):
        if not (folder / "model.safetensors").is_file():
            raise InputError(f"{folder}: no model.safetensors there; give a stage's export or a checkpoint")
    model = EmovaForConditionalGeneration.from_pretrained(after, dtype=torch.float32, local_files_only=True)
    old = read_state(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(AVERAGED):
                continue
            if name not in old or old[name].shape != parameter.shape:
                raise InputError(f"{before}: its language model has another shape than that of {after}")
            parameter.lerp_(old[name], 1 - share)
    model.save_pretrained(out)
    EmovaProcessor.from_pretrained(after, local_files_only=True).save_pretrained(out)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train average``."""
    parser.add_argument("before", type=Path, help="the model before the training")
    parser.add_argument("after", type=Path, help="the model after it, whose vision parts and files are kept")
    parser.add_argument("--share", type=float, default=0.5, help="of the model after (default: 0.5)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    average(arguments.before, arguments.after, arguments.out, arguments.share)
    print(arguments.out)
    return 0


def main() -> int:
    return run_module(register, "emova_train.export.average", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
