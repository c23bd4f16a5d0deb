"""Speech of a converted set as units: what training reads (``emova data tokenise``). Resumable, several processes."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emova.checkpoint.loading import find_part
from emova.core.errors import InputError
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.units import units_of
from emova_data.records.parallel import in_pool
from emova_data.records.records import BadRecord, Draft, Media, Message, Part, Record, Sample
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert

_AUDIO_SUFFIXES = ("flac", "wav", "ogg", "mp3", "opus", "m4a")


@dataclass(frozen=True)
class TokeniseConfig:
    """One run.

    Attributes:
        tokenizer: folder of a speech tokenizer, or a checkpoint that has one.
        keep_audio: keep the recordings beside their units.
        per_shard, jobs: records in a shard, processes.
        max_skip_rate: the run ends with an error above this share of damaged records.
    """

    tokenizer: str
    keep_audio: bool = False
    per_shard: int = 1000
    jobs: int = 1
    max_skip_rate: float = 0.05


_loaded: tuple[TokeniseConfig, SpeechTokenizer] | None = None


def _start(config: TokeniseConfig) -> None:
    global _loaded
    import torch

    from emova.checkpoint.registry import load_tokenizer

    torch.set_num_threads(1)
    _loaded = config, load_tokenizer(find_part(config.tokenizer, "speech_tokenizer"))


def _samples(content: bytes, said_rate: object, rate: int) -> np.ndarray:
    """[T] float32 mono at ``rate`` Hz. Raises: BadRecord."""
    import soundfile
    import soxr

    try:
        samples, found = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        raise BadRecord("audio that cannot be decoded") from None
    if isinstance(said_rate, int | float) and found != said_rate:
        raise BadRecord("audio of another rate than its record says")
    mono = samples.mean(axis=1)
    if not len(mono) or not np.isfinite(mono).all():
        raise BadRecord("audio that cannot be decoded")
    return mono if found == rate else soxr.resample(mono, found, rate)


def with_units(sample: Sample, tokenizer: SpeechTokenizer, keep_audio: bool) -> Record:
    """The record of a converted set with ``units`` in every part that has audio. Raises: BadRecord."""
    import torch

    media = sample["media"]
    messages: list[Message] = []
    for message in sample["messages"]:
        content: list[Part] = []
        for part in message["content"]:
            member = part.get("audio")
            if member is not None and "units" not in part:
                if member not in media:
                    raise BadRecord("a missing file")
                samples = _samples(media[member], sample.get("sample_rate"), tokenizer.sample_rate)
                part = {**part, "units": tokenizer.encode(torch.from_numpy(samples)[None])[0].tolist()}
            content.append(part)
        messages.append({**message, "content": content})
    kept = [Media(name, data) for name, data in media.items()
            if keep_audio or not name.lower().endswith(_AUDIO_SUFFIXES)]  # fmt: skip
    extra = {key: value for key, value in sample.items() if key not in ("id", "source", "messages", "media")}
    return Record(sample["id"], messages, kept, extra)


def _job(sample: Sample) -> Record:
    assert _loaded is not None
    config, tokenizer = _loaded
    return with_units(sample, tokenizer, config.keep_audio)


def _drafts(folder: Path) -> Iterator[Draft]:
    for sample in read_set(folder):
        yield Draft(sample["id"], functools.partial(_job, sample))


def tokenise(folder: Path, out: Path, name: str, config: TokeniseConfig) -> ConvertResult:
    """Write the set in ``folder`` to ``out`` with units, or go on with it.

    Raises:
        InputError: no set or tokenizer there, a shard is damaged, or too many records are.
    """
    if config.jobs < 1 or config.per_shard < 1:
        raise InputError("jobs and per_shard are at least 1")
    build = None
    if config.jobs > 1:
        build = in_pool(config.jobs, _start, config)
    else:
        _start(config)
    settings = ConvertConfig(config.per_shard, config.max_skip_rate)
    units = units_of(find_part(config.tokenizer, "speech_tokenizer"))
    # Another tokenizer's are another set, and so are those of other records.
    records = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in sorted(folder.glob("*.tar"))]
    made_from = json.dumps([units, config.keep_audio, records])
    return convert(_drafts(folder), out, name, config=settings, build=build, made_from=made_from, units=units)
