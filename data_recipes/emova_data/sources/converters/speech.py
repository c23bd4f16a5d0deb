"""Speech corpora with transcripts, in their own folder layouts, to samples of ``KEY.flac`` and ``KEY.json``.

The JSON has ``text``, ``voice``, ``gender``, ``language`` and ``seconds`` beside a conversation that asks for the
transcript; training turns the same pair round for speaking (EMOVA §5.1, ASR and TTS). Options: ``sample_rate`` (Hz
of the stored audio, default 16000; 0 keeps each recording's own up to 24000), ``language``, ``g2p`` (adds ``phones``,
see ``emova_data.sources.phonemes``), and what a layout's converter names.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from emova.core.errors import InputError
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova_data.records.records import BadRecord, Draft, Media, Record, message, reject, text
from emova_data.sources.converters.rows import Fields, Options
from emova_data.sources.phonemes import phonemizer

AUDIO = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a")
_PUNCTUATION_TAGS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_NO_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}
_CJK_GAP = re.compile(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])")


TOKENIZER_RATE, VOICE_RATE = 16000, 24000
"""Hz that a speech tokenizer hears and a voice is learnt at."""


def cut(path: Path, start: float, end: float | None, rate: int) -> tuple[np.ndarray, int, int]:
    """Seconds ``start`` to ``end`` as [T] float32 mono; their rate in Hz, and that of the file.

    Args:
        rate: wanted; 0 keeps that of the file, up to ``VOICE_RATE``.

    Raises:
        BadRecord: the file is missing or damaged, or ends before.
    """
    import soundfile
    import soxr

    try:
        with soundfile.SoundFile(path) as file:
            first = round(start * file.samplerate)
            last = len(file) if end is None else min(len(file), round(end * file.samplerate))
            if not 0 <= first < last:
                raise BadRecord("a segment outside its recording")
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True)
            if len(samples) < last - first:
                raise BadRecord("a recording cut short")
            found = file.samplerate
    except soundfile.LibsndfileError:
        raise BadRecord("audio that cannot be decoded" if path.is_file() else "a missing file") from None
    mono = samples.mean(axis=1)
    rate = rate or min(found, VOICE_RATE)
    return mono if found == rate else soxr.resample(mono, found, rate), rate, found


def decoded(content: bytes, rate: int) -> tuple[np.ndarray, int, int]:
    """``cut`` of a whole recording in memory. Raises: BadRecord: damaged, empty or silent."""
    import soundfile
    import soxr

    try:
        samples, found = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        raise BadRecord("audio that cannot be decoded") from None
    mono = samples.mean(axis=1)
    if not len(mono) or not np.isfinite(mono).all():
        raise BadRecord("audio that cannot be decoded")
    if not np.abs(mono).max() > 1e-4:
        raise BadRecord("silence")
    rate = rate or min(found, VOICE_RATE)
    return mono if found == rate else soxr.resample(mono, found, rate), rate, found


def rate_notes(found: int) -> tuple[str, ...]:
    """What is said of a recording that has to be upsampled later."""
    if found < TOKENIZER_RATE:
        return (f"recorded at {found} Hz: upsampled for the speech tokenizer, which hears {TOKENIZER_RATE}",)
    if found < VOICE_RATE:
        return (f"recorded at {found} Hz: upsampled where a voice is learnt from it, at {VOICE_RATE}",)
    return ()


def flac(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


class Speaker(TypedDict, total=False):
    """Of a record: who speaks, as far as the corpus has a place for it; None where it does not say."""

    voice: str
    gender: str | None


NOBODY: Speaker = {}


def speech_record(
    identity: str,
    path: Path,
    words: str,
    options: Options,
    *,
    start: float = 0.0,
    end: float | None = None,
    speaker: Speaker = NOBODY,
) -> Record:
    """One utterance with its transcript.

    Raises:
        BadRecord: no words, or the audio is missing, damaged, silent, too short or too long.
    """
    words = words.strip()
    if not words:
        raise BadRecord("no transcript")
    samples, rate, found = cut(path, start, end, int(options.get("sample_rate", TOKENIZER_RATE)))
    seconds = len(samples) / rate
    if not float(options.get("min_seconds", 0.1)) <= seconds <= float(options.get("max_seconds", 40.0)):
        raise BadRecord("too short or too long")
    if not np.abs(samples).max() > 1e-4:
        raise BadRecord("silence")
    messages = [message("user", {"type": "audio", "audio": "flac"}), message("assistant", text(words))]
    language = str(options.get("language", "en"))
    extra: dict[str, object] = {"task": "speech", "text": words, "language": language}
    extra |= {"seconds": round(seconds, 4), "sample_rate": rate, **speaker}
    notes = rate_notes(found)
    to_phones = phonemizer(str(options["g2p"]), language) if "g2p" in options else None
    if to_phones is not None:
        phones = to_phones(words)
        if not phones:
            raise BadRecord("no sound in its words that --g2p knows: another language?")
        extra["phones"] = phones
        unknown = DEFAULT_PHONES.ids(phones).unknown
        notes += tuple(f"the phone {phone} is not in the default inventory" for phone in sorted(unknown))
    return Record(identity, messages, (Media("flac", flac(samples, rate)),), extra, notes)


def paths_of(folder: Path, pattern: str) -> list[Path]:
    paths = sorted(folder.rglob(pattern))
    if not paths:
        raise InputError(f"{folder}: no {pattern} in it; fetch the source, or give its folder by --from")
    return paths


def listed_lines(path: Path) -> list[str]:
    """The lines of a list of transcripts, keys or speakers. Raises: InputError: it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start:,} is not UTF-8; save the file as UTF-8") from None


def transcript_of(path: Path) -> str:
    """What one recording's own file says. Raises: BadRecord: it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadRecord("a transcript that is not UTF-8") from None


def _speakers(folder: Path) -> dict[str, str]:
    """Speaker -> gender from ``SPEAKERS.TXT`` (LibriSpeech) or ``speakers.tsv`` (LibriTTS), where there is one."""
    genders = {}
    for path in (*folder.rglob("SPEAKERS.TXT"), *folder.rglob("speakers.tsv")):
        for line in listed_lines(path):
            fields = [field.strip() for field in re.split(r"[|\t]", line)]
            if len(fields) > 1 and fields[0].isdigit() and fields[1] in ("F", "M"):
                genders[fields[0]] = "female" if fields[1] == "F" else "male"
    return genders


def sentence_case(words: str) -> str:
    """Transcripts in capitals as sentences would be written: lower case, capital at the start, ``I`` as a word."""
    lower = re.sub(r"\bi\b", "I", words.lower())
    return lower[:1].upper() + lower[1:]


def librispeech(folder: Path, options: Options) -> Iterator[Draft]:
    """``SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files; text in capitals unless ``case: keep``."""
    genders = _speakers(folder)
    for listing in paths_of(folder, "*.trans.txt"):
        for line in listed_lines(listing):
            key, _, words = line.partition(" ")
            voice = key.split("-")[0]
            shaped = words if options.get("case") == "keep" else sentence_case(words)
            path, gender = listing.parent / f"{key}.flac", genders.get(voice)
            yield Draft(
                key, partial(speech_record, key, path, shaped, options, speaker={"voice": voice, "gender": gender})
            )


def libritts(folder: Path, options: Options) -> Iterator[Draft]:
    """``SPLIT/SPEAKER/CHAPTER/NAME.wav`` beside ``NAME.normalized.txt``."""
    genders = _speakers(folder)
    for listing in paths_of(folder, "*.normalized.txt"):
        key = listing.name.removesuffix(".normalized.txt")
        voice = key.split("_")[0]
        yield Draft(key, partial(_libritts, key, listing, options, {"voice": voice, "gender": genders.get(voice)}))


def _libritts(key: str, listing: Path, options: Options, speaker: Speaker) -> Record:
    words = transcript_of(listing)
    return speech_record(key, listing.with_name(f"{key}.wav"), words, options, speaker=speaker)


def join_chinese(words: str) -> str:
    """Segmented Chinese without the spaces between characters; spaces around Latin words stay."""
    return _CJK_GAP.sub("", words.strip())


def aishell(folder: Path, options: Options) -> Iterator[Draft]:
    """AISHELL-1: ``transcript/aishell_transcript_v0.8.txt`` and ``wav/SPLIT/SPEAKER/KEY.wav``; option ``split``."""
    words_of = {}
    for listing in paths_of(folder, "aishell_transcript*.txt"):
        for line in listed_lines(listing):
            key, _, words = line.partition(" ")
            words_of[key] = join_chinese(words)
    for path in paths_of(folder, f"wav/{options.get('split', 'train')}/*/*.wav"):
        words, voice = words_of.get(path.stem, ""), path.parent.name
        yield Draft(path.stem, partial(speech_record, path.stem, path, words, options, speaker={"voice": voice}))


def aishell2(folder: Path, options: Options) -> Iterator[Draft]:
    """AISHELL-2: ``wav.scp`` (key, path) and ``trans.txt`` (key, words) side by side, tab- or space-separated."""
    for listing in paths_of(folder, "trans.txt"):
        table = listing.with_name("wav.scp")
        if not table.is_file():
            raise InputError(f"{table}: missing; AISHELL-2 has it beside trans.txt")
        paths = dict(fields(table))
        for key, words in fields(listing):
            voice = re.sub(r"^[A-Z]*|W\d+$", "", key)
            if key not in paths:
                yield Draft(key, reject("a missing file"))
                continue
            words = join_chinese(words)
            yield Draft(key, partial(_below, key, listing.parent, paths[key], words, options, {"voice": voice}))


def _below(key: str, folder: Path, name: str, words: str, options: Options, speaker: Speaker) -> Record:
    return speech_record(key, _inside(folder, name), words, options, speaker=speaker)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadRecord("a path that leaves its folder")
    return path


def fields(path: Path) -> Iterable[tuple[str, str]]:
    for line in listed_lines(path):
        if line.strip():
            key, _, rest = line.replace("\t", " ").partition(" ")
            yield key, rest.strip()


def _audios(folder: Path, listing: str) -> Iterator[Fields]:
    """The recordings of GigaSpeech's and WenetSpeech's one large JSON, each with its segments."""
    for path in paths_of(folder, listing):
        try:
            yield from json.loads(path.read_text(encoding="utf-8"))["audios"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: not the corpus's JSON, or cut short; fetch it again") from None


def _segments(folder: Path, listing: str) -> Iterator[tuple[Fields, Fields]]:
    """(recording, segment) pairs."""
    for audio in _audios(folder, listing):
        for segment in audio.get("segments", ()):
            yield audio, segment


def unlabelled(folder: Path, listing: str, options: Options) -> Iterator[Draft]:
    """What is heard in GigaSpeech or WenetSpeech, whatever is known of its words: each segment, and recordings that
    have none in pieces cut at quiet places. Options: ``subset``, ``max_seconds`` (default 15)."""
    wanted, longest = options.get("subset"), float(options.get("max_seconds", 15.0))
    for audio in _audios(folder, listing):
        voice, segments = str(audio.get("aid")), audio.get("segments", ())
        chosen = [each for each in segments if not wanted or wanted in each.get("subsets", ())]
        for each in chosen:
            key = str(each.get("sid"))
            yield Draft(key, partial(_heard, key, folder, audio, each, options, voice))
        if segments:
            continue
        try:
            path = _inside(folder, audio["path"])
            places = pieces(path, longest)
        except BadRecord as error:
            yield Draft(voice, reject(str(error)))
            continue
        for number, (start, end) in enumerate(places):
            key = f"{voice}-{number:05d}"
            yield Draft(key, partial(recording_record, key, path, start, end, options, voice))


def _heard(key: str, folder: Path, audio: Fields, segment: Fields, options: Options, voice: str) -> Record:
    start, end = float(segment["begin_time"]), float(segment["end_time"])
    return recording_record(key, _inside(folder, audio["path"]), start, end, options, voice)


def pieces(path: Path, longest: float) -> list[tuple[float, float]]:
    """(start, end) in s of stretches of at most ``longest``, cut at a quiet place of their last two seconds.

    Raises:
        BadRecord: the file is missing or damaged.
    """
    samples, rate, _ = cut(path, 0.0, None, 8000)
    level = np.abs(samples[: len(samples) // 80 * 80]).reshape(-1, 80).mean(axis=1)  # of 10 ms each
    whole, start = len(samples) / rate, 0.0
    found = []
    while whole - start > longest:
        first, last = int((start + longest - 2.0) * 100), int((start + longest) * 100)
        end = (max(first, 0) + int(np.argmin(np.convolve(level[max(first, 0) : last], np.ones(9) / 9, "same")))) / 100
        end = max(end, start + 0.5)
        found.append((start, end))
        start = end
    return [*found, (start, whole)]


def recording_record(key: str, path: Path, start: float, end: float, options: Options, voice: str) -> Record:
    """A stretch of a recording without its words. Raises: BadRecord: see ``cut``; too short, or silent."""
    samples, rate, found = cut(path, start, end, int(options.get("sample_rate", 0)))
    if len(samples) < 0.3 * rate:
        raise BadRecord("too short or too long")
    if not np.abs(samples).max() > 1e-4:
        raise BadRecord("silence")
    extra = {"task": "recording", "text": "", "language": options.get("language", "en"), "voice": voice,
             "seconds": round(len(samples) / rate, 4), "sample_rate": rate}  # fmt: skip
    heard = message("document", {"type": "audio", "audio": "flac"})
    return Record(key, [heard], (Media("flac", flac(samples, rate)),), extra, rate_notes(found))


def gigaspeech(folder: Path, options: Options) -> Iterator[Draft]:
    """GigaSpeech.json and the recordings it names; options ``subset`` (``{XS}`` ... ``{XL}``), and ``unlabelled``:
    without transcripts (``unlabelled``)."""
    if options.get("unlabelled"):
        yield from unlabelled(folder, "GigaSpeech*.json", options)
        return
    wanted = options.get("subset")
    for audio, segment in _segments(folder, "GigaSpeech*.json"):
        if not wanted or wanted in segment.get("subsets", ()):
            key = str(segment.get("sid"))
            yield Draft(key, partial(_gigaspeech, folder, audio, segment, key, options))


def _gigaspeech(folder: Path, audio: Fields, segment: Fields, key: str, options: Options) -> Record:
    words = segment["text_tn"].split()
    if _NO_SPEECH & set(words):
        raise BadRecord("no transcript")
    joined = ""
    for word in words:
        joined += _PUNCTUATION_TAGS.get(word, f" {word}")
    start, end = float(segment["begin_time"]), float(segment["end_time"])
    path, voice = _inside(folder, audio["path"]), str(segment.get("speaker", "N/A"))
    return speech_record(
        key, path, sentence_case(joined.strip()), options, start=start, end=end, speaker={"voice": voice}
    )


def wenetspeech(folder: Path, options: Options) -> Iterator[Draft]:
    """WenetSpeech.json and the recordings it names; options ``subset``, ``min_confidence`` (default 0.95), and
    ``unlabelled``: without transcripts (``unlabelled``)."""
    if options.get("unlabelled"):
        yield from unlabelled(folder, "WenetSpeech*.json", options)
        return
    wanted, floor = options.get("subset"), float(options.get("min_confidence", 0.95))
    for audio, segment in _segments(folder, "WenetSpeech*.json"):
        if float(segment.get("confidence", 1.0)) < floor or (wanted and wanted not in segment.get("subsets", ())):
            continue
        key = str(segment.get("sid"))
        yield Draft(key, partial(_wenetspeech, folder, audio, segment, key, options))


def _wenetspeech(folder: Path, audio: Fields, segment: Fields, key: str, options: Options) -> Record:
    start, end = float(segment["begin_time"]), float(segment["end_time"])
    path = _inside(folder, audio["path"])
    return speech_record(key, path, join_chinese(segment["text"]), options, start=start, end=end)
