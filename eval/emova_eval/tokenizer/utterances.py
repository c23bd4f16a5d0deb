"""The recordings that tokenizers are measured on: the shipped fixtures, or shards of the recipe and of converted sets.

Shapes: T samples.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

import numpy as np
import soundfile

from emova.core.errors import InputError
from emova.core.tar_samples import read_shard
from emova.speech.audio import load_audio
from emova_eval.suite.offline import FIXTURES, FixtureRow, read_rows

RATE = 16000  # Hz


@dataclass(frozen=True)
class Utterance:
    """One recording and what is known of it; an empty label is unknown.

    Attributes:
        samples: ``[T]`` float32 at 16 kHz.
        sentence: recordings of the same words have the same; probes hold out whole sentences.
        phones: of the transcript, () where they are unknown.
        alignment: (phone, start s, end s), () where it is unknown.
    """

    samples: np.ndarray
    language: str
    sentence: str
    phones: tuple[str, ...] = ()
    alignment: tuple[tuple[str, float, float], ...] = ()
    voice: str = ""
    gender: str = ""
    emotion: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


@dataclass
class Chosen:
    """The recordings of a measurement, and what was left out of them."""

    utterances: list[Utterance] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def fixtures() -> Chosen:
    """What is shipped: English questions of unheard voices, five sentences in four voices and emotions, Mandarin."""
    chosen = Chosen()
    for row in read_rows("questions.jsonl"):
        chosen.utterances.append(_fixture(row, "en", row["question"]))
    for row in read_rows("voices.jsonl"):
        voice, _, emotion = row["group"].partition("/")
        chosen.utterances.append(_fixture(row, "en", row["text"], voice, emotion))
    for row in read_rows("chinese.jsonl"):
        chosen.utterances.append(_fixture(row, "zh", row["text"]))
    return chosen


def _fixture(row: FixtureRow, language: str, words: str, voice: str = "", emotion: str = "") -> Utterance:
    samples = load_audio(FIXTURES / row["audio"], RATE)
    voice = voice or row.get("voice", "")
    gender = row.get("gender") or _gender(voice)
    return Utterance(samples, language, words, tuple(row.get("phones", ())), (), voice, gender, emotion)


def _gender(voice: str) -> str:
    """Of a voice of the recipe; unknown of others."""
    name = voice.partition("/")[2]
    if voice.startswith("kokoro/"):
        return "female" if name[1:2] == "f" else "male"
    return {"piper/joe": "male", "festival/ked_diphone": "male", "festival/kal_diphone": "male"}.get(voice, "")


def shards(patterns: Sequence[str], limit: int = 0) -> Chosen:
    """The recordings of shards, at most ``limit`` of each pattern, spread over it (0: all).

    Raises:
        InputError: a pattern has no shards, or they hold nothing that can be measured.
    """
    chosen = Chosen()
    for pattern in patterns:
        paths = sorted(glob(pattern))
        if not paths:
            raise InputError(f"--data {pattern}: no such shards; `emova data make` and `emova data convert` make them")
        found = list(_read(paths, chosen))
        step = max(1, len(found) // limit) if limit else 1
        for make in found[::step][: limit or None]:
            try:
                utterance = make()
            except (KeyError, ValueError, RuntimeError):
                chosen.skip("cannot be read")
                continue
            if len(utterance.samples) < RATE // 10 or not np.abs(utterance.samples).max() > 1e-4:
                chosen.skip("too short, or silence")
            else:
                chosen.utterances.append(utterance)
    if not chosen.utterances:
        raise InputError(f"--data {', '.join(patterns)}: no recording that can be measured")
    return chosen


def _read(paths: Sequence[str], chosen: Chosen) -> Iterator[Callable[[], Utterance]]:
    for path in paths:
        for _, members in read_shard(Path(path)):
            if "json" not in members or "flac" not in members:
                chosen.skip("no recording with its facts")
                continue
            facts, sound = members["json"].read(), members["flac"].read()
            yield lambda facts=facts, sound=sound: _utterance(facts, sound)  # type: ignore[misc]


def _utterance(facts: bytes, sound: bytes) -> Utterance:
    import soxr

    row = json.loads(facts)
    samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    mono = mono if rate == RATE else soxr.resample(mono, rate, RATE)
    phones = tuple(row.get("phones") or ())
    known = row.get("language") or ("zh" if any(phone.startswith("zh:") for phone in phones) else "en")
    return Utterance(
        np.ascontiguousarray(mono, np.float32), known, row.get("text") or "", phones,
        tuple((phone, float(a), float(b)) for phone, a, b in row.get("alignment") or ()),
        row.get("voice") or "", row.get("gender") or "", row.get("emotion") or "",
    )  # fmt: skip
