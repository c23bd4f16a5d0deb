"""Recordings that come without transcripts: labels by Whisper base, kept in a file that is continued, and shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from emova.core.errors import InputError
from emova_data.nano.speech.shard_maker import ShardInfo, encode_flac, read_info, write_shard
from emova_data.nano.text.g2p import phones
from emova_data.records.recordings import RecordingFields

RATE = 16000
MIN_SECONDS = 0.6
TEST_SHARE = 0.10
_FORMAT = 3


def is_test(name: str) -> bool:
    """Whether the clip ``name`` is held out: one in ten, by a hash of its name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < TEST_SHARE


def words_of(text: str) -> list[str]:
    """The words as a recogniser's are compared: small letters, no marks."""
    return re.findall(r"[a-z0-9']+", text.lower())


def circles(text: str, size: int = 5) -> bool:
    """Whether some ``size`` words in a row come twice, as when a recogniser repeats itself."""
    words = words_of(text)
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(runs) != len(set(runs))


def at_human_rate(text: str, seconds: float) -> bool:
    """Whether ``text`` has words, and as many sounds as a person says in ``seconds``."""
    sounds = len(phones(text))
    return re.search(r"[A-Za-z0-9]", text) is not None and sounds >= 3 and 2.5 < sounds / seconds < 22


class WhisperLabels:
    """Whisper base with a window as long as the clip needs: eight times faster on short clips than always 30 s.

    Raises:
        InputError: the model is missing.
    """

    _MIN_FRAMES, _MAX_FRAMES, _TAIL_FRAMES = 800, 3000, 200  # of 10 ms
    _DOUBT = -0.5
    _TOKENS_A_SECOND = 6

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        if not (folder / "model.bin").is_file():
            raise InputError(f"{folder}: no Whisper model here; run `emova data fetch nano`")
        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
        self._tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language="en")

    def __call__(self, samples: np.ndarray) -> tuple[str, float]:
        """Text and mean log probability of a token.

        A doubtful label, or one that goes round in circles, is made again with the full window that the model was
        trained with and the library's own safeguards.
        """
        needed = len(samples) // 320 * 2 + self._TAIL_FRAMES
        if needed <= self._MAX_FRAMES:
            text, score = self._window(samples, max(needed, self._MIN_FRAMES), beam_size=5, max_length=448)
            if score > self._DOUBT and not circles(text):
                return text, score
        found = list(self._model.transcribe(samples, language="en", beam_size=5, condition_on_previous_text=False)[0])
        score = float(np.mean([segment.avg_logprob for segment in found])) if found else -10.0
        return " ".join(segment.text.strip() for segment in found), round(score, 4)

    def quick(self, samples: np.ndarray) -> tuple[str, float]:
        """The same, greedily and once: for clips of at most 28 s whose words something else can confirm."""
        tokens = 8 + len(samples) * self._TOKENS_A_SECOND // RATE  # too short a window repeats itself up to the limit
        return self._window(samples, len(samples) // 320 * 2 + self._TAIL_FRAMES, beam_size=1, max_length=tokens)

    def _window(self, samples: np.ndarray, frames: int, beam_size: int, max_length: int) -> tuple[str, float]:
        padded = np.pad(samples, (0, max(0, frames * 160 - len(samples))))
        features = self._model.feature_extractor(padded, padding=0)[:, :frames].astype(np.float32)
        prompt = [*self._tokenizer.sot_sequence, self._tokenizer.no_timestamps]
        result = self._model.model.generate(
            self._model.encode(features), [prompt], beam_size=beam_size, return_scores=True, suppress_blank=True,
            max_length=max_length,
        )[0]  # fmt: skip
        return self._tokenizer.decode(result.sequences_ids[0]).strip(), round(float(result.scores[0]), 4)


Recogniser = Callable[[np.ndarray], tuple[str, float]]
"""From samples [T] at 16 kHz to text and score."""


class Label(TypedDict):
    """What a recogniser heard in a clip: its words, their log-probability, and how long it is."""

    name: str
    text: str
    score: float
    seconds: float


def label_clips(
    names: Sequence[str], decode: Callable[[str], np.ndarray], hear: Callable[[], Recogniser],
    cache: Path, seconds: tuple[float, float] = (MIN_SECONDS, float("inf")),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Label]:  # fmt: skip
    """Transcribe every clip once: name -> {text, score, seconds}.

    Args:
        names: of the clips.
        decode: samples ``[T]`` at 16 kHz of a name.
        hear: gives the recogniser (samples -> text, score) when a clip needs it.
        cache: the JSON Lines file.
        seconds: clips shorter or longer than this are not heard; their text is empty.
    """
    labels: dict[str, Label] = {}
    if cache.is_file():
        for line in cache.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):
                known: Label = json.loads(line)
                labels[known["name"]] = known
    recognise: Recogniser | None = None
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as handle:
        for number, name in enumerate(names):
            report(number, len(names))
            if name in labels:
                continue
            samples = decode(name)
            entry: Label = {"name": name, "text": "", "score": -10.0, "seconds": round(len(samples) / RATE, 3)}
            if seconds[0] <= entry["seconds"] <= seconds[1]:
                recognise = recognise or hear()
                entry["text"], entry["score"] = recognise(samples)
            labels[name] = entry
            handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
            handle.flush()
    return labels


@dataclass(frozen=True)
class Recordings:
    """A set of labelled clips and what their records say.

    Args:
        set: name of the set, and so of its shards.
        voice, family, gender: of the record; the gender is empty where there are several.
        decode: samples ``[T]`` at 16 kHz of a name.
    """

    set: str
    voice: str
    family: str
    gender: str
    decode: Callable[[str], np.ndarray]

    def write(self, folder: Path, labels: dict[str, Label], per_shard: int = 200) -> list[ShardInfo]:
        """Write the shards ``SET-train`` and ``SET-test`` of ``labels`` (name -> text, score) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        infos = []
        for split in ("train", "test"):
            names = [name for name in sorted(labels) if is_test(name) == (split == "test")]
            for number, start in enumerate(range(0, len(names), per_shard)):
                part = names[start : start + per_shard]
                path = folder / f"{self.set}-{split}-{number:06d}.tar"
                plan = hashlib.sha256(json.dumps([_FORMAT, [labels[n] for n in part]]).encode()).hexdigest()
                info = read_info(path)
                if info is None or info.plan != plan:
                    info = write_shard(path, plan, [self._sample(name, labels[name], split) for name in part])
                infos.append(info)
        return infos

    def _sample(self, name: str, label: Label, split: str) -> tuple[str, bytes, RecordingFields]:
        samples = self.decode(name)
        key = f"{self.set}_" + re.sub(r"[^A-Za-z0-9]+", "_", name.rpartition(".")[0])
        meta: RecordingFields = {
            "text": label["text"], "phones": phones(label["text"]), "alignment": None, "voice": self.voice,
            "family": self.family, "gender": self.gender, "emotion": "neutral", "pitch": "normal", "set": self.set,
            "split": split, "ids": [name], "seconds": round(len(samples) / RATE, 4), "score": label["score"],
        }  # fmt: skip
        return key, encode_flac(samples, RATE), meta
