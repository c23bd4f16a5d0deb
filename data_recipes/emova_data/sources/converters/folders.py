"""Folders of recordings as people have them: with transcripts in one of several layouts, or without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from emova.core.errors import InputError
from emova_data.records.records import BadRecord, Draft, Record, reject
from emova_data.sources.converters import speech
from emova_data.sources.converters.rows import Options

_TRANSCRIPTS = (".txt", ".lab", ".normalized.txt")


def recorded(folder: Path) -> list[Path]:
    """The sound files below ``folder``, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in speech.AUDIO and path.is_file())


def ljspeech(folder: Path, options: Options) -> Iterator[Draft]:
    """LJSpeech and its kin: ``metadata.csv`` of ``KEY|text|normalised text`` beside ``wavs/KEY.wav``."""
    for table in speech.paths_of(folder, "metadata.csv"):
        for number, line in enumerate(speech.listed_lines(table), 1):
            row = line.split("|")
            if len(row) < 2:
                yield Draft(f"{table.name}:{number}", reject("a line without a transcript"))
                continue
            key, words = row[0].strip(), (row[2] if len(row) > 2 and row[2].strip() else row[1])
            yield Draft(key, partial(_named, key, table.parent, key, words, options))


def _named(key: str, folder: Path, name: str, words: str, options: Options) -> Record:
    """An utterance whose file is called ``name``, with or without its ending, in the folder or in ``wavs``."""
    for below in (folder / "wavs", folder):
        for ending in ("", *speech.AUDIO):
            path = below / f"{name}{ending}"
            if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
                return speech.speech_record(
                    key, path, words, options, speaker={"voice": options.get("voice", folder.name)}
                )
    raise BadRecord("a missing file")


def kaldi(folder: Path, options: Options) -> Iterator[Draft]:
    """Kaldi's data folders: ``wav.scp`` and ``text``, and ``segments``, ``utt2spk``, ``spk2gender`` where they are."""
    for listing in speech.paths_of(folder, "wav.scp"):
        here = listing.parent
        paths = dict(speech.fields(listing))
        if not (here / "text").is_file():
            raise InputError(f"{here / 'text'}: missing; Kaldi has it beside wav.scp")
        tables = {name: dict(speech.fields(here / name)) if (here / name).is_file() else {}
                  for name in ("segments", "utt2spk", "spk2gender")}  # fmt: skip
        for key, words in speech.fields(here / "text"):
            name, start, end = key, 0.0, None
            if tables["segments"]:
                try:
                    name, first, last = tables["segments"][key].split()
                    start, end = float(first), float(last)
                except (KeyError, ValueError):
                    yield Draft(key, reject("a segment that is not in its list"))
                    continue
            if name not in paths or paths[name].endswith("|"):
                yield Draft(key, reject("a missing file" if name not in paths else "a command in place of a file"))
                continue
            voice = tables["utt2spk"].get(key, "")
            gender = {"f": "female", "m": "male"}.get(tables["spk2gender"].get(voice, ""))
            words = speech.join_chinese(words) if options.get("language") == "zh" else words
            times = start, end
            yield Draft(key, partial(_listed, key, folder, here, paths[name], words, options, times, voice, gender))


def _listed(
    key: str, root: Path, here: Path, name: str, words: str, options: Options, times: tuple[float, float | None],
    voice: str, gender: str | None,
) -> Record:  # fmt: skip
    """Paths of Kaldi's lists are relative to where its scripts run, to the list, or whole; they stay in the folder."""
    for base in (root, here):
        path = base / name
        if path.resolve().is_relative_to(root.resolve()) and path.is_file():
            speaker = speech.Speaker(voice=voice, gender=gender)
            return speech.speech_record(key, path, words, options, start=times[0], end=times[1], speaker=speaker)
    raise BadRecord("a missing file, or one outside the folder")


def plain(folder: Path, options: Options) -> Iterator[Draft]:
    """Each recording beside a text of the same name: ``a/b.wav`` and ``a/b.txt`` (or ``.lab``)."""
    for path in recorded(folder):
        key = path.relative_to(folder).with_suffix("").as_posix()
        texts = [path.with_name(path.stem + ending) for ending in _TRANSCRIPTS]
        found = next((each for each in texts if each.is_file()), None)
        if found is None:
            yield Draft(key, reject("no transcript"))
            continue
        voice = path.parent.name if path.parent != folder else folder.name
        yield Draft(key, partial(_beside, key, path, found, options, voice))


def _beside(key: str, path: Path, words: Path, options: Options, voice: str) -> Record:
    said = speech.transcript_of(words)
    return speech.speech_record(key, path, " ".join(said.split()), options, speaker={"voice": voice})


LAYOUTS: dict[str, tuple[str, Callable[[Path, Options], Iterator[Draft]]]] = {
    "librispeech": ("*.trans.txt", speech.librispeech),
    "libritts": ("*.normalized.txt", speech.libritts),
    "aishell": ("aishell_transcript*.txt", speech.aishell),
    "kaldi": ("wav.scp", kaldi),
    "ljspeech": ("metadata.csv", ljspeech),
}
"""What tells each layout; all else is ``plain``."""


def layout_of(folder: Path) -> str:
    """The layout of a folder of speech. Raises: InputError: there is no recording in it."""
    for name, (pattern, _) in LAYOUTS.items():
        if next(folder.rglob(pattern), None) is not None:
            return name
    if not recorded(folder):
        raise InputError(f"{folder}: no recordings in it ({', '.join(speech.AUDIO)}); give the folder that has them")
    return "plain"


def transcribed(folder: Path, options: Options) -> Iterator[Draft]:
    """Recordings with transcripts, in the layout that the folder shows. Raises: InputError: there are none."""
    name = str(options.get("layout") or layout_of(folder))
    if name != "plain" and name not in LAYOUTS:
        raise InputError(f"layout {name[:30]!r} is unknown; choose {', '.join([*LAYOUTS, 'plain'])}")
    return plain(folder, options) if name == "plain" else LAYOUTS[name][1](folder, options)


def recordings(folder: Path, options: Options) -> Iterator[Draft]:
    """Recordings alone: speech that is heard and not read, from which voices and tokenizers learn.

    The option ``max_seconds`` cuts what is longer into pieces at that length, at a quiet place of the last two seconds.
    """
    found = recorded(folder)
    if not found:
        raise InputError(f"{folder}: no recordings in it ({', '.join(speech.AUDIO)}); give the folder that has them")
    for path in found:
        key = path.relative_to(folder).with_suffix("").as_posix()
        voice = path.parent.name if path.parent != folder else folder.name
        try:
            pieces = speech.pieces(path, float(options.get("max_seconds", 15.0)))
        except BadRecord as error:
            yield Draft(key, reject(str(error)))
            continue
        for number, (start, end) in enumerate(pieces):
            name = key if len(pieces) == 1 else f"{key}-{number:03d}"
            yield Draft(name, partial(speech.recording_record, name, path, start, end, options, voice))
