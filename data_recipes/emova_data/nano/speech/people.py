"""Recordings of people that no training hears, with their words: what hearing is measured on beyond synthetic voices.

A reader of LibriVox and a player of cards (Debian ``pocketsphinx-testdata``, BSD), and the spoken captions of
tuxpaint's stamps (Debian ``tuxpaint-stamps-default``).

    python -m emova_data.nano.speech.people --root data
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.writing import make_folder
from emova_data.nano.aloud.packages import unpack_debian
from emova_data.nano.pictures.library import STAMPS
from emova_data.nano.speech.labelled import RATE
from emova_data.nano.speech.shard_maker import encode_flac, write_tar
from emova_data.records.recordings import RecordingFields

PACKAGE = "pocketsphinx-testdata"
INSIDE = "usr/share/pocketsphinx/test/data"


@dataclass(frozen=True)
class Clip:
    """What somebody says."""

    voice: str
    text: str
    path: Path


def read_aloud(folder: Path) -> Iterator[Clip]:
    """LibriVox's reader and the player of cards. Raises: InputError: the folder has none of them."""
    for voice, listed in (("librivox", "librivox/transcription"), ("cards", "cards/cards.transcription")):
        path = folder / listed
        if not path.is_file():
            raise InputError(f"{path}: not there; is {folder} what `{PACKAGE}` holds?")
        for line in path.read_text(encoding="utf-8").splitlines():
            if found := re.fullmatch(r"<s>(.+)</s>\s*\((.+)\)\s*", line.strip()):
                yield Clip(voice, " ".join(found[1].split()), path.parent / f"{found[2]}.wav")


def captions(folder: Path = STAMPS) -> Iterator[Clip]:
    """tuxpaint's spoken captions. Raises: InputError: the stamps are not installed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no stamps; install Debian's `tuxpaint-stamps-default`")
    for path in sorted(folder.rglob("*_desc.ogg")):
        written = path.with_name(path.name.replace("_desc.ogg", ".txt"))
        first = written.read_text(encoding="utf-8", errors="ignore").splitlines()[:1] if written.is_file() else []
        if first and first[0].strip():
            yield Clip("tuxpaint", first[0].strip(), path)


def make(root: Path) -> int:
    """Write ``nano/speech/people_of-others-000000.tar`` below ``root``; how many clips it holds.

    Raises:
        InputError: a package can be neither found nor fetched.
    """
    sources, out = root / "nano" / "sources" / "people", root / "nano" / "speech"
    if not sources.is_dir():
        unpack_debian((PACKAGE,), sources)
    make_folder(out)
    clips = [*read_aloud(sources / INSIDE), *captions()]
    samples: list[tuple[str, bytes, RecordingFields]] = []
    for number, clip in enumerate(clips):
        sound, rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
        mono = np.asarray(soxr.resample(sound.mean(1), rate, RATE), np.float32)
        fields: RecordingFields = {
            "text": clip.text, "voice": clip.voice, "seconds": round(len(mono) / RATE, 3), "split": "test",
        }  # fmt: skip
        samples.append((f"people-{number:04d}", encode_flac(mono, RATE), fields))
    write_tar(out / "people_of-others-000000.tar", samples)
    return len(clips)


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.speech.people", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("data"))
    print(f"{make(parser.parse_args().root)} recordings", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
