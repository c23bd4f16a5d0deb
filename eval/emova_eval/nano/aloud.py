"""Reading aloud, on sentences of writers that no training reads: words wrong, by voice and by source.

    python -m emova_eval.nano.aloud --model runs/stage3-nano-aloud/export --sentences 60

A folder without a speech tokenizer and detokenizer takes those of ``--parts``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TypedDict

import numpy as np

from emova.cli.main import Parser, run_program
from emova.speech.style import DEFAULT_STYLES, Style
from emova_eval.judges.words import JUDGE_RATE, WhisperJudge
from emova_eval.metrics.text import ErrorRate, word_errors
from emova_eval.models.assistant import completed
from emova_eval.nano.data import TextRow, read_lines


def chosen(path: Path, count: int) -> list[TextRow]:
    """The first ``count`` of the test's sentences, the sources in turn. Raises: InputError: there is no such file."""
    by_source: dict[str, list[TextRow]] = defaultdict(list)
    for row in read_lines(path):
        by_source[row["source"]].append(row)
    turns = max(map(len, by_source.values()), default=0)
    dealt = [rows[turn] for turn in range(turns) for rows in by_source.values() if turn < len(rows)]
    return dealt[:count]


class Heard(TypedDict):
    """A sentence by a voice, the judge's words, and how many of them are wrong."""

    text: str
    voice: str
    heard: str
    edits: int
    words: int
    units: int


class Found(TypedDict):
    """Shares of words wrong by voice, and by voice and source; ``early`` and ``long``: sentences whose speech is
    shorter than 60 %, longer than 170 % of what 14 characters a second take."""

    wer: dict[str, float]
    sources: dict[str, dict[str, float]]
    early: int
    long: int
    heard: list[Heard]


def measure(model: Path, rows: list[TextRow], judge: WhisperJudge, voices: tuple[str, ...]) -> Found:
    """Words wrong of each voice and source, and what was heard."""
    import soxr

    from emova.assistant import Assistant

    assistant = Assistant.from_pretrained(str(model))
    errors: dict[str, dict[str, ErrorRate]] = {voice: defaultdict(lambda: ErrorRate(0, 0)) for voice in voices}
    heard: list[Heard] = []
    early = long = 0
    for row in rows:
        units = assistant.pronounce(row["text"])
        wanted = assistant.voice.detokenizer.unit_rate * len(row["text"]) / 14
        early += len(units) < 0.6 * wanted
        long += len(units) > 1.7 * wanted
        for voice in voices:
            said = assistant.render(units, Style(voice, "neutral", "normal"))
            samples = np.asarray(soxr.resample(said.audio, said.sample_rate, JUDGE_RATE), np.float32)
            words = judge.transcribe(samples) if len(samples) else ""
            found = word_errors(row["text"], words)
            errors[voice][row["source"]] += found
            heard.append({"text": row["text"], "voice": voice, "heard": words, "edits": found.edits,
                          "words": found.reference_tokens, "units": len(units)})  # fmt: skip
    return {
        "wer": {voice: round(sum(own.values(), ErrorRate(0, 0)).rate, 4) for voice, own in errors.items()},
        "sources": {voice: {name: round(each.rate, 4) for name, each in own.items()} for voice, own in errors.items()},
        "early": early,
        "long": long,
        "heard": heard,
    }


def main() -> int:
    parser = Parser(prog="python -m emova_eval.nano.aloud", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("emova/checkpoints/emova-nano"))
    parser.add_argument("--parts", type=Path, default=Path("emova/checkpoints/emova-nano"))
    parser.add_argument("--test", type=Path, default=Path("data/nano/text/aloud_test.jsonl"))
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--voices", nargs="+", default=list(DEFAULT_STYLES.voices), choices=DEFAULT_STYLES.voices)
    parser.add_argument("--judge", type=Path, default=Path("data/nano/sources/whisper-base"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSONL file to which the figures are added")
    arguments = parser.parse_args()
    rows = chosen(arguments.test, arguments.sentences)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = completed(arguments.model, arguments.parts, Path(folder))
        judge = WhisperJudge(arguments.judge, threads=arguments.threads)
        found = measure(model, rows, judge, tuple(arguments.voices))
    for row in found["heard"][:: max(1, len(found["heard"]) // 12)]:
        print(f"{row['edits']}/{row['words']}  {row['text']}  ->  {row['heard']}", file=sys.stderr)
    figures = {"model": str(arguments.model), "sentences": len(rows), "time": round(time.time()),
               "seconds": round(time.monotonic() - started),
               **{key: value for key, value in found.items() if key != "heard"}}  # fmt: skip
    print(json.dumps(figures))
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**figures, "heard": found["heard"]}) + "\n")
    return 0


if __name__ == "__main__":
    run_program(main)
