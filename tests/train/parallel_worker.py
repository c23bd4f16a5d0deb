"""One of several processes that train a tiny model together; ``tests/train/test_parallel.py`` starts them.

python -m tests.train.parallel_worker JOB.json, with RANK, WORLD_SIZE and the like in the environment. A job is a list
of runs: a RunConfig's fields, and ``stop_at``, a forward pass at which the last process gets SIGTERM; ``poison``, one
at which its loss is not a number; ``split``, which gives each process one modality; ``noise``, which drops blocks of
the vision tower at random.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emova.core.compat  # noqa: F401
from emova.core.config import config_from_dict
from emova.model import EmovaConfig, EmovaForConditionalGeneration, TokenIds
from emova.vision.c_abstractor import CAbstractorConfig
from emova.vision.internvit import InternViTConfig
from emova.vision.towers import VisionConfig
from emova_train.core.config import RunConfig
from emova_train.core.loop import fit
from emova_train.data.examples import NOTHING, PROMPT_UNITS, TEXT, TRANSCRIPT, UNITS, Example
from emova_train.data.packing import collate
from emova_train.distributed import world as parallel
from emova_train.stages.attention import PACKED_ATTENTION
from emova_train.stages.losses.ctc import CTC, CTCConfig
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.program import StageModule

TEXTS, UNITS_COUNT = 40, 16
IMAGE = TEXTS + 5
LOSSES = [CTC(CTCConfig(weight=0.5, layer=1))]
TILE, SIDE = 28, 2


def token_ids() -> TokenIds:
    """A vocabulary of 40 texts, the control tokens and 16 units."""
    names = TokenIds.__dataclass_fields__
    special = [name for name in names if name not in ("first_unit", "codebook_size")]
    values: dict[str, Any] = {name: TEXTS + at for at, name in enumerate(special)}
    return TokenIds(**values, first_unit=TEXTS + len(special), codebook_size=UNITS_COUNT)


def tiny_model(noise: bool) -> EmovaForConditionalGeneration:
    from transformers import LlamaConfig

    ids = token_ids()
    text = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    tower = InternViTConfig(
        image_size=TILE, patch_size=7, width=16, depth=2, heads=2, ffn_width=16, drop_path=0.3 * noise
    )
    projector = CAbstractorConfig(16, 16, 16, input_side=4, output_side=SIDE, depth=1)
    count = ids.first_unit + ids.codebook_size
    config = EmovaConfig.from_parts(text, VisionConfig(internvit=tower), projector, ids, count, always_run_vision=True)
    torch.manual_seed(0)
    model = EmovaForConditionalGeneration(config)
    model.set_attn_implementation(PACKED_ATTENTION)
    return model


class Pieces:
    """Samples with pictures and samples with speech; ``split`` gives every process but one kind."""

    def __init__(self, split: bool) -> None:
        self.split = split
        self.ids = token_ids()

    def __len__(self) -> int:
        return 24

    def sample(self, index: int, epoch: int) -> list[Example]:
        kind = int(os.environ["RANK"]) if self.split else index
        rng = np.random.default_rng([index, epoch])
        text = rng.integers(TEXTS, size=int(rng.integers(4, 12)))
        if kind % 2:
            ids = np.concatenate([[self.ids.image_start], [self.ids.image] * SIDE**2, [self.ids.image_end], text])
            kinds = np.where(np.arange(len(ids)) < SIDE**2 + 2, -1, TEXT).astype(np.int8)
            pixels = torch.from_numpy(rng.normal(size=(1, 3, TILE, TILE)).astype(np.float32))
            return [Example(ids, kinds, pixels, ((1, 1),), "picture")]
        heard, said = (self.ids.first_unit + rng.integers(UNITS_COUNT, size=size) for size in (24, 6))
        parts = ((heard, PROMPT_UNITS), ([self.ids.speech_end], NOTHING), (text, TRANSCRIPT), (said, UNITS))
        kinds = np.repeat([kind for _, kind in parts], [len(ids) for ids, _ in parts]).astype(np.int8)
        return [Example(np.concatenate([ids for ids, _ in parts]), kinds, None, (), "speech")]

    def __getitem__(self, index: int) -> list[Example]:
        return self.sample(index, 0)


class Stopping(StageModule):
    """Sends its process SIGTERM in the middle of a step, or spoils the step's loss."""

    def __init__(self, model: EmovaForConditionalGeneration, stop_at: int, poison: int) -> None:
        super().__init__(model, LOSSES)
        self.stop_at, self.poison, self.calls = stop_at, poison, 0

    def forward(self, **batch: torch.Tensor) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        terms = super().forward(**batch)
        if self.calls == self.poison:
            terms["loss"] = terms["loss"] * float("nan")
        return terms


def train(job: dict[str, Any]) -> None:
    stop_at, poison, split, noise = (job.pop(name, 0) for name in ("stop_at", "poison", "split", "noise"))
    run = config_from_dict(RunConfig, job, "job")
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    try:
        fit(
            Stopping(tiny_model(bool(noise)), stop_at if last else 0, poison if last else 0),
            Pieces(bool(split)),  # type: ignore[arg-type]
            lambda packs: collate(packs, LossWeights(), LOSSES),
            run,
        )
    except SystemExit as stopped:
        assert stop_at and stopped.code == 128 + signal.SIGTERM
    else:
        assert not stop_at, "the signal was lost"


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        train(job)
    parallel.stop()


if __name__ == "__main__":
    main()
