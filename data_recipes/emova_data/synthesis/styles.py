"""Style-rich speech (EMOVA App. A.2): every sentence in all 24 styles, by any back end that has styles.

What teaches a voice its styles, and what their prototypes are chosen from: 2 genders x 4 emotions x 3 pitches x K
candidates. A candidate is a sentence by one speaker of the gender, the same in all of the gender's styles, so that what
differs between two recordings of a candidate is the style alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.speech.style import DEFAULT_STYLES, Style
from emova_data.records.parallel import in_pool
from emova_data.records.records import BadRecord, Draft, Media, Record, message, text
from emova_data.records.shard_writer import read_set
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert
from emova_data.sources.phonemes import AUTO, phonemizer
from emova_data.synthesis.speech_text import language_of
from emova_data.synthesis.tts import Speaker, Speech, at_rate, backend, speakers

STYLED = ("hibari", "kokoro", "cosyvoice", "azure")
"""The back ends whose voices have emotions and pitches; of kokoro's those that speak Mandarin."""
ONE, ALL = "one", "all"


@dataclass(frozen=True)
class StyledSpeechConfig:
    """Who speaks: ``backend`` hibari, kokoro (Mandarin alone), cosyvoice or azure; ``address`` for the last two;
    ``sample_rate`` in Hz."""

    backend: str = "hibari"
    address: str = ""
    sources: str = "data/nano/sources"
    sample_rate: int = 24000


@dataclass(frozen=True)
class StylesConfig:
    """One run.

    Attributes:
        input: a text file with a sentence a line; empty takes ``sentences``.
        sentences: what is said where there is no file. Their own meaning should carry no feeling.
        candidates: sentences a style; each style has so many recordings.
        speakers: ``one`` a gender, as a voice with styles has, or ``all`` 39, drawn by sentence.
        language: en or zh; auto looks at each sentence.
        output, name, split: folder of the shards, and what goes into their names.
        seed: of every random choice.
        per_shard, jobs: records in a shard, processes.
    """

    input: str = ""
    sentences: list[str] = field(default_factory=list)
    candidates: int = 40
    speakers: str = ONE
    language: str = AUTO
    output: str = "data/sets/styles"
    name: str = "styles"
    split: str = "train"
    seed: int = 0
    per_shard: int = 240
    jobs: int = 1
    speech: StyledSpeechConfig = field(default_factory=StyledSpeechConfig)

    def __post_init__(self) -> None:
        if self.speakers not in (ONE, ALL):
            raise InputError(f"speakers={self.speakers}: unknown; give {ONE} or {ALL}")
        if self.language not in (AUTO, "en", "zh"):
            raise InputError(f"language={self.language}: unknown; give auto, en or zh")
        if min(self.candidates, self.per_shard, self.jobs) < 1:
            raise InputError("candidates, per_shard and jobs are at least 1")
        if self.speech.backend not in STYLED:
            raise InputError(
                f"speech.backend={self.speech.backend}: its voices have no styles; choose {', '.join(STYLED)}"
            )


def sentences_of(config: StylesConfig) -> list[str]:
    """The first ``candidates`` sentences. Raises: InputError: there are fewer, or the file cannot be read."""
    found = list(config.sentences)
    if config.input:
        try:
            found = Path(config.input).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"input={config.input}: cannot be read; give a text file with a sentence a line") from None
    found = list(dict.fromkeys(line.strip() for line in found if line.strip()))
    if len(found) < config.candidates:
        where = config.input or "sentences"
        raise InputError(
            f"{where}: {len(found)} sentences for candidates={config.candidates}; give more, or lower candidates"
        )
    return found[: config.candidates]


def speaker_of(config: StylesConfig, sentence: str, gender: str) -> Speaker:
    """Who says ``sentence`` in all styles of ``gender``."""
    fitting = [speaker for speaker in speakers() if speaker.gender == gender]
    if config.speakers == ALL:
        return fitting[int(generator(config.seed, sentence, gender).integers(len(fitting)))]
    first = fitting[0]  # hibari's canonical voice is called as its gender is
    return dataclasses.replace(first, hibari=gender)


def recording(identity: str, sentence: str, style: Style, config: StylesConfig, speech: Speech) -> Record:
    """One sentence in one style. Raises: BadRecord: why it is left out."""
    from emova_data.nano.speech.shard_maker import encode_flac

    language = language_of(sentence) if config.language == AUTO else config.language
    if language not in speech.languages or (config.speech.backend == "kokoro" and language != "zh"):
        raise BadRecord("a language that the voices do not speak, or have no styles in")
    speaker, rate = speaker_of(config, sentence, style.gender), config.speech.sample_rate
    samples, found = speech.speak(sentence, speaker, style.emotion, style.pitch, language, config.seed)
    samples = at_rate(samples, found, rate)
    to_phones = phonemizer(AUTO, language)
    extra = {
        "task": "speech", "text": sentence, "language": language, "seconds": round(len(samples) / rate, 4),
        "sample_rate": rate, "voice": f"{config.speech.backend}/{speaker.name}", "gender": style.gender,
        "emotion": style.emotion, "pitch": style.pitch, "split": config.split,
        **({} if to_phones is None else {"phones": to_phones(sentence)}),
    }  # fmt: skip
    turns = [message("user", {"type": "audio", "audio": "flac"}), message("assistant", text(sentence))]
    notes = (f"spoken at {found} Hz, below {rate}",) if found < rate else ()
    return Record(identity, turns, (Media("flac", encode_flac(samples, rate)),), extra, notes)


_worker: tuple[StylesConfig, Speech] | None = None


def _start(config: StylesConfig) -> None:
    global _worker
    speech = config.speech
    _worker = config, backend(speech.backend, sources=Path(speech.sources), address=speech.address)


def _job(identity: str, sentence: str, style: Style) -> Record:
    assert _worker is not None
    return recording(identity, sentence, style, *_worker)


def drafts(config: StylesConfig) -> Iterator[Draft]:
    """All styles of a sentence, then those of the next."""
    for number, sentence in enumerate(sentences_of(config)):
        for style in DEFAULT_STYLES:
            identity = f"{number:05d}-{style.key}"
            yield Draft(identity, partial(_job, identity, sentence, style))


def synthesise(config: StylesConfig, speech: Speech | None = None) -> ConvertResult:
    """Run or go on with ``config``; ``speech`` replaces the configured back end (in this process alone).

    Raises:
        InputError: a setting is wrong, or nothing could be made.
    """
    global _worker
    build = None
    if config.jobs > 1 and speech is None:
        build = in_pool(config.jobs, _start, config)
    elif speech is None:
        _start(config)
    else:
        _worker = config, speech
    settings = ConvertConfig(config.per_shard, max_skip_rate=1.0)
    told = json.dumps([sentences_of(config), config.speakers, config.seed, config.language, config.speech.backend])
    return convert(
        drafts(config), Path(config.output), config.name, split=config.split, config=settings, build=build,
        made_from=told,
    )  # fmt: skip


def statistics(folder: Path) -> dict[str, int]:
    """Recordings of each style."""
    counts = Counter(Style(each["gender"], each["emotion"], each["pitch"]).key for each in read_set(folder))
    return {style.key: counts[style.key] for style in DEFAULT_STYLES}


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise styles``. Raises: InputError."""
    config = load_config(StylesConfig, path, overrides, kind="data")
    result = synthesise(config)
    print(f"{result.records} recordings in {len(result.shards)} shards in {config.output}")
    for reason, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {count}: {reason}")
    for note, count in sorted(result.notes.items(), key=lambda item: -item[1]):
        print(f"  {count} of them: {note}")
    print(json.dumps(statistics(Path(config.output)), indent=1))
    return 0
