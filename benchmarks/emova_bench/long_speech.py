"""Questions after long speech: words wrong and answers right, where the model reads all of it at once and where its
beginning leaves as words (``emova.session.long_speech``).

A talk is several of the fixture questions, one after another, of which the last is to be answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import emova_eval
from emova import Assistant
from emova.cli.main import run_program
from emova.core.errors import InputError, UnfitReplyError
from emova.speech.audio import load_audio
from emova_bench.common import arguments, parse, report
from emova_eval.metrics.text import ErrorRate, word_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIXTURES = Path(emova_eval.__file__).parent / "fixtures"
RATE = 16_000


class AtOnce(Assistant):
    """Reads all of the speech, however long it is."""

    @property
    def speech_window(self) -> int:
        """All positions."""
        return self.decoder.max_length


def talks(seconds: float, count: int) -> Iterator[tuple[np.ndarray, str, str]]:
    """Samples ``[T]`` at 16 kHz of about so many seconds, what they say, and what an answer must contain."""
    rows = [json.loads(line) for line in (FIXTURES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["kind"] == "fact" and not row["image"]]
    random = np.random.default_rng(0)
    for number in range(count):
        asked = rows[number % len(rows)]
        parts, said = [load_audio(FIXTURES / asked["audio"], RATE)], [asked["question"]]
        while True:
            row = rows[int(random.integers(len(rows)))]
            sound = load_audio(FIXTURES / row["audio"], RATE)
            breath = np.zeros(int(random.uniform(0.15, 0.6) * RATE), dtype=np.float32)
            if sum(map(len, parts)) + len(sound) + len(breath) > seconds * RATE:
                break
            parts, said = [sound, breath, *parts], [row["question"], *said]
        yield np.concatenate(parts), " ".join(said), asked["fact"]


def heard(assistant: Assistant, sound: np.ndarray) -> tuple[str, str]:
    """The transcript and the answer; nothing where the answer failed."""
    try:
        reply = assistant.chat(audio=sound)
    except (InputError, UnfitReplyError):
        return "", ""
    return reply.transcript, reply.text


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("long_speech", __doc__ or "")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 20.0, 40.0, 60.0], help="of a talk")
    parser.add_argument("--talks", type=int, default=8, help="of each length")
    options = parse(parser, given, seconds=[1.0], talks=1)
    rows: list[dict[str, Any]] = []
    kinds = {"at once": AtOnce, "in windows": Assistant}
    models = {
        name: kind.from_pretrained(options.checkpoint, reply_format=options.reply_format)
        for name, kind in kinds.items()
    }
    for seconds in options.seconds:
        for name, assistant in models.items():
            errors, right = ErrorRate(0, 0), 0
            for sound, said, fact in talks(seconds, options.talks):
                transcript, answer = heard(assistant, sound)
                errors += word_errors(said, transcript)
                right += fact.lower() in answer.lower()
            row = {"seconds": seconds, "read": name, "talks": options.talks}
            rows.append({**row, "words wrong": errors.rate, "answers right": right / options.talks})

    def draw(axes: Axes) -> None:
        for name in kinds:
            chosen = [row for row in rows if row["read"] == name]
            axes.plot([row["seconds"] for row in chosen], [row["words wrong"] for row in chosen], "o-", label=name)
        axes.set_xlabel("seconds of speech")
        axes.set_ylabel("words wrong, of all")
        axes.legend()

    report("long_speech", options, rows, draw)


if __name__ == "__main__":
    run_program(main)
