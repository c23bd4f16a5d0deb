"""Interleaved speech and text from text alone, as GLM-4-Voice is pre-trained on (its §4.1; Zeng et al. 2024).

Spans of words, their lengths drawn from a Poisson distribution, are replaced by the units of their speech until a share
of the text is covered; what turns words into units is handed in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emova.checkpoint.loading import find_part
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.speech.tokenizer.units import units_of
from emova_data.records.records import BadRecord, Draft, Part, Record, message, text
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert
from emova_data.sources.converters.rows import UNREADABLE, Row, rows_of
from emova_data.synthesis.pipeline import SpeechConfig, load_tokenizer
from emova_data.synthesis.speech_text import language_of, spoken
from emova_data.synthesis.tts import backend, speakers

TextToUnits = Callable[[str], list[int]]
"""Words to units: a text-to-token model, or a voice and a tokenizer."""
_TOKENS = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


@dataclass(frozen=True)
class InterleaveConfig:
    """One run.

    Attributes:
        input: folder of text files: .jsonl, .json or .parquet with ``text_field``.
        text_field: name of the text in a row.
        output, name, split: where the shards go and what they are called.
        speech_share: share of the words that become speech.
        span_words: mean length of a span, in words (characters in Chinese).
        min_words: shorter texts are left out.
        model: a checkpoint whose language model reads the spans aloud as units, without any sound, as the paper's
            text-to-token model does.
        tokenizer: in place of it, folder of an S2U tokenizer, which hears the voice of ``speech``.
        seed: of every random choice.
    """

    input: str = ""
    text_field: str = "text"
    output: str = "data/sets/interleaved"
    name: str = "interleaved"
    split: str = "train"
    speech_share: float = 0.3
    span_words: float = 10.0
    min_words: int = 20
    model: str = ""
    tokenizer: str = ""
    per_shard: int = 1000
    limit: int = 0
    seed: int = 0
    speech: SpeechConfig = field(default_factory=SpeechConfig)


def choose_spans(count: int, share: float, mean: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Disjoint (first, end) spans among ``count`` words, in order, that cover ``share`` of them, or a little more."""
    taken = np.zeros(count, bool)
    for _ in range(50 * count):
        if taken.sum() >= share * count:
            break
        length = min(count, max(1, int(rng.poisson(mean))))
        first = int(rng.integers(0, count - length + 1))
        # A free word either side keeps spans apart.
        if not taken[max(0, first - 1) : first + length + 1].any():
            taken[first : first + length] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([0], taken.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def interleave(identity: str, words: str, config: InterleaveConfig, to_units: TextToUnits) -> Record:
    """A document of text and unit parts; spans that cannot be spoken stay text. Raises: BadRecord."""
    places = [match.span() for match in _TOKENS.finditer(words)]
    if len(places) < config.min_words:
        raise BadRecord("too short")
    rng = generator(config.seed, identity)
    parts: list[Part] = []
    position, covered = 0, 0
    for first, end in choose_spans(len(places), config.speech_share, config.span_words, rng):
        start, stop = places[first][0], places[end - 1][1]
        said = spoken(words[start:stop], 10 * (end - first))
        units = to_units(said) if said is not None else []
        if not units:
            continue
        if words[position:start].strip():
            parts.append(text(words[position:start]))
        parts.append({"type": "units", "units": units, "text": words[start:stop]})
        position, covered = stop, covered + end - first
    if words[position:].strip():
        parts.append(text(words[position:]))
    if not covered:
        raise BadRecord("not fit to be spoken")
    extra = {"task": "interleaved", "language": language_of(words), "speech_share": round(covered / len(places), 4)}
    return Record(identity, [message("document", *parts)], (), extra)


def by_model(config: InterleaveConfig) -> TextToUnits:
    """Units that a checkpoint's language model writes. Raises: InputError: it cannot be loaded."""
    from emova.assistant import Assistant, AssistantConfig
    from emova.decoding.sampling import Sampling

    assistant = Assistant.from_pretrained(config.model, config=AssistantConfig(sampling=Sampling(seed=config.seed)))
    return lambda words: list(assistant.pronounce(words))


def by_voice(config: InterleaveConfig) -> TextToUnits:
    """Units by a voice and the tokenizer. Raises: InputError: no tokenizer is given."""
    import soxr

    tokenise = load_tokenizer(config.tokenizer)
    if tokenise is None:
        raise InputError("give model=CHECKPOINT, or tokenizer=FOLDER of an S2U tokenizer for units of a voice")
    speech = backend(config.speech.backend, sources=Path(config.speech.sources), address=config.speech.address)

    def to_units(words: str) -> list[int]:
        samples, rate = speech.speak(words, speakers()[0], "neutral", "normal", language_of(words), config.seed)
        return tokenise(np.asarray(soxr.resample(samples, rate, 16000), np.float32))

    return to_units


def _drafts(config: InterleaveConfig, to_units: TextToUnits) -> Iterator[Draft]:
    for name, row in rows_of(Path(config.input), ["*.jsonl", "*.json", "*.parquet"]):
        yield Draft(name, functools.partial(_build, name, row, config, to_units))


def _build(name: str, row: Row, config: InterleaveConfig, to_units: TextToUnits) -> Record:
    if row is None:
        raise BadRecord(UNREADABLE)
    return interleave(name, row[config.text_field], config, to_units)


def synthesise(config: InterleaveConfig, to_units: TextToUnits) -> ConvertResult:
    """Run or go on with ``config``. Raises: InputError."""
    if not (0 < config.speech_share < 1 and config.span_words >= 1):
        raise InputError("speech_share lies between 0 and 1, span_words is at least 1")
    settings = ConvertConfig(config.per_shard, max_skip_rate=1.0, limit=config.limit)
    rows = _drafts(config, to_units)
    source = config.model or config.tokenizer
    units = units_of(find_part(source, "speech_tokenizer")) if source else ""
    return convert(
        rows, Path(config.output), config.name, split=config.split, suffix=".jsonl", config=settings, units=units
    )


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise interleaved``. Raises: InputError."""
    config = load_config(InterleaveConfig, path, overrides)
    result = synthesise(config, by_model(config) if config.model else by_voice(config))
    print(f"{result.records} documents in {len(result.shards)} shards in {config.output}; left out: {result.skipped}")
    return 0
