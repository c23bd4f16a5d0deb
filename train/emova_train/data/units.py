"""Turn shards of speech into units: ``speech/{set}-*.tar`` to ``units/{set}.jsonl``.

Each shard's rows are kept in a file of their own under a digest of the tokenizer and the shard, so an interrupted run
goes on where it stopped and a changed tokenizer or shard is done again. Each process works with one thread: two
processes make more of two cores than two threads do.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from emova.checkpoint.loading import find_part
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.core.writing import make_folder, staged_output, write_text
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.units import units_of
from emova_data.records.recordings import Recording, read_recordings
from emova_train.core.program import run_module
from emova_train.core.renamed import AUGMENTED, find_shards, set_names
from emova_train.s2u.data import faster, other_vocal_tract, perturb

ItemT = TypeVar("ItemT")

MAX_SPEED = 0.13
NAMED = ".units.json"
"""What ends the file beside a set's units that says whose they are."""
_AUGMENTATION = b"rough: throats, rooms"  # names the kind in digests of what is there
ROW_FIELDS = ("text", "voice", "family", "gender", "emotion", "pitch", "set", "split", "ids")


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard."""

    part: Path
    clips: int
    seconds: float


def batches(clips: Sequence[Recording], max_samples: int) -> Iterator[list[Recording]]:
    """Clips of alike length together, at most ``max_samples`` with the padding (one clip at least)."""
    batch: list[Recording] = []
    for clip in sorted(clips, key=lambda each: len(each.samples)):
        if batch and len(clip.samples) * (len(batch) + 1) > max_samples:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def augmented_clips(clips: Sequence[Recording]) -> list[Recording]:
    """The clips as others might say them elsewhere: up to a seventh faster or slower (and higher or lower), from other
    vocal tracts, in rooms and noise, the same at each call: their units are like those of an unseen speaker."""
    made = []
    for number, clip in enumerate(clips):
        rng = generator("rough", clip.key)  # the seed's name decides the units: it stays
        samples = faster(clip.samples, np.exp(rng.uniform(-MAX_SPEED, MAX_SPEED)))
        samples = other_vocal_tract(samples, rng)
        babble = clips[number - 1].samples  # other speech, where there is any
        made.append(replace(clip, samples=perturb(samples, babble, rng)))
    return made


def tokenize_shard(
    tokenizer: SpeechTokenizer,
    shard: Path,
    part: Path,
    augmented: bool = False,
    voice: str = "",
    batch_seconds: float = 40.0,
) -> ShardResult:
    """Write the rows of ``shard`` to ``part``, whole or not at all, in the shard's order.

    Args:
        tokenizer: a SpeechTokenizer.
        augmented: tokenise ``augmented_clips`` of them.
        voice: only this voice's clips; empty takes all.

    Raises:
        InputError: the shard is damaged, or too many of its clips are.
    """
    import torch

    clips = [
        clip for clip in read_recordings(shard, tokenizer.sample_rate) if not voice or clip.record.get("voice") == voice
    ]
    if augmented:
        clips = augmented_clips(clips)
    units: dict[str, list[int]] = {}
    for batch in batches(clips, int(batch_seconds * tokenizer.sample_rate)):
        lengths = torch.tensor([len(clip.samples) for clip in batch])
        padded = torch.zeros(len(batch), int(lengths.max()))
        for row, clip in enumerate(batch):
            padded[row, : len(clip.samples)] = torch.from_numpy(clip.samples)
        encoded = tokenizer.encode(padded.to(tokenizer.device), lengths.to(tokenizer.device))
        for clip, row_units in zip(batch, encoded, strict=True):
            units[clip.key] = row_units.tolist()
    make_folder(part.parent)
    with staged_output(part) as file:
        for clip in clips:
            known: Mapping[str, object] = clip.record
            record = {name: known[name] for name in ROW_FIELDS if name in known}
            line = {"key": clip.key, "units": units[clip.key], **record}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    seconds = sum(len(clip.samples) for clip in clips) / tokenizer.sample_rate
    return ShardResult(part, len(clips), seconds)


def digest_of(tokenizer: Path, shard: Path, augmented: bool = False, voice: str = "") -> str:
    """A name for the pair of a tokenizer's files and a shard."""
    digest = hashlib.sha256((_AUGMENTATION if augmented else b"") + voice.encode())
    for name in ("config.json", "model.safetensors"):
        path = tokenizer / name
        if not path.is_file():
            raise InputError(f"{path}: missing; give the folder of a trained speech tokenizer")
        digest.update(path.read_bytes())
    side = shard.with_name(shard.name + ".json")  # the recipe's sidecar holds the shard's checksum
    digest.update(side.read_bytes() if side.is_file() else shard.read_bytes())
    return digest.hexdigest()[:16]


_loaded: dict[str, SpeechTokenizer] = {}


def _job(job: tuple[str, Path, Path, bool, str]) -> ShardResult:
    folder, shard, part, augmented, voice = job
    if folder not in _loaded:
        import torch

        from emova.checkpoint.registry import load_tokenizer

        torch.set_num_threads(1)
        _loaded[folder] = load_tokenizer(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    return tokenize_shard(_loaded[folder], shard, part, augmented, voice)


def tokenize_set(
    tokenizer: Path, data: Path, name: str, jobs: int, splits: Sequence[str] = (), folder: str = "units",
    augmented: bool = False, voice: str = "", most: int = 0,
) -> Path:  # fmt: skip
    """Tokenise a set's shards and join them to ``{folder}/{name}.jsonl`` (``{name}_augmented.jsonl`` where they are
    augmented), of one ``voice`` or of all; returns that file.

    Args:
        most: shards of a split at most, spread over all there are; 0 takes all.

    Raises:
        InputError: there are no shards, or one is damaged.
    """
    shards = [Path(path) for path in find_shards(f"{data / 'speech'}/{name}-*-[0-9]*.tar")]
    shards = [shard for shard in shards if not splits or shard.name.split("-")[1] in splits]
    if most:
        by_split: dict[str, list[Path]] = {}
        for shard in shards:
            by_split.setdefault(shard.name.split("-")[1], []).append(shard)
        shards = [shard for split in sorted(by_split) for shard in spread(by_split[split], most)]
    if not shards:
        raise InputError(f"{data / 'speech'}: no shards of the set {name}; make them with the recipe first")
    kept = data / folder / ".parts" / ("rough" if augmented else "")  # the folder's name is older than the set's
    parts = [kept / f"{shard.stem}.{digest_of(tokenizer, shard, augmented, voice)}.jsonl" for shard in shards]
    pairs = zip(shards, parts, strict=True)
    todo = [(str(tokenizer), shard, part, augmented, voice) for shard, part in pairs if not part.is_file()]
    print(f"{name}: {len(shards)} shards, {len(todo)} to do", file=sys.stderr, flush=True)
    started, seconds, clips = time.monotonic(), 0.0, 0
    for done, result in enumerate(_results(todo, jobs), 1):
        seconds, clips = seconds + result.seconds, clips + result.clips
        elapsed = time.monotonic() - started
        left = elapsed / done * (len(todo) - done)
        print(
            f"{name}: {done}/{len(todo)} shards, {seconds / 3600:.2f} h, {seconds / elapsed:.0f} x real time, "
            f"{left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
    target = data / folder / f"{name}{AUGMENTED if augmented else ''}.jsonl"
    rows = 0
    with staged_output(target) as file:
        for part in parts:
            text = part.read_bytes()
            rows += text.count(b"\n")
            file.write(text)
    write_text(target.with_suffix(NAMED), json.dumps({"units": units_of(tokenizer)}))
    current = set(parts)
    for shard in shards:  # rows of an older tokenizer
        for old in kept.glob(f"{shard.stem}.*.jsonl"):
            if old not in current:
                old.unlink()
    print(f"{target}: {rows} utterances", file=sys.stderr)
    return target


def spread(items: Sequence[ItemT], most: int) -> list[ItemT]:
    """At most so many, evenly chosen."""
    return [items[at * len(items) // most] for at in range(most)] if len(items) > most else list(items)


def _results(todo: Sequence[tuple[str, Path, Path, bool, str]], jobs: int) -> Iterator[ShardResult]:
    if jobs <= 1 or len(todo) <= 1:
        yield from map(_job, todo)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(_job, job) for job in todo]
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def units_of_file(folder: Path, name: str) -> str:
    """Whose units the file of a set holds; empty where nothing says it."""
    for each in set_names(name):
        try:
            return str(json.loads((folder / f"{each}{NAMED}").read_text(encoding="utf-8"))["units"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train units``."""
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/s2u-nano/export"),
                        help="speech tokenizer's folder, or a checkpoint such as emova-nano")  # fmt: skip
    parser.add_argument("--set", dest="sets", nargs="+", required=True, metavar="SET", help="such as question answer")
    parser.add_argument("--split", dest="splits", nargs="*", default=[], help="only these splits")
    parser.add_argument("--data", type=Path, default=Path("data/nano"), help="the recipe's folder")
    parser.add_argument("--folder", default="units", help="folder below it that the units go to (default: units)")
    parser.add_argument(
        "--augmented", "--rough", action="store_true", help="through noise, rooms, other speeds: SET_augmented.jsonl"
    )
    parser.add_argument("--voice", default="", help="only this voice's clips, such as hibari/female")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    tokenizer = find_part(arguments.tokenizer, "speech_tokenizer")
    for name in arguments.sets:
        tokenize_set(
            tokenizer, arguments.data, name, arguments.jobs, arguments.splits, arguments.folder,
            arguments.augmented, arguments.voice,
        )  # fmt: skip
    return 0


def main() -> int:
    return run_module(register, "emova_train.data.units", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
