"""Speak the sentences and keep what is to be learnt: units, text, and which characters are spoken when. No audio.

``text/aloud.jsonl`` to ``aloud/aloud-NNNNN.jsonl``: rows of ``{id, text, units, words}``, units packed into twelve bits
each. A shard is written whole or not at all, and one that is there is not made again, so an interrupted run goes on and
a training reads what there is meanwhile. Two processes make more of two cores than two threads do.

    python -m emova_data.nano.aloud.spoken --root data --jobs 2
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from emova.cli.main import Parser, run_program
from emova.core.writing import make_folder, write_text
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova_data.nano.aloud.alignment import spans
from emova_data.nano.speech.sets import SPEECH_RATE, read_lines
from emova_data.nano.speech.shard_maker import in_processes
from emova_data.records.packed_units import pack_units

SHARD = 500
UNIT_RATE = 25
NAME = "{name}-{number:05d}.jsonl"
LONGEST = 14.0
"""Seconds; longer speech is left out."""


class Sentence(TypedDict):
    """What is to be said."""

    id: str
    text: str


class Spoken(Sentence):
    """A sentence with its units, packed (``emova_data.records.packed_units``)."""

    units: str


class Aligned(Spoken):
    """A spoken sentence whose words are placed: first and last character, begin and end in units."""

    words: list[tuple[int, int, float, float]]


def make_rows(rows: Sequence[Sentence], tokenizer: SpeechTokenizer, seed: int) -> list[Aligned]:
    """The rows spoken by the canonical voice; those that cannot be aligned or are too long are left out.

    Args:
        rows: with ``id`` and ``text``.
    """
    import soxr
    import torch

    from emova.core.seeding import generator
    from emova_data.nano.voices.hibari_voice import FEMALE, render
    from emova_data.nano.voices.styles import Rendering

    made: list[Aligned] = []
    for row in rows:
        utterance = render(row["text"], FEMALE, Rendering(), generator("aloud", seed, row["text"]))
        words = spans(row["text"], utterance.alignment or [])
        if not words or utterance.seconds > LONGEST:
            continue
        samples = soxr.resample(utterance.samples, utterance.sample_rate, SPEECH_RATE)
        with torch.inference_mode():
            encoded = tokenizer.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        units = encoded[0].tolist()
        timed = [
            (word.first, word.last, round(word.start * UNIT_RATE, 1), round(word.end * UNIT_RATE, 1)) for word in words
        ]
        made.append({"id": row["id"], "text": row["text"], "units": pack_units(units), "words": timed})
    return made


_loaded: dict[str, SpeechTokenizer] = {}
Maker = Callable[[Sequence[Sentence], SpeechTokenizer, int], Sequence[Spoken]]
"""From rows with ``id`` and ``text``, a tokenizer and a seed to rows with units; a function of a module."""


Job = tuple[Path, Sequence[Sentence], str, int, Maker]
"""A shard's path and rows, the folder of a tokenizer, a seed, and what makes the rows."""


def _make_shard(job: Job) -> tuple[int, float]:
    path, rows, folder, seed, maker = job
    if folder not in _loaded:
        import torch

        from emova.checkpoint.registry import load_tokenizer

        torch.set_num_threads(1)
        _loaded[folder] = load_tokenizer(folder)
    made = maker(rows, _loaded[folder], seed)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    return len(made), sum(int(row["units"].partition(":")[0]) for row in made) / UNIT_RATE


def make_shards(
    rows: Sequence[Sentence], folder: Path, name: str, tokenizer: str, maker: Maker, *, jobs: int = 1,
    first: int = 0, last: int | None = None, seed: int = 0,
) -> int:  # fmt: skip
    """Make the shards of ``rows`` from number ``first`` up to ``last`` in ``folder``; how many were made now.

    Args:
        tokenizer: the folder of a speech tokenizer.
    """
    make_folder(folder)
    shards: list[Job] = [
        (folder / NAME.format(name=name, number=start // SHARD), rows[start : start + SHARD], tokenizer, seed, maker)
        for start in range(0, len(rows), SHARD)
    ][first:last]
    todo = [shard for shard in shards if not shard[0].is_file()]
    print(f"{name}: {len(shards)} shards, {len(todo)} to do", file=sys.stderr, flush=True)
    started, seconds = time.monotonic(), 0.0
    for done, (_, spoken) in enumerate(in_processes(_make_shard, todo, jobs), 1):
        seconds += spoken
        elapsed = time.monotonic() - started
        print(
            f"{name}: {done}/{len(todo)} shards, {seconds / 3600:.2f} h, {seconds / elapsed:.0f} x real time, "
            f"{elapsed / done * (len(todo) - done):.0f} s left",
            file=sys.stderr,
            flush=True,
        )
    return len(todo)


def to_say(path: Path) -> list[Sentence]:
    """The sentences of a JSON Lines file. Raises: InputError: it is missing."""
    return [{"id": row["id"], "text": row["text"]} for row in read_lines(path)]


def make(root: Path, tokenizer: str, *, jobs: int = 1, first: int = 0, last: int | None = None, seed: int = 0) -> int:
    """Make the shards of ``text/aloud.jsonl`` below ``root``; how many were made now."""
    nano = root / "nano"
    rows = to_say(nano / "text" / "aloud.jsonl")
    return make_shards(
        rows, nano / "aloud", "aloud", tokenizer, make_rows, jobs=jobs, first=first, last=last, seed=seed
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the programs that make shards take."""
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--tokenizer", default="emova/checkpoints/emova-nano/speech_tokenizer")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int)
    parser.add_argument("--seed", type=int, default=0)


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.aloud.spoken", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    make(arguments.root, arguments.tokenizer, jobs=arguments.jobs, first=arguments.first, last=arguments.last,
         seed=arguments.seed)  # fmt: skip


if __name__ == "__main__":
    run_program(main)
