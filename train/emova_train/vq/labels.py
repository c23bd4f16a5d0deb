"""What a Whisper hears in speech without transcripts: ``emova train pseudo-labels nano``.

The words go to one file a shard, by what ``name_of`` calls its recordings, so an interrupted run goes on with the next
shard, and several processes (``RANK``, ``WORLD_SIZE``) share the shards out.

Shapes: B clips, T samples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.tokenizer.whisper_vq.reader import LEAST_TOKENS, TOKENS_A_SECOND
from emova.speech.tokenizer.whisper_vq.tokenizer import HOP, WhisperMel
from emova_data.records.recordings import read_recordings
from emova_train.core.program import add_config, run_module
from emova_train.data.shard_cache import SAMPLE_RATE, found_shards
from emova_train.distributed import world as parallel
from emova_train.vq.data import check_names, label_path, name_of
from emova_train.vq.program import VQTrainConfig
from emova_train.vq.reader import word_decoder
from emova_train.vq.whisper import WholeEncoder, clip_features, load_whisper

_LEAST_SECONDS, _TAIL_SECONDS = 8.0, 2.0  # of a window: with less silence behind the words it begins again


class Labeller:
    """Whisper as it was trained, with a window as long as the clips need.

    Args:
        language: of the speech, where a call gives none.
        others: further languages that calls will give.

    Raises:
        InputError: there is no such Whisper, or it does not know a language.
    """

    def __init__(self, name: str, language: str, others: Sequence[str] = ()) -> None:
        whisper = load_whisper(name, language)
        for each in others:  # at once, not hours later at the first shard of it
            whisper.text.prompt_in(each)
        self.text = whisper.text
        self.mel = WhisperMel(whisper.config.num_mel_bins)
        self.encoder = WholeEncoder(whisper).eval()
        self.words = word_decoder(whisper).eval()
        self.longest = whisper.config.max_source_positions * 2 * HOP

    @torch.inference_mode()
    def __call__(self, clips: Sequence[np.ndarray], language: str = "") -> list[str]:
        """What is said in clips ``[T]`` of 16 kHz; empty where words do not come to an end, or a clip is too long.

        Args:
            language: of the speech; empty: the one that was given for all.
        """
        longest = max(len(clip) for clip in clips)
        window = int(max(_LEAST_SECONDS * SAMPLE_RATE, longest + _TAIL_SECONDS * SAMPLE_RATE))
        window = min(window + -window % (2 * HOP), self.longest)
        if longest > window:
            if len(clips) == 1:
                return [""]
            return [self([clip], language)[0] if len(clip) <= self.longest else "" for clip in clips]
        samples_BT = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
        samples_BT = functional.pad(samples_BT, (0, window - samples_BT.shape[1]))
        features_BMF = clip_features(self.mel, samples_BT)
        heard_BTD, inside_BT = self.encoder(features_BMF, torch.full((len(clips),), window // HOP))
        limits = [LEAST_TOKENS + len(clip) * TOKENS_A_SECOND // SAMPLE_RATE for clip in clips]
        found = self.words.read(heard_BTD, inside_BT, self.text.prompt_in(language), self.text.end, limits)
        pairs = zip(found, limits, strict=True)
        return [self.text.decode(tokens) if len(tokens) < limit else "" for tokens, limit in pairs]


def label_shard(labeller: Labeller, shard: str, out: Path, max_seconds: float, rows: int, language: str = "") -> int:
    """Write the words of a shard's recordings, which are in ``language``; how many have some."""
    found: dict[str, str] = {}
    recordings = [(name_of(each.record, each.key), each.samples) for each in read_recordings(shard, SAMPLE_RATE)]
    counts = Counter(name for name, _ in recordings)
    if twice := sum(count for count in counts.values() if count > 1):
        print(f"{shard}: {twice} recordings share an id with another, and are left out", file=sys.stderr)
    recordings = [
        (name, samples)
        for name, samples in recordings
        if counts[name] == 1 and 0 < len(samples) <= max_seconds * SAMPLE_RATE
    ]
    recordings.sort(key=lambda each: len(each[1]))
    for start in range(0, len(recordings), rows):
        batch = recordings[start : start + rows]
        words = labeller([samples for _, samples in batch], language)
        found |= {name: said for (name, _), said in zip(batch, words, strict=True) if said}
    write_text(out, json.dumps(found, ensure_ascii=False))
    return len(found)


def label(config: VQTrainConfig, rows: int = 8) -> int:
    """Label the shards of the sources with ``pseudo`` that have no labels yet; how many recordings were labelled.

    Raises:
        InputError: the config names no such sources, folder or Whisper, or shards are missing.
    """
    sources = [source for source in config.train if source.pseudo]
    if not sources or not config.labels or not config.whisper:
        raise InputError("train, labels, whisper: name sources with pseudo: true, a folder for their words, a Whisper")
    world = parallel.start(config.run.parallel)
    shards = [(shard, source.language) for source in sources for shard in found_shards(source.pattern)]
    check_names(shard for shard, _ in shards)
    shards = shards[world.rank :: world.size]
    shards = [each for each in shards if not label_path(config.labels, each[0]).is_file()]
    if not shards:
        return 0
    labeller = Labeller(config.whisper, config.language, [source.language for source in sources])
    Path(config.labels).mkdir(parents=True, exist_ok=True)
    return sum(
        label_shard(labeller, shard, label_path(config.labels, shard), config.max_seconds, rows, language)
        for shard, language in track(shards, description="labels", disable=not world.main)
    )


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train pseudo-labels``."""
    add_config(parser, "nano")
    parser.add_argument("--rows", type=int, default=8, help="clips that are heard at once (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(VQTrainConfig, arguments.config, arguments.overrides, kind="vq")
    print(f"{label(config, max(1, arguments.rows))} recordings labelled")
    parallel.stop()
    return 0


def main() -> int:
    return run_module(register, "emova_train.vq.labels", "Transcribe speech without transcripts by Whisper.")


if __name__ == "__main__":
    sys.exit(main())
