"""Emotion-enriched instruction synthesis (EMOVA §4.2, App. B.2): from text or visual instructions to spoken dialogues.

Filter what cannot be spoken, clean it, infer styles, speak question and answer, tokenise, write shards. It runs on the
same engine as the conversions, so it resumes at the last shard, and what is left out is counted with its reason.
A question is spoken by one of 39 speakers of the user's gender; answers by the one canonical voice of ``voice``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from emova.checkpoint.loading import find_part
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.speech.style import DEFAULT_STYLES
from emova.speech.tokenizer.units import units_of
from emova_data.records.parallel import in_pool, in_ray
from emova_data.records.records import (
    BadRecord,
    Draft,
    Media,
    Message,
    Part,
    Record,
    Sample,
    message,
    plain_text,
    reject,
)
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert
from emova_data.sources.converters import CONVERTERS
from emova_data.synthesis.speech_text import language_of, spoken
from emova_data.synthesis.style_labels import EndpointLabeller, Labeller, RuleLabeller
from emova_data.synthesis.tts import Speaker, Speech, at_rate, backend, speakers


@dataclass(frozen=True)
class LabelConfig:
    """``kind`` rules, or endpoint with the ``address`` (ending in /v1) and ``model`` of an OpenAI-compatible server."""

    kind: str = "rules"
    address: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class SpeechConfig:
    """``backend`` hibari, kokoro, piper, cosyvoice or azure; ``address`` for the last two; ``sample_rate`` in Hz."""

    backend: str = "hibari"
    address: str = ""
    sources: str = "data/nano/sources"
    sample_rate: int = 16000


@dataclass(frozen=True)
class OmniConfig:
    """One run.

    Attributes:
        input: folder of a converted set, or a .json, .jsonl or .parquet file of conversations.
        output: folder of the shards.
        name, split: go into the shards' names.
        seed: of every random choice.
        max_words: longest question or answer that is spoken.
        voice: gender of the voice that answers.
        tokenizer: folder of an S2U tokenizer; units are added when it is given.
        per_shard, jobs, limit: records in a shard, processes, and conversations to read at most (0: all).
        ray: spread the processes over the machines of a Ray cluster (the extra ``ray``); every machine needs the
            folders that ``speech.sources`` and ``tokenizer`` name.
    """

    input: str = ""
    output: str = "data/sets/omni"
    name: str = "omni"
    split: str = "train"
    seed: int = 0
    max_words: int = 60
    voice: str = "female"
    tokenizer: str = ""
    per_shard: int = 500
    jobs: int = 1
    limit: int = 0
    ray: bool = False
    labels: LabelConfig = field(default_factory=LabelConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)


Tokenise = Callable[[np.ndarray], list[int]]
"""[T] float32 at the configured rate to units."""


@dataclass(frozen=True)
class Parts:
    """What speaks, labels and tokenises."""

    labeller: Labeller
    speech: Speech
    tokenise: Tokenise | None


def load_tokenizer(folder: str) -> Tokenise | None:
    """Units by the speech tokenizer in ``folder``; None for no folder. Raises: InputError."""
    if not folder:
        return None
    import torch

    from emova.checkpoint.registry import load_tokenizer as load

    model = load(find_part(folder, "speech_tokenizer"))

    def tokenise(samples: np.ndarray) -> list[int]:
        with torch.inference_mode():
            return model.encode(torch.from_numpy(samples)[None])[0].tolist()

    return tokenise


def load_labeller(labels: LabelConfig) -> Labeller:
    """Raises: InputError: the kind is unknown, or the address is none."""
    if labels.kind not in ("rules", "endpoint"):
        raise InputError(f"labels.kind {labels.kind[:30]!r} is unknown; choose rules or endpoint")
    if labels.kind == "endpoint":
        return EndpointLabeller(labels.address, labels.model, labels.key_variable)
    return RuleLabeller()


def load_parts(config: OmniConfig) -> Parts:
    """Raises: InputError: a part is unknown or cannot be loaded."""
    labeller = load_labeller(config.labels)
    speech = backend(config.speech.backend, sources=Path(config.speech.sources), address=config.speech.address)
    return Parts(labeller, speech, load_tokenizer(config.tokenizer))


def conversations(source: str) -> Iterator[tuple[str, Callable[[], Turns]]]:
    """(id, loader) of a converted set's records or a file's conversations. Raises: InputError."""
    path = Path(source)
    if path.is_dir():
        for sample in read_set(path):
            yield sample["id"], functools.partial(_copied, sample)
        return
    if not path.is_file():
        raise InputError(f"input {source[:80]!r}: a converted set's folder or a file of conversations is expected")
    for draft in CONVERTERS["llava"](path.parent, {"files": path.name}):
        yield draft.id, functools.partial(_loaded, draft)


class Turns(TypedDict):
    """A conversation, and its media by member name."""

    messages: Sequence[Message]
    media: Mapping[str, bytes]


def _copied(sample: Sample) -> Turns:
    return {"messages": sample["messages"], "media": sample["media"]}


def _loaded(draft: Draft) -> Turns:
    record = draft.build()
    return {"messages": record.messages, "media": {media.member: media.content for media in record.media}}


def _pick(identity: str, seed: int, gender: str) -> Speaker:
    fitting = [speaker for speaker in speakers() if speaker.gender == gender]
    return fitting[int(generator(seed, identity).integers(len(fitting)))]


def _only_text(turn: Message) -> str:
    if any(part["type"] not in ("text", "image") for part in turn["content"]):
        raise BadRecord("speech already")
    return "\n".join(part["text"] for part in turn["content"] if part["type"] == "text")


def exchange(identity: str, sample: Turns, config: OmniConfig, parts: Parts) -> Record:
    """The first question and answer of a conversation, spoken. Raises: BadRecord: why it is left out."""
    from emova_data.nano.speech.shard_maker import encode_flac

    turns = [turn for turn in sample["messages"] if turn["role"] != "system"]
    question, answer = (spoken(_only_text(turn), config.max_words) for turn in turns[:2])
    if question is None or answer is None:
        raise BadRecord("not fit to be spoken")
    language = language_of(question + answer)
    if language not in parts.speech.languages:
        raise BadRecord("a language that the voices do not speak")
    labels = parts.labeller.label(question, answer)
    asker = _pick(identity, config.seed, labels.user_gender)
    # The canonical voices of the offline recipe, so that all replies have one speaker (EMOVA §3.2).
    first = next(speaker for speaker in speakers() if speaker.gender == config.voice)
    answerer = dataclasses.replace(first, hibari=config.voice)
    pictures = [part for part in turns[0]["content"] if part["type"] == "image"]
    media = [Media(part["image"], sample["media"][part["image"]]) for part in pictures]
    rate, seconds, units = config.speech.sample_rate, {}, {}
    for role, speaker, words, emotion, pitch in (
        ("question", asker, question, labels.user_emotion, labels.user_pitch),
        ("answer", answerer, answer, labels.emotion, labels.pitch),
    ):
        samples, found = parts.speech.speak(words, speaker, emotion, pitch, language, config.seed)
        samples = at_rate(samples, found, rate)
        media.append(Media(f"{role}.flac", encode_flac(samples, rate)))
        seconds[role] = round(len(samples) / rate, 3)
        if parts.tokenise is not None:
            units[role] = parts.tokenise(np.asarray(samples, np.float32))
    heard: Part = {"type": "audio", "audio": "question.flac", "text": question}
    reply: Part = {"type": "reply", "transcript": question, "text": answer, "emotion": labels.emotion,
                             "pitch": labels.pitch, "audio": "answer.flac"}  # fmt: skip
    if units:
        heard["units"], reply["units"] = units["question"], units["answer"]
    extra = {"task": "spoken-dialogue", "language": language, "seconds": seconds, "split": config.split,
             "speaker": asker.name, "gender": labels.user_gender, "user_emotion": labels.user_emotion,
             "user_pitch": labels.user_pitch, "emotion": labels.emotion, "pitch": labels.pitch,
             "set": f"speech-{'image' if pictures else 'text'}-{language}"}  # fmt: skip
    return Record(identity, [message("user", *pictures, heard), message("assistant", reply)], media, extra)


_worker: tuple[OmniConfig, Parts] | None = None


def _start(config: OmniConfig) -> None:
    global _worker
    _worker = config, load_parts(config)


def _job(identity: str, sample: Turns) -> Record:
    assert _worker is not None
    return exchange(identity, sample, *_worker)


def drafts(source: str) -> Iterator[Draft]:
    """All conversations of ``source``, copies (the same words) marked as such; fit to be sent to other processes."""
    seen: set[bytes] = set()
    for identity, load in conversations(source):
        try:
            sample = load()
            mark = hashlib.sha256(plain_text(sample["messages"]).lower().encode()).digest()
        except BadRecord as error:
            yield Draft(identity, reject(str(error)))
            continue
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            yield Draft(identity, reject("not of the expected form"))
            continue
        if mark in seen:
            yield Draft(identity, reject("a copy of another record"))
        else:
            seen.add(mark)
            yield Draft(identity, functools.partial(_job, identity, sample))


def synthesise(config: OmniConfig, parts: Parts | None = None) -> ConvertResult:
    """Run or go on with ``config``; ``parts`` replaces the configured ones (in this process alone).

    Raises:
        InputError: a setting is wrong, or nothing could be made.
    """
    global _worker
    if config.voice not in ("female", "male") or config.jobs < 1 or config.per_shard < 1:
        raise InputError("voice is female or male; jobs and per_shard are at least 1")
    if config.tokenizer and config.speech.sample_rate != 16000:
        raise InputError("speech.sample_rate: the tokenizer needs 16000")
    build = None
    if (config.jobs > 1 or config.ray) and parts is None:
        spread = in_ray if config.ray else in_pool
        build = spread(config.jobs, _start, config)
    else:
        _worker = config, parts or load_parts(config)
    settings = ConvertConfig(config.per_shard, max_skip_rate=1.0, limit=config.limit)
    return convert(
        drafts(config.input), Path(config.output), config.name, split=config.split, config=settings, build=build,
        units=units_of(find_part(config.tokenizer, "speech_tokenizer")) if config.tokenizer else "",
    )  # fmt: skip


def statistics(folder: Path) -> dict[str, dict[str, int]]:
    """Table 5: for each kind of data, the number of examples, and of each emotion and pitch of the answers."""
    tables: dict[str, Counter[str]] = {}
    for sample in read_set(folder):
        table = tables.setdefault(f"{sample['set']} ({sample['split']})", Counter())
        table.update(["examples", f"emotion {sample['emotion']}", f"pitch {sample['pitch']}"])
    columns = [
        "examples",
        *(f"emotion {e}" for e in DEFAULT_STYLES.emotions),
        *(f"pitch {p}" for p in DEFAULT_STYLES.pitches),
    ]
    return {name: {column: table[column] for column in columns} for name, table in sorted(tables.items())}


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise omni``. Raises: InputError."""
    config = load_config(OmniConfig, path, overrides)
    result = synthesise(config)
    print(f"{result.records} exchanges in {len(result.shards)} shards in {config.output}")
    for reason, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {count}: {reason}")
    print(json.dumps(statistics(Path(config.output)), indent=1))
    return 0
