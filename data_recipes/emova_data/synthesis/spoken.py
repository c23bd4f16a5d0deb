"""Written questions and stories as spoken ones: what the spoken tasks of ``emova eval`` ask.

GLM-4-Voice (section 5.1) synthesises the contexts and endings of its Tables 3 and 4 with voices of many speakers, and
publishes none of them. Here any back end speaks a folder of written ones, each line by a speaker of its own; the
endings of a story are spoken by who tells it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.core.writing import make_folder, write_bytes, write_text
from emova_data.records.records import BadRecord
from emova_data.sources.phonemes import AUTO
from emova_data.synthesis.speech_text import language_of
from emova_data.synthesis.tts import Speaker, Speech, at_rate, backend, speakers

META = "meta.jsonl"
KEPT = ("id", "text", "answer", "choices", "metric", "group")
Line = dict[str, str | list[str]]


@dataclass(frozen=True)
class SpokenSpeechConfig:
    """Who speaks: ``backend`` hibari, kokoro, piper, cosyvoice or azure; ``address`` for the last two; ``sample_rate``
    in Hz."""

    backend: str = "kokoro"
    address: str = ""
    sources: str = "data/nano/sources"
    sample_rate: int = 24000


@dataclass(frozen=True)
class SpokenConfig:
    """One run.

    Attributes:
        input: a folder with ``meta.jsonl`` as ``emova eval own`` reads it, or such a file: ``text`` is what is spoken.
        output: the folder of the spoken ones; recordings that it has are not made again.
        endings: whether a line's two ``choices`` are spoken too, for stories from speech to speech.
        language: en or zh; auto looks at each text.
        limit: lines at most; 0 takes all.
        seed: of the speakers.
    """

    input: str = ""
    output: str = "data/spoken"
    endings: bool = False
    language: str = AUTO
    limit: int = 0
    seed: int = 0
    speech: SpokenSpeechConfig = field(default_factory=SpokenSpeechConfig)

    def __post_init__(self) -> None:
        if self.language not in (AUTO, "en", "zh"):
            raise InputError(f"language={self.language}: unknown; give auto, en or zh")
        if self.limit < 0:
            raise InputError(f"limit={self.limit}: give 0 or more")


def read_lines(config: SpokenConfig) -> list[Line]:
    """The lines that will be spoken. Raises: InputError: naming the file, the line and what is wrong with it."""
    path = Path(config.input or ".")
    path = path / META if path.is_dir() else path
    if not config.input:
        raise InputError(f"input: give a folder with {META}, or such a file")
    try:
        raw = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read; give a folder with {META} in UTF-8, or such a file") from None
    found: list[Line] = []
    for number, line in enumerate(raw, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise InputError(f"{where}: not JSON") from None
        if not isinstance(row, dict) or not str(row.get("text", "")).strip():
            raise InputError(f"{where}: no text to be spoken")
        if others := sorted(row.keys() - set(KEPT)):
            raise InputError(f"{where}: {others[0]!r} is not carried over; give {', '.join(KEPT)}")
        if row.get("answer") in (None, "", []):
            raise InputError(f"{where}: no answer")
        choices = row.get("choices")
        if config.endings and not (isinstance(choices, list) and len(choices) == 2):
            raise InputError(f"{where}: endings=true needs two choices, the right and the wrong one")
        found.append({"id": str(number), **row})
        if config.limit and len(found) == config.limit:
            break
    if not found:
        raise InputError(f"{path}: no lines")
    return found


def record(words: str, speaker: Speaker, config: SpokenConfig, speech: Speech) -> str:
    """Speak ``words`` into the folder; the file's name, which tells what was said and by whom.

    Raises:
        BadRecord: why it is left out.
    """
    from emova_data.nano.speech.shard_maker import encode_flac

    rate = config.speech.sample_rate
    language = language_of(words) if config.language == AUTO else config.language
    if language not in speech.languages:
        raise BadRecord("a language that the voices do not speak")
    told = [config.speech.backend, config.speech.address, speaker.name, language, rate, config.seed, words]
    path = Path(config.output) / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]}.flac"
    if path.is_file():
        return path.name
    samples, found = speech.speak(words, speaker, "neutral", "normal", language, config.seed)
    samples = at_rate(samples, found, rate)
    write_bytes(path, encode_flac(samples, rate))
    return path.name


def spoken(line: Line, config: SpokenConfig, speech: Speech) -> Line:
    """The line as it is asked by voice. Raises: BadRecord: why it is left out."""
    many: Sequence[Speaker] = speakers()
    speaker = many[int(generator(config.seed, str(line["id"])).integers(len(many)))]
    row: Line = {key: value for key, value in line.items() if key != "text"}
    row["audio"] = record(str(line["text"]).strip(), speaker, config, speech)
    if config.endings:
        row["choices"] = [record(str(choice).strip(), speaker, config, speech) for choice in line["choices"]]
    return row


def synthesise(config: SpokenConfig, speech: Speech | None = None) -> tuple[int, Counter[str]]:
    """Speak all lines, or go on; how many, and how many were left out for each reason.

    Raises:
        InputError: a line or a setting is wrong, or nothing could be spoken.
    """
    from rich.console import Console
    from rich.progress import track

    lines = read_lines(config)
    given = config.speech
    speech = speech or backend(given.backend, sources=Path(given.sources), address=given.address)
    folder = make_folder(config.output)
    rows: list[Line] = []
    skipped: Counter[str] = Counter()
    for line in track(lines, "speaking", console=Console(stderr=True), transient=True):
        try:
            rows.append(spoken(line, config, speech))
        except BadRecord as error:
            skipped[str(error)] += 1
    if not rows:
        raise InputError(f"{config.input}: none of {len(lines)} lines could be spoken: {next(iter(skipped))}")
    write_text(folder / META, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows), skipped


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise spoken``. Raises: InputError."""
    config = load_config(SpokenConfig, path, overrides, kind="data")
    count, skipped = synthesise(config)
    print(f"{count} spoken in {config.output}; ask them with --data {config.output}")
    for reason, number in sorted(skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {number}: {reason}")
    return 0
