"""Recordings of many people: the spoken lines of the game *Flight of the Amazon Queen* (1995), some thirty parts.

Debian's package holds them as MP3 of 11 kHz in one file, with the game's script but without saying which line is which.
A clip's label is the line of the script that Whisper base nearly heard, so that a label has the script's words; clips
that are close to no line, and those that Whisper heard two lines in, are left out.
"""

from __future__ import annotations

import io
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.core.levenshtein import edit_distance
from emova_data.nano.speech.labelled import (
    RATE,
    Label,
    Recordings,
    WhisperLabels,
    at_human_rate,
    label_clips,
    words_of,
)

CONTAINER = Path("/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c")
MIN_SECONDS, MAX_SECONDS = 1.2, 12.0
_NAME_BYTES, _ENTRY = 12, struct.Struct(">BII")  # after the name: bundle, offset, size
_SCRIPTS = (".DOG", ".CUT", ".JAS", ".DATA")
_CLOSE = 0.34  # share of a line's words that may be heard wrong


@dataclass(frozen=True)
class Container:
    """A rebuilt resource file: its bytes, and where each entry lies in them.

    Raises:
        InputError: the file is missing, or not such a file.
    """

    data: bytes
    entries: dict[str, tuple[int, int]]  # name -> offset, size

    @classmethod
    def read(cls, path: Path = CONTAINER) -> Container:
        if not path.is_file():
            raise InputError(f"{path}: no recordings; install Debian's flight-of-the-amazon-queen (`emova data list`)")
        data = path.read_bytes()
        if data[:4] != b"QTBL" or data[12:13] != b"\x01":
            raise InputError(f"{path}: is not the game's resource file with MP3 speech")
        (count,) = struct.unpack_from(">H", data, 13)
        entries = {}
        at = 15
        for _ in range(count):
            name = data[at : at + _NAME_BYTES].rstrip(b"\0").decode("latin-1")
            _, offset, size = _ENTRY.unpack_from(data, at + _NAME_BYTES)
            if offset + size > len(data):
                raise InputError(f"{path}: ends before its entry {name}; install the package again")
            entries[name] = (offset, size)
            at += _NAME_BYTES + _ENTRY.size
        return cls(data, entries)

    def entry(self, name: str) -> bytes:
        """The bytes of one entry."""
        offset, size = self.entries[name]
        return self.data[offset : offset + size]

    def clips(self) -> list[str]:
        """Names of the spoken lines."""
        return sorted(name for name in self.entries if name.endswith(".SB"))

    def samples(self, name: str) -> np.ndarray:
        """Samples ``[T]`` float32 at 16 kHz of a spoken line."""
        import soundfile
        import soxr

        found, rate = soundfile.read(io.BytesIO(self.entry(name)), dtype="float32")
        return soxr.resample(found, rate, RATE).astype(np.float32)

    def script(self) -> list[str]:
        """The lines that are spoken or shown, without the marks between them."""
        lines = set()
        for name in self.entries:
            if name.endswith(_SCRIPTS):
                for run in re.findall(rb"[ -~]{6,}", self.entry(name)):
                    # "*14" and "*WT" are the game's directions; a byte of a length before a line may be a letter.
                    for line in re.split(r"\*[0-9A-Z]{2}|\*.", run.decode("latin-1")):
                        lines.add(re.sub(r"^[^A-Za-z']+(?=[A-Za-z'])|^[A-Za-z]-?(?=[A-Z][a-z'])", "", line).strip())
        return sorted(line for line in lines if len(line.split()) >= 2)


class Script:
    """Finds the line that was nearly heard."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = [(line, words_of(line)) for line in lines]
        self._with_word: dict[str, set[int]] = defaultdict(set)
        for number, (_, words) in enumerate(self._lines):
            for word in words:
                self._with_word[word].add(number)

    def find(self, heard: str) -> str | None:
        """The line closest to ``heard`` by words, or none that is close.

        What is heard twice in a row counts once: a recogniser with a short window repeats itself.
        """
        words = words_of(heard)
        votes: dict[int, int] = defaultdict(int)
        for word in set(words):
            for number in self._with_word.get(word, ()):
                votes[number] += 1
        period = next(
            (p for p in range(1, len(words)) if all(words[i] == words[i - p] for i in range(p, len(words)))), len(words)
        )
        words = words[:period]
        best, best_wrong = None, _CLOSE
        for number in sorted(votes, key=lambda n: (-votes[n], n))[:50]:
            line, wanted = self._lines[number]
            wrong = edit_distance(wanted, words) / len(wanted)
            if wrong < best_wrong:
                best, best_wrong = line, wrong
        return best


def label_actors(
    container: Container, sources: Path, cache: Path, threads: int = 2,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Label]:  # fmt: skip
    """The labels of the clips that are close to a line of the script: name -> {text, score, seconds}."""
    heard = label_clips(
        container.clips(), container.samples, lambda: WhisperLabels(sources / "whisper-base", threads).quick, cache,
        (MIN_SECONDS, MAX_SECONDS), report,
    )  # fmt: skip
    script = Script(container.script())
    labels: dict[str, Label] = {}
    for name, entry in heard.items():
        text = script.find(entry["text"])
        if text is not None and at_human_rate(text, entry["seconds"]):
            labels[name] = {**entry, "text": text}
    return labels


def recordings(container: Container) -> Recordings:
    """The clips as a set of shards."""
    return Recordings(set="actors", voice="queen/actors", family="queen", gender="", decode=container.samples)
