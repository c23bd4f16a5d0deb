"""What is measured of a pair, by the programs that measure it elsewhere too; each part is kept when it is finished.

A row's folder bears a digest of the pair's files, the recordings and the settings: a changed export, other recordings
or another recogniser are measured anew, and what was finished before a kill is only read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.audio import save_wav
from emova_eval.codecs.pairs import Codec, Pair, find_folders
from emova_eval.codecs.speed import speed
from emova_eval.judges.voices import VoiceJudges
from emova_eval.metrics.acoustics import EmotionJudge
from emova_eval.suite.codec import ReconstructionTask, StylesTask
from emova_eval.suite.run_folder import RunFolder
from emova_eval.suite.runner import figure_of, run_task
from emova_eval.suite.samples import Example
from emova_eval.suite.tasks import Recogniser
from emova_eval.tokenizer.measures import at_rate
from emova_eval.tokenizer.program import evaluate
from emova_eval.tokenizer.utterances import RATE, Utterance

UNITS, SPEED, WORDS, STYLES = "units", "speed", "words", "styles"
PARTS = (UNITS, SPEED, WORDS, STYLES)


@dataclass(frozen=True)
class Judges:
    """Who judges what is heard; a recogniser that is not here is ``None``, and ``absent`` says why."""

    recogniser: Recogniser | None
    sound: VoiceJudges
    emotion: EmotionJudge
    absent: str = ""

    @property
    def names(self) -> list[str]:
        """Of all of them; another judge is another scale."""
        others = (self.sound.comparer, self.sound.speaker)
        heard = self.recogniser.name if self.recogniser else ""
        return [heard, self.sound.names, *(each.name if each else "" for each in others), self.emotion.name]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        words: English recordings that are said again and heard by the recogniser.
        styles: of these, how many are said in all 24 styles.
        seconds: of sound in the clocks' test.
        repeats: of the clocks.
    """

    words: int = 24
    styles: int = 4
    seconds: float = 10.0
    repeats: int = 3

    def __post_init__(self) -> None:
        if min(self.words, self.styles, self.repeats) < 1 or self.seconds <= 0:
            raise InputError("codecs: words, styles, repeats and seconds must be above 0")


@dataclass(frozen=True)
class Row:
    """Figures of a pair by name, and of parts that could not be measured the reason."""

    name: str
    kind: str
    figures: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def digest_of(pair: Pair, utterances: Sequence[Utterance], sizes: Sizes, judges: Judges) -> str:
    """A name for what a row stands on; its own name is not of it. Raises: InputError: a part is missing."""
    digest = hashlib.sha256(find_folders(pair).digest.encode())
    digest.update(json.dumps([asdict(sizes), judges.names]).encode())
    for each in utterances:
        digest.update(each.samples.tobytes())
        digest.update(json.dumps([each.sentence, each.phones, each.voice, each.gender, each.emotion]).encode())
    return digest.hexdigest()[:16]


def measure_row(
    pair: Pair, utterances: Sequence[Utterance], sizes: Sizes, judges: Judges, output: Path,
    advance: Callable[[str], None] = print,
) -> Row:  # fmt: skip
    """Measure a pair, or read what is finished of it. Raises: InputError: a part is missing or does not fit."""
    folder = output / "rows" / digest_of(pair, utterances, sizes, judges)
    codec = Codec(pair)  # which sees that the parts fit, before anything is measured or read
    kind = str(getattr(getattr(codec.tokenizer, "config", None), "kind", type(codec.tokenizer).__name__))
    row = Row(pair.name, kind)
    parts: dict[str, Callable[[], Mapping[str, float]]] = {
        UNITS: lambda: evaluate(str(codec.folders.tokenizer), utterances, advance).figures,
        SPEED: lambda: _speed(codec, utterances, sizes),
        WORDS: lambda: _words(codec, utterances, sizes, judges, folder),
        STYLES: lambda: _styles(codec, utterances, sizes, judges, folder),
    }
    for name in PARTS:
        kept = folder / f"{name}.json"
        if kept.is_file():
            row.figures.update(_numbers(json.loads(kept.read_text(encoding="utf-8"))))
            advance(f"{pair.name}: {name} read")
            continue
        if name in (WORDS, STYLES) and codec.voice is None:
            row.missing[name] = "no decoder for these units"
            continue
        if name == WORDS and judges.recogniser is None:
            row.missing[name] = judges.absent
            continue
        advance(f"{pair.name}: {name}")
        figures = dict(parts[name]())
        folder.mkdir(parents=True, exist_ok=True)
        plain = {key: None if math.isnan(value) else round(float(value), 4) for key, value in figures.items()}
        write_text(kept, json.dumps(plain, indent=1) + "\n")
        row.figures.update(_numbers(plain))
    return row


def _numbers(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in found.items() if value is not None}


def _speed(codec: Codec, utterances: Sequence[Utterance], sizes: Sizes) -> dict[str, float]:
    joined = np.concatenate([each.samples for each in utterances])
    samples = np.resize(joined, int(sizes.seconds * RATE)).astype(np.float32)
    voice = codec.voice.detokenizer if codec.voice else None
    return speed(codec.tokenizer, voice, at_rate(samples, codec.tokenizer.sample_rate), sizes.repeats)


def _recordings(utterances: Sequence[Utterance], count: int, folder: Path) -> list[Example]:
    """English recordings with their words, spread over all there are, as files."""
    known = [each for each in utterances if each.language == "en" and each.sentence]
    if not known:
        raise InputError("codecs: no English recording with its words; give others with --data")
    chosen = known[:: max(1, len(known) // count)][:count]
    found = []
    (folder / "recordings").mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(chosen):
        path = folder / "recordings" / f"{number:04d}.wav"
        if not path.is_file():
            save_wav(path, np.clip(each.samples, -1, 1), RATE)
        found.append(Example(f"{number:04d}", each.sentence, str(path), answers=(each.sentence,)))
    return found


def _words(
    codec: Codec, utterances: Sequence[Utterance], sizes: Sizes, judges: Judges, folder: Path
) -> dict[str, float]:
    assert judges.recogniser is not None
    items = _recordings(utterances, sizes.words, folder)
    task = ReconstructionTask("words", items, judges.recogniser, judges.sound)
    figure = figure_of(task, run_task(task, codec, _run(folder, judges)))
    assert figure.value is not None and figure.low is not None and figure.high is not None
    found = {"wer": figure.value, "wer_low": figure.low, "wer_high": figure.high, "wer_failures": figure.failures}
    return found | figure.extra


def _styles(
    codec: Codec, utterances: Sequence[Utterance], sizes: Sizes, judges: Judges, folder: Path
) -> dict[str, float]:
    task = StylesTask("styles", _recordings(utterances, sizes.styles, folder), judges.emotion)
    figure = figure_of(task, run_task(task, codec, _run(folder, judges)))
    assert figure.value is not None
    return {"emotion_right": figure.value, "styles_failures": figure.failures, **figure.extra}


def _run(folder: Path, judges: Judges) -> RunFolder:
    return RunFolder(folder, {"judges": judges.names})
