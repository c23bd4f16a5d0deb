"""Train a text-to-token model: ``emova train text-to-token nano key=value ...``.

A language model of text goes on with pairs of a text and its speech's units, and learns to write the units; no sound is
made on the way (GLM-4-Voice §4.1; Zeng et al. 2024). It is trained as a stage is, with the same packs, checkpoints and
strategies, and its export is what ``emova data synthesise interleaved model=`` turns texts to interleaved data with.
"""

from __future__ import annotations

import argparse
import sys

from emova.core.config import load_config
from emova_train.core.loop import FitResult
from emova_train.core.program import add_config, run_module, run_training
from emova_train.stages.program import train as train_stage
from emova_train.text_to_token.config import TextToTokenConfig


def train(config: TextToTokenConfig) -> FitResult:
    """Run the training; the model is exported to ``run.output_dir``/export. Raises: InputError."""
    return train_stage(config.stage())


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train text-to-token``."""
    add_config(parser, "nano")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(TextToTokenConfig, arguments.config, arguments.overrides, kind="text_to_token")
    return run_training(train, config, config.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.text_to_token.program", "Train a text-to-token model.")


if __name__ == "__main__":
    sys.exit(main())
