"""Interleaved speech and text from text alone, as GLM-4-Voice is pre-trained on (its §4.1; Zeng et al. 2024).

Spans of words, their lengths drawn from a Poisson or a normal distribution, are replaced by the units of their speech
until a share of the text is covered; what turns words into units is handed in: a text-to-token model, or a voice and a
tokenizer.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova_data.records.documents import cut, places_of
from emova_data.records.parallel import in_pool, in_ray
from emova_data.records.records import BadRecord, Draft, Part, Record, Sample, message, reject, text
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import PROGRESS, ConvertConfig, ConvertResult, convert
from emova_data.sources.converters.rows import UNREADABLE, rows_of
from emova_data.synthesis.pipeline import SpeechConfig
from emova_data.synthesis.speech_text import language_of, spoken
from emova_data.synthesis.text_to_units import ReadingConfig, TextToUnits, load_text_to_units, unit_name

POISSON, NORMAL = "poisson", "normal"


@dataclass(frozen=True)
class InterleaveConfig:
    """One run.

    Attributes:
        input: folder of text files (.jsonl, .json or .parquet with ``text_field``), or of a converted set, whose text
            is taken.
        text_field: name of the text in a row.
        output, name, split: where the shards go and what they are called.
        speech_share: share of the words that become speech.
        span_words: mean length of a span, in words (characters in Chinese).
        span_lengths: how lengths are drawn: ``poisson``, or ``normal`` with the deviation ``span_spread``.
        min_words: shorter texts are left out.
        max_words: longer texts are cut into documents, after a sentence where there is one; 0 leaves them whole.
        model: an export of ``emova train text-to-token``, or a checkpoint whose language model reads aloud; it writes
            the units without any sound, as the paper's text-to-token model does.
        tokenizer: in place of it, folder of an S2U tokenizer, which hears the voice of ``speech``.
        per_shard, limit: documents in a shard, and documents to read at most (0: all).
        jobs, ray: processes, each with a model of its own; over a Ray cluster (the extra ``ray``).
        seed: of every random choice.
        reading: how the model reads.
    """

    input: str = ""
    text_field: str = "text"
    output: str = "data/sets/interleaved"
    name: str = "interleaved"
    split: str = "train"
    speech_share: float = 0.3
    span_words: float = 10.0
    span_lengths: str = POISSON
    span_spread: float = 3.0
    min_words: int = 20
    max_words: int = 0
    model: str = ""
    tokenizer: str = ""
    per_shard: int = 1000
    limit: int = 0
    jobs: int = 1
    ray: bool = False
    seed: int = 0
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)

    def __post_init__(self) -> None:
        if not (0 < self.speech_share < 1 and self.span_words >= 1):
            raise InputError("speech_share lies between 0 and 1, span_words is at least 1")
        if self.span_lengths not in (POISSON, NORMAL) or self.span_spread < 0:
            raise InputError(f"span_lengths is {POISSON} or {NORMAL}, with a span_spread of 0 or more")
        if self.jobs < 1 or self.per_shard < 1 or self.max_words < 0:
            raise InputError("jobs and per_shard are at least 1, max_words at least 0")
        if 0 < self.max_words < 2 * self.min_words:
            raise InputError(f"max_words={self.max_words}: give twice min_words or more, or 0")

    def draw_length(self, rng: np.random.Generator) -> int:
        """Of a span, in words, at least 1."""
        if self.span_lengths == NORMAL:
            return max(1, round(float(rng.normal(self.span_words, self.span_spread))))
        return max(1, int(rng.poisson(self.span_words)))


def choose_spans(count: int, config: InterleaveConfig, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Disjoint (first, end) spans among ``count`` words, in order, that cover the share of them, or a little more."""
    taken = np.zeros(count, bool)
    for _ in range(50 * count):
        if taken.sum() >= config.speech_share * count:
            break
        length = min(count, config.draw_length(rng))
        first = int(rng.integers(0, count - length + 1))
        # A free word either side keeps spans apart.
        if not taken[max(0, first - 1) : first + length + 1].any():
            taken[first : first + length] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([0], taken.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def interleave(identity: str, words: str, config: InterleaveConfig, to_units: TextToUnits) -> Record:
    """A document of text and unit parts; spans that cannot be spoken stay text. Raises: BadRecord."""
    places = places_of(words)
    if len(places) < config.min_words:
        raise BadRecord("too short")
    spans = []
    for first, end in choose_spans(len(places), config, generator(config.seed, identity)):
        start, stop = places[first][0], places[end - 1][1]
        said = spoken(words[start:stop], 10 * (end - first))
        if said is not None:
            spans.append((start, stop, end - first, said))
    parts: list[Part] = []
    position, covered = 0, 0
    for (start, stop, length, _), units in zip(spans, to_units([span[3] for span in spans]), strict=True):
        if not units:
            continue
        if words[position:start].strip():
            parts.append(text(words[position:start]))
        parts.append({"type": "units", "units": units, "text": words[start:stop]})
        position, covered = stop, covered + length
    if words[position:].strip():
        parts.append(text(words[position:]))
    if not covered:
        raise BadRecord("not fit to be spoken")
    extra = {"task": "interleaved", "language": language_of(words), "speech_share": round(covered / len(places), 4)}
    return Record(identity, [message("document", *parts)], (), extra)


def texts(config: InterleaveConfig) -> Iterator[tuple[str, str, str]]:
    """(name, text, "") of everything in ``input``, or (name, "", reason) of what has none. Raises: InputError."""
    folder = Path(config.input)
    if (folder / PROGRESS).is_file():
        for sample in read_set(folder):
            yield sample["id"], written(sample), ""
        return
    for name, row in rows_of(folder, ["*.jsonl", "*.json", "*.parquet"]):
        words = None if row is None else row.get(config.text_field)
        if isinstance(words, str):
            yield name, words, ""
        else:
            yield name, "", UNREADABLE if row is None else "no text"


def written(sample: Sample) -> str:
    """The text of a record, its turns one below the other; what is no text is left out."""
    turns = (
        " ".join(part["text"] for part in turn["content"] if part["type"] == "text") for turn in sample["messages"]
    )
    return "\n".join(turn for turn in turns if turn.strip())


def _drafts(config: InterleaveConfig) -> Iterator[Draft]:
    for name, words, reason in texts(config):
        if reason:
            yield Draft(name, reject(reason))
            continue
        pieces = cut(words, config.max_words)
        for number, piece in enumerate(pieces):
            identity = name if len(pieces) == 1 else f"{name}.{number}"
            yield Draft(identity, functools.partial(_job, identity, piece))


_worker: tuple[InterleaveConfig, TextToUnits] | None = None


def _reader(config: InterleaveConfig) -> TextToUnits:
    return load_text_to_units(config.model, config.tokenizer, config.seed, config.reading, config.speech)


def _start(config: InterleaveConfig) -> None:
    global _worker
    if config.jobs > 1:
        import torch

        torch.set_num_threads(1)
    _worker = config, _reader(config)


def _job(identity: str, words: str) -> Record:
    assert _worker is not None
    config, to_units = _worker
    return interleave(identity, words, config, to_units)


def _made_from(config: InterleaveConfig) -> str:
    """What decides the documents: with other settings they are made again."""
    said = asdict(config) | {"reading": config.reading.made_from()}
    return json.dumps({key: value for key, value in said.items() if key not in ("output", "jobs", "ray")})


def synthesise(config: InterleaveConfig, to_units: TextToUnits | None = None) -> ConvertResult:
    """Run or go on with ``config``; ``to_units`` replaces what it names (in this process alone). Raises: InputError."""
    global _worker
    build = None
    if (config.jobs > 1 or config.ray) and to_units is None:
        build = (in_ray if config.ray else in_pool)(config.jobs, _start, config)
    else:
        _worker = config, to_units or _reader(config)
    settings = ConvertConfig(config.per_shard, max_skip_rate=1.0, limit=config.limit)
    return convert(
        _drafts(config), Path(config.output), config.name, split=config.split, suffix=".jsonl", config=settings,
        units=unit_name(config.model, config.tokenizer), build=build, made_from=_made_from(config),
    )  # fmt: skip


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise interleaved``. Raises: InputError."""
    config = load_config(InterleaveConfig, path, overrides)
    result = synthesise(config)
    print(f"{result.records} documents in {len(result.shards)} shards in {config.output}; left out: {result.skipped}")
    return 0
