"""Recordings of a real person: Asterisk's English prompts (one woman, 16 kHz G.722), labelled by Whisper base.

The package holds no transcripts, so the labels are the recogniser's; clips where it hears nothing are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.nano.g2p import phones
from data_recipes.nano.shards import ShardInfo, encode_flac, read_info, write_info, write_tar
from emova.errors import InputError

RATE = 16000
CLIPS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
MIN_SECONDS = 0.6
TEST_SHARE = 0.10
_FORMAT = 3


def decode(path: Path) -> np.ndarray:
    """Samples [T] float32 at 16 kHz of a G.722 file."""
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768.0 if frames else np.zeros(0, np.float32)


def is_test(name: str) -> bool:
    """Whether the clip ``name`` is held out: one in ten, by a hash of its name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < TEST_SHARE


def _circles(text: str, size: int = 5) -> bool:
    """Whether some ``size`` words in a row come twice, as when a recogniser repeats itself."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(runs) != len(set(runs))


class _Whisper:
    """Whisper base with a window as long as the clip needs: eight times faster on short clips than always 30 s.

    A doubtful label, or one that goes round in circles, is made again with the full window that the model was trained
    with and the library's own safeguards.
    """

    _MIN_FRAMES, _MAX_FRAMES, _TAIL_FRAMES = 800, 3000, 200  # of 10 ms
    _DOUBT = -0.5

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        if not (folder / "model.bin").is_file():
            raise InputError(f"{folder}: no Whisper model here; run `emova data fetch nano`")
        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
        self._tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language="en")

    def __call__(self, samples: np.ndarray) -> tuple[str, float]:
        """Text and mean log probability of a token."""
        needed = len(samples) // 320 * 2 + self._TAIL_FRAMES
        if needed <= self._MAX_FRAMES:
            text, score = self._window(samples, max(needed, self._MIN_FRAMES))
            if score > self._DOUBT and not _circles(text):
                return text, score
        found = list(self._model.transcribe(samples, language="en", beam_size=5, condition_on_previous_text=False)[0])
        score = float(np.mean([segment.avg_logprob for segment in found])) if found else -10.0
        return " ".join(segment.text.strip() for segment in found), round(score, 4)

    def _window(self, samples: np.ndarray, frames: int) -> tuple[str, float]:
        padded = np.pad(samples, (0, max(0, frames * 160 - len(samples))))
        features = self._model.feature_extractor(padded, padding=0)[:, :frames].astype(np.float32)
        prompt = [*self._tokenizer.sot_sequence, self._tokenizer.no_timestamps]
        encoded = self._model.encode(features)
        result = self._model.model.generate(encoded, [prompt], beam_size=5, return_scores=True, suppress_blank=True)[0]
        return self._tokenizer.decode(result.sequences_ids[0]).strip(), round(float(result.scores[0]), 4)


def label_clips(
    sources: Path, cache: Path, threads: int = 2, report: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, dict[str, Any]]:
    """Transcribe every clip once: name -> {text, score, seconds}. ``cache`` is a JSON Lines file that is continued.

    Raises:
        InputError: the clips or the recogniser are missing.
    """
    names = sorted(str(path.relative_to(CLIPS)) for path in CLIPS.rglob("*.g722")) if CLIPS.is_dir() else []
    if not names:
        raise InputError(f"{CLIPS}: no recordings; install Debian's asterisk-core-sounds-en-g722 (`emova data list`)")
    labels: dict[str, dict[str, Any]] = {}
    if cache.is_file():
        for line in cache.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):
                entry = json.loads(line)
                labels[entry["name"]] = entry
    whisper: _Whisper | None = None
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as handle:
        for number, name in enumerate(names):
            report(number, len(names))
            if name in labels:
                continue
            samples = decode(CLIPS / name)
            entry = {"name": name, "text": "", "score": -10.0, "seconds": round(len(samples) / RATE, 3)}
            if entry["seconds"] >= MIN_SECONDS:
                whisper = whisper or _Whisper(sources / "whisper-base", threads)
                entry["text"], entry["score"] = whisper(samples)
            labels[name] = entry
            handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
            handle.flush()
    return labels


def keep(entry: dict[str, Any]) -> bool:
    """Whether a labelled clip is usable: long enough, words in it at a human rate, not silence that was guessed at."""
    sounds = len(phones(entry["text"]))
    return (
        entry["seconds"] >= MIN_SECONDS
        and entry["score"] > -1.1
        and not entry["name"].startswith("silence/")
        and re.search(r"[A-Za-z0-9]", entry["text"]) is not None
        and not _circles(entry["text"], 8)
        and sounds >= 3
        and 2.5 < sounds / entry["seconds"] < 22
    )


def make_real(folder: Path, labels: dict[str, dict[str, Any]], per_shard: int = 200) -> list[ShardInfo]:
    """Write ``real-train`` and ``real-test`` shards into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = []
    for split in ("train", "test"):
        names = [name for name in sorted(labels) if keep(labels[name]) and is_test(name) == (split == "test")]
        for number, start in enumerate(range(0, len(names), per_shard)):
            part = names[start : start + per_shard]
            path = folder / f"real-{split}-{number:06d}.tar"
            plan = hashlib.sha256(json.dumps([_FORMAT, [labels[n] for n in part]]).encode()).hexdigest()
            info = read_info(path)
            if info is None or info.plan != plan:
                samples = [_sample(name, labels[name], split) for name in part]
                seconds = sum(meta["seconds"] for _, _, meta in samples)
                info = ShardInfo(path.name, plan, len(part), round(seconds, 2), write_tar(path, samples))
                write_info(path, info)
            infos.append(info)
    return infos


def _sample(name: str, label: dict[str, Any], split: str) -> tuple[str, bytes, dict[str, Any]]:
    samples = decode(CLIPS / name)
    key = "real_" + re.sub(r"[^A-Za-z0-9]+", "_", name.removesuffix(".g722"))
    meta = {
        "text": label["text"], "phones": phones(label["text"]), "alignment": None, "voice": "asterisk/allison",
        "family": "asterisk", "gender": "female", "emotion": "neutral", "pitch": "normal", "set": "real",
        "split": split, "ids": [name], "seconds": round(len(samples) / RATE, 4), "score": label["score"],
    }  # fmt: skip
    return key, encode_flac(samples, RATE), meta
