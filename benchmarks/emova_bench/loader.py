"""How fast converted sets are read and packed, against how fast emova-nano trains on them.

    emova bench loader --seconds 10 --workers 0
    emova bench loader --sets data/sets --mixture librispeech=1 allava-caption=1

Without ``--sets`` it makes sets of its own, of the shapes that nano trains on: a picture question to a hundred tokens,
speech of a few seconds with its transcript, and talk. The consumption is a training step of nano's stage 2 measured in
the same run, on the same number of threads.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.writing import make_folder, write_text

GOAL = 5.0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = Parser(prog="emova bench loader", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--sets", type=Path, help="folder of converted sets (default: made here)")
    made.add_argument("--mixture", nargs="*", default=[], metavar="NAME=PASSES", help="sets of that folder")
    made.add_argument("--checkpoint", default="emova-nano", help="whose processor renders and whose model consumes")
    made.add_argument("--seconds", type=float, default=10.0, help="how long is read (default: 10)")
    made.add_argument("--steps", type=int, default=3, help="training steps that are measured; 0 measures none")
    made.add_argument("--workers", type=int, default=0, help="reading processes (default: 0, the training process)")
    made.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1)")
    made.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of loader.json")
    return made


def make_sets(root: Path, records: int = 240) -> dict[str, float]:
    """Sets of pictures, speech and talk under ``root``; their passes."""
    from PIL import Image

    from emova_data.records.records import Draft, Media, Part, Record, message, text
    from emova_data.sources.convert import ConvertConfig, convert

    words = ("the quick brown fox jumps over the lazy dog while a small bird sings in the old garden " * 3).split()

    def said(rng: np.random.Generator, count: int) -> str:
        return " ".join(rng.choice(words, count)).capitalize() + "."

    def picture(number: int) -> Record:
        rng = np.random.default_rng([1, number])
        pixels = np.kron(rng.integers(0, 255, (28, 28, 3)), np.ones((8, 8, 1)))
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        asked = message("user", {"type": "image", "image": "0.png"}, text(said(rng, 8)))
        answer = message("assistant", text(said(rng, 12)))
        return Record(f"p{number}", [asked, answer], (Media("0.png", buffer.getvalue()),))

    def speech(number: int) -> Record:
        rng = np.random.default_rng([2, number])
        units = rng.integers(0, 4096, int(rng.integers(40, 160))).tolist()
        heard: Part = {"type": "audio", "audio": "flac", "units": units}
        words_said = said(rng, 10)
        turns = [message("user", heard), message("assistant", text(words_said))]
        return Record(f"s{number}", turns, (), {"task": "speech", "text": words_said})

    def talk(number: int) -> Record:
        rng = np.random.default_rng([3, number])
        return Record(f"t{number}", [message("user", text(said(rng, 12))), message("assistant", text(said(rng, 30)))])

    makers = {"pictures": picture, "speech": speech, "talk": talk}
    for name, make in makers.items():
        drafts = [Draft(str(number), partial(make, number)) for number in range(records)]
        convert(drafts, root / name, name, suffix=".jsonl" if name == "talk" else ".tar", config=ConvertConfig(40))
    return {"pictures": 1.0, "speech": 1.0, "talk": 0.4}


def consumption(checkpoint: Path, batches: Sequence[Mapping[str, torch.Tensor]]) -> float:
    """Tokens a second of forward and backward passes over ``batches``, in the precision that stage 2 trains with."""
    from emova.model import EmovaForConditionalGeneration
    from emova_train.core.precision import autocast
    from emova_train.stages.attention import PACKED_ATTENTION
    from emova_train.stages.config import RatesConfig
    from emova_train.stages.losses.packed import packed_loss
    from emova_train.stages.start import freeze

    model = EmovaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    freeze(model.train(), RatesConfig(llm=1e-4, projector=1e-4, vision=1e-4, vision_share=0.5))
    model.set_attn_implementation(PACKED_ATTENTION)
    tokens, started = 0, 0.0
    for number, batch in enumerate(batches):
        if number == 1:  # the first warms up
            tokens, started = 0, time.perf_counter()
        with autocast():
            loss = packed_loss(model, batch)["loss"]
        loss.backward()
        model.zero_grad(set_to_none=True)
        tokens += batch["input_ids"].shape[1]
    return tokens / (time.perf_counter() - started)


def measure(options: argparse.Namespace, root: Path, passes: dict[str, float]) -> dict[str, float]:
    """Read for a while, train a little, and compare. Raises: InputError."""
    from emova.checkpoint.loading import find_checkpoint
    from emova.model import EmovaProcessor
    from emova_train.data.pack_reader import ShardConfig
    from emova_train.data.packing import collate
    from emova_train.data.records import RecordConfig, RecordRenderer
    from emova_train.data.shards import find_mixture
    from emova_train.data.stream import ShardLoader
    from emova_train.stages.losses.tokens import LossWeights

    folder = find_checkpoint(options.checkpoint)
    processor = EmovaProcessor.from_pretrained(folder, local_files_only=True)
    loader = ShardLoader(
        find_mixture(root, passes),
        lambda: RecordRenderer(processor, RecordConfig(), seed=0, max_tokens=1024),
        ShardConfig(root=str(root)),
        lambda packs: collate(packs, LossWeights(prompt_share=0.2)),
        pack_tokens=1024, batch_size=2, seed=0, total=10**9, output=options.output, workers=options.workers,
    )  # fmt: skip
    batches = iter(loader)
    first = [next(batches) for _ in range(max(options.steps + 1, 2))]
    tokens = samples = 0
    fills = []
    processor_time, started = time.process_time(), time.perf_counter()
    while (seconds := time.perf_counter() - started) < options.seconds:
        batch = next(batches)
        tokens += batch["input_ids"].shape[1]
        samples += len(batch["cu_seq_lens"]) - 1
        fills.append(batch["input_ids"].shape[1] / 2048)
    busy = time.process_time() - processor_time
    found = {
        "read tokens/s": tokens / seconds,
        "read samples/s": samples / seconds,
        "packs filled": float(np.mean(fills)),
    }
    if not options.workers:  # CPU time says it on a machine that does other things, too
        found["read tokens/CPU s"] = tokens / busy
    del batches
    if options.steps:
        found["trained tokens/s"] = consumption(folder, first[: options.steps + 1])
        found["ratio"] = found["read tokens/s"] / found["trained tokens/s"]
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Measure, print, and write ``loader.json``. Raises: InputError."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    make_folder(options.output)  # before the long work
    with tempfile.TemporaryDirectory() as made:
        root = options.sets or Path(made)
        try:
            passes = {name: float(times) for name, _, times in (each.partition("=") for each in options.mixture)}
        except ValueError:
            raise InputError("--mixture: give NAME=PASSES, such as librispeech=1") from None
        if options.sets and not passes:
            raise InputError("--sets needs --mixture NAME=PASSES ...")
        found = measure(options, root, passes if options.sets else make_sets(root))
    for name, value in found.items():
        print(f"{name}: {value:.4g}" + (f" (goal {GOAL:g})" if name == "ratio" else ""))
    facts = {"benchmark": "loader", "workers": options.workers, "threads": options.threads, **found}
    write_text(options.output / "loader.json", json.dumps(facts, indent=1) + "\n")
    return found


if __name__ == "__main__":
    run_program(main)
